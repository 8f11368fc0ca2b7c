"""The C++ localproxy, where LOCALPROXY names one: as a source, and as a destination."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standins.proxy_process import LocalService, ProxyProcess, echo, scenario
from standins.source import Source
from standins.tunnel import Tunnel
from standins.tunneling_service import TunnelingService

BINARY = os.environ.get("LOCALPROXY", "")

pytestmark = pytest.mark.skipif(not BINARY, reason="LOCALPROXY names no C++ localproxy to interoperate with")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def cpp_source(
    service: TunnelingService, tunnel: Tunnel, folder: Path, listen: str, *arguments: str
) -> AsyncIterator[None]:
    """The binary in source mode; its log is shown with a test that fails."""
    log = folder / "source.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(BINARY, "-s", listen, "-e", service.endpoint, "-c", str(service.ca_directory)),
            *("-b", "127.0.0.1", "-v", "5", *arguments),
            env={"AWSIOT_TUNNEL_ACCESS_TOKEN": tunnel.source.token.text},
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        await tunnel.source.wait_connected()
        yield
    finally:
        print(log.read_text())
        print("the source had ended by itself:", process.returncode)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def connected(port: int, timeout: float = 10) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a port that will soon listen."""
    end = asyncio.get_running_loop().time() + timeout
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(0.05)


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    """So many bytes come back, sent in pieces that the binary's buffers can hold."""
    with contextlib.closing(writer):
        for _ in range(max(1, size // 60_000)):
            block = os.urandom(min(size, 60_000))
            writer.write(block)
            assert await asyncio.wait_for(reader.readexactly(len(block)), 10) == block


async def exchanged(port: int, size: int, attempts: int = 1) -> None:
    """A connection that gets back what it sends.

    More than one attempt is for a source in V1 or V2 form: while it is still ending one connection it
    ends the next one too, by itself.
    """
    for attempt in range(attempts):
        try:
            await echoed(*await connected(port), size)
            return
        except (asyncio.IncompleteReadError, ConnectionResetError):
            if attempt == attempts - 1:
                raise
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("version", ["V1", "V2", "V3"])
@scenario(60)
async def test_cpp_source_and_built_in_destination(tmp_path: Path, version: str) -> None:
    port = free_port()
    async with TunnelingService(tmp_path) as service, LocalService(echo) as local:
        tunnel = await service.open_tunnel(["SSH"])
        arguments = ("-y", version) if version != "V3" else ()
        listen = str(port) if version == "V1" else f"SSH={port}"
        async with ProxyProcess(service, tunnel, f"SSH={local.address}"):
            await tunnel.destination.wait_connected()
            async with cpp_source(service, tunnel, tmp_path, listen, *arguments):
                for size in (1, 1_000_000, 1000):
                    await exchanged(port, size, attempts=20 if version != "V3" else 1)
                if version == "V3":
                    connections = []
                    for number in range(1, 6):
                        # One after the other: the binary's backlog is next to nothing.
                        connections.append(await connected(port))
                        connections[-1][1].write(b"?")
                        assert await connections[-1][0].readexactly(1) == b"?", number
                    await asyncio.gather(*(echoed(*connection, 300_000) for connection in connections))
                assert [handshake.violation for handshake in service.handshakes] == ["", ""]


@scenario(60)
async def test_cpp_source_with_two_services(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    async with TunnelingService(tmp_path) as service, LocalService(echo) as ssh, LocalService(echo) as vnc:
        tunnel = await service.open_tunnel(["SSH", "VNC"])
        async with ProxyProcess(service, tunnel, f"SSH={ssh.address},VNC={vnc.address}"):
            await tunnel.destination.wait_connected()
            async with cpp_source(service, tunnel, tmp_path, f"SSH={ports[0]},VNC={ports[1]}"):
                for _ in range(2):
                    await asyncio.gather(*(exchanged(port, 500_000) for port in ports))
                assert ssh.connections == vnc.connections == 2


@scenario(60)
async def test_an_end_on_the_device_reaches_the_cpp_source(tmp_path: Path) -> None:
    port = free_port()
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}"):
            await tunnel.destination.wait_connected()
            async with cpp_source(service, tunnel, tmp_path, f"SSH={port}"):
                for _ in range(3):
                    reader, writer = await connected(port)
                    writer.write(b"?")
                    connection = await local.accepted()
                    assert await connection.receive(1) == b"?"
                    await connection.send(b"x" * 500_000)
                    connection.close()
                    assert await asyncio.wait_for(reader.read(), 10) == b"x" * 500_000
                    writer.close()


@pytest.mark.parametrize("version", [1, 2, 3])
@scenario(60)
async def test_cpp_destination_and_the_stand_ins(tmp_path: Path, version: int) -> None:
    """The service and source that the built-in is tried with are such as the binary takes for real."""
    async with TunnelingService(tmp_path) as service, LocalService(echo) as local:
        tunnel = await service.open_tunnel(["SSH"])
        arguments = ("-y", f"V{version}") if version < 3 else ()
        destination = f"SSH={local.address}"
        async with ProxyProcess(service, tunnel, destination, *arguments, command=[BINARY], verbosity=5):
            await tunnel.destination.wait_connected()
            async with Source(
                service.endpoint, service.ca_file, tunnel.source.token.text, version=version
            ) as source:
                (port,) = source.ports.values()
                for size in (1, 1_000_000):
                    await exchanged(port, size)


@scenario(60)
async def test_both_tell_success_and_refusal_alike(tmp_path: Path) -> None:
    lines = []
    async with TunnelingService(tmp_path) as service:
        for command in ([], [BINARY]):
            tunnel = await service.open_tunnel(["SSH"])
            async with ProxyProcess(service, tunnel, "SSH=1", command=command) as proxy:
                lines.append(await proxy.line("Successfully established"))
                await service.refuse_next(1, 403, "Invalid token")
                async with ProxyProcess(service, tunnel, "SSH=1", command=command) as refused:
                    lines.append(await refused.line("rejected"))
    texts = [line.partition(") ")[2] for line in lines]
    assert texts[0] == texts[2]
    assert texts[1] == texts[3]
