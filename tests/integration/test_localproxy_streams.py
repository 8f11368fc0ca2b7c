"""The built-in localproxy as a process: streams and connections, by a source that can say anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Optional

import pytest

from standins.proxy_process import LocalService, ProxyProcess, echo, scenario, until
from standins.raw_peer import RawPeer
from standins.source import Source
from standins.tunnel import Tunnel
from standins.tunnel_message import TunnelMessage as M
from standins.tunnel_message import Type
from standins.tunneling_service import TunnelingService


@contextlib.asynccontextmanager
async def proxied(
    folder: Path, destination: str, *arguments: str, services: tuple[str, ...] = ("SSH",)
) -> AsyncIterator[tuple[ProxyProcess, RawPeer, Tunnel]]:
    """A connected localproxy, and the tunnel's source by hand."""
    async with TunnelingService(folder) as service:
        tunnel = await service.open_tunnel(services)
        async with ProxyProcess(service, tunnel, destination, *arguments) as proxy:
            await tunnel.destination.wait_connected()
            async with RawPeer(service.endpoint, service.ca_file, tunnel.source.token.text) as source:
                if services:
                    assert (await source.receive()).type == Type.SERVICE_IDS
                yield proxy, source, tunnel


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("forced", [False, True])
@scenario()
async def test_a_source_of_each_version(tmp_path: Path, version: int, forced: bool) -> None:
    arguments = ("-y", f"V{version}") if forced else ()
    async with TunnelingService(tmp_path) as service, LocalService(echo) as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with (
            ProxyProcess(service, tunnel, f"SSH={local.address}", *arguments),
            Source(service.endpoint, service.ca_file, tunnel.source.token.text, version=version) as source,
        ):
            (port,) = source.ports.values()
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                sent = b"hello" * 50_000
                writer.write(sent)
                assert await reader.readexactly(len(sent)) == sent
                writer.close()
            assert source.stale == 0


@pytest.mark.parametrize(
    ("services", "destination", "form", "ids"),
    [
        ((), "{}", None, ("", 0)),
        ((), "{}", None, ("", 1)),
        (("SSH",), "{}", None, ("SSH", 1)),
        (("SSH",), "SSH={}", "V1", ("", 0)),
        (("SSH",), "SSH={}", "V2", ("SSH", 0)),
    ],
)
@scenario()
async def test_answers_carry_the_ids_that_were_sent(
    tmp_path: Path, services: tuple[str, ...], destination: str, form: Optional[str], ids: tuple[str, int]
) -> None:
    arguments = ("-y", form) if form else ()
    async with LocalService() as local:
        destination = destination.format(local.address)
        async with proxied(tmp_path, destination, *arguments, services=services) as (_, source, _t):
            await source.send(M(Type.STREAM_START, 4, *ids))
            connection = await local.accepted()
            await connection.send(b"x")
            assert await source.receive() == M(Type.DATA, 4, *ids, payload=b"x")
            connection.close()
            kind = Type.CONNECTION_RESET if ids[1] else Type.STREAM_RESET
            assert await source.receive() == M(kind, 4, *ids)


@scenario()
async def test_early_data_waits_for_the_local_service(tmp_path: Path) -> None:
    async with LocalService() as placeholder:
        address = placeholder.address
    port = int(address.rpartition(":")[2])
    # Nobody listens there now.
    async with proxied(tmp_path, f"SSH={address}") as (_, source, _t):
        await source.send(
            M(Type.STREAM_START, 1, "SSH", 1),
            *(M(Type.DATA, 1, "SSH", 1, bytes([number]) * 1000) for number in range(50)),
        )
        await asyncio.sleep(0.4)
        async with LocalService(port=port) as local:
            connection = await local.accepted()
            expected = b"".join(bytes([number]) * 1000 for number in range(50))
            assert await connection.receive(50_000) == expected


@pytest.mark.parametrize("kind", [Type.STREAM_RESET, Type.CONNECTION_RESET, Type.SESSION_RESET])
@scenario()
async def test_a_reset_flushes_what_came_before(tmp_path: Path, kind: Type) -> None:
    async with LocalService() as local, proxied(tmp_path, f"SSH={local.address}") as (_, source, tunnel):
        reset = M(kind) if kind == Type.SESSION_RESET else M(kind, 1, "SSH", 1)
        # From the service itself: no source may send a SESSION_RESET.
        await tunnel.destination.send(
            M(Type.STREAM_START, 1, "SSH", 1), M(Type.DATA, 1, "SSH", 1, b"last words"), reset
        )
        connection = await local.accepted()
        assert await connection.rest() == b"last words"
        # What the local service says now is nobody's.
        await connection.send(b"too late")
        connection.close()
        await source.send(M(Type.STREAM_START, 2, "SSH", 1), M(Type.DATA, 2, "SSH", 1, b"new"))
        second = await local.accepted()
        assert await second.receive(3) == b"new"
        await second.send(b"answer")
        assert await source.receive() == M(Type.DATA, 2, "SSH", 1, b"answer")


@scenario()
async def test_nothing_stale_reaches_a_local_service(tmp_path: Path) -> None:
    async with LocalService() as ssh, LocalService() as vnc:
        destination = f"SSH={ssh.address},VNC={vnc.address}"
        async with proxied(tmp_path, destination, services=("SSH", "VNC")) as (proxy, source, _):
            await source.send(M(Type.STREAM_START, 1, "SSH", 1), M(Type.STREAM_START, 1, "VNC", 1))
            first, other = await ssh.accepted(), await vnc.accepted()
            # Replaces the older stream of SSH, not that of VNC.
            await source.send(M(Type.STREAM_START, 2, "SSH", 1))
            assert await first.rest() == b""
            second = await ssh.accepted()
            stale = M(Type.DATA, 1, "SSH", 1, b"STALE")
            await source.send(
                stale,
                stale._replace(stream_id=3),
                stale._replace(stream_id=2, connection_id=2),
                stale._replace(stream_id=1, service_id="FTP"),
                stale._replace(stream_id=2, service_id=""),
                M(Type.STREAM_RESET, 1, "SSH"),
                M(Type.CONNECTION_RESET, 2, "SSH", 9),
                M(Type.CONNECTION_START, 1, "SSH", 5),
                M(99, 1, ignorable=True),
                M(Type.DATA, 2, "SSH", 1, b"fresh"),
                M(Type.DATA, 1, "VNC", 1, b"other"),
            )
            assert await second.receive(5) == b"fresh"
            assert await other.receive(5) == b"other"
            assert (ssh.connections, vnc.connections) == (2, 1)
            assert proxy.process.returncode is None


@scenario()
async def test_connections_of_one_stream_are_their_own(tmp_path: Path) -> None:
    async with LocalService() as local, proxied(tmp_path, f"SSH={local.address}") as (_, source, _t):
        await source.send(M(Type.STREAM_START, 1, "SSH", 1))
        connections = {1: await local.accepted()}
        for number in (2, 3, 4):
            await source.send(M(Type.CONNECTION_START, 1, "SSH", number))
            connections[number] = await local.accepted()
        for number, connection in connections.items():
            await source.send(M(Type.DATA, 1, "SSH", number, b"%d" % number))
            assert await connection.receive(1) == b"%d" % number
        # The local service ends one, after its last words; the peer another; a third is opened twice.
        await connections[2].send(b"z" * 200_000)
        connections[2].close()
        received = b""
        while (message := await source.receive()).type == Type.DATA:
            assert message.connection_id == 2
            received += message.payload
        assert received == b"z" * 200_000
        assert message == M(Type.CONNECTION_RESET, 1, "SSH", 2)
        await source.send(M(Type.CONNECTION_RESET, 1, "SSH", 3))
        assert await connections[3].rest() == b""
        await source.send(M(Type.CONNECTION_START, 1, "SSH", 4))
        assert await source.receive() == M(Type.CONNECTION_RESET, 1, "SSH", 4)
        assert await connections[4].rest() == b""
        await connections[1].send(b"still here")
        assert await source.receive() == M(Type.DATA, 1, "SSH", 1, b"still here")


@scenario()
async def test_a_service_that_is_down_is_told_in_time_and_holds_up_nobody(tmp_path: Path) -> None:
    async with LocalService(echo) as up, LocalService() as placeholder:
        down = placeholder.address
        await placeholder.__aexit__(None, None, None)
        destination = f"UP={up.address},DOWN={down},SOCKET={tmp_path}/none.sock"
        services = ("UP", "DOWN", "SOCKET")
        async with proxied(tmp_path, destination, services=services) as (proxy, source, _):
            begun = asyncio.get_running_loop().time()
            await source.send(*(M(Type.STREAM_START, 1, name, 1) for name in services))
            await source.send(M(Type.DATA, 1, "UP", 1, b"ping"))
            assert await source.receive() == M(Type.DATA, 1, "UP", 1, b"ping")
            resets = {(await source.receive(14)).service_id for _ in range(2)}
            assert resets == {"DOWN", "SOCKET"}
            assert asyncio.get_running_loop().time() - begun < 12
            await proxy.line(f"Could not connect to {down} .*Connection refused")
            await proxy.line("Could not connect to .*none.sock .*No such file")


@pytest.mark.parametrize(
    ("destination", "services", "named"),
    [("SSH=1", ("SSH", "VNC"), "VNC"), ("1", ("SSH", "VNC"), "VNC"), ("FTP=1", ("SSH",), "SSH")],
)
@scenario()
async def test_a_service_without_destination_ends_it(
    tmp_path: Path, destination: str, services: tuple[str, ...], named: str
) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(services)
        async with ProxyProcess(service, tunnel, destination) as proxy:
            assert await proxy.exit_code() == 1
            await proxy.line(f"\\[fatal\\] no destination for service id {named} ")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("text", 1003),
        (b"\x00\x00", 1002),
        (b"\x00\x02\x08\xff", 1002),
        (b"\x00\x03\x22\x09x", 1002),
        (M(77, 1).encode(), 1002),
        (M(Type.STREAM_START, 0, "SSH", 1).encode(), 1002),
        (b"\x00\x04\x2a\x02\xc3\x28", 1002),
        (b"\x16\x03\x01" * 40_000, 1002),
    ],
)
@scenario()
async def test_garbage_ends_the_connection_and_nothing_else(
    tmp_path: Path, frame: bytes | str, code: int
) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(
                M(Type.STREAM_START, 1, "SSH", 1), M(Type.DATA, 1, "SSH", 1, b"before")
            )
            connection = await local.accepted()
            await tunnel.destination.send_frame(frame)
            assert await connection.rest() == b"before"
            connection.close()
            assert await proxy.exit_code() == 1
            await proxy.line(f"\\[error\\] The service broke the protocol, .*\\({code}\\)")
            await until(lambda: service.handshakes[0].close_code is not None, "the service saw a close")
            assert service.handshakes[0].close_code == code


@scenario()
async def test_messages_may_be_cut_anywhere(tmp_path: Path) -> None:
    async with LocalService(echo) as local, proxied(tmp_path, f"SSH={local.address}") as (_, source, tunnel):
        tunnel.destination.frame_size = 3
        sent = bytes(range(256)) * 8
        await source.send(M(Type.STREAM_START, 1, "SSH", 1), M(Type.DATA, 1, "SSH", 1, sent))
        received = b""
        while len(received) < len(sent):
            received += (await source.receive()).payload
        assert received == sent


@pytest.mark.parametrize("kind", ["unix", "ipv6", "localhost", "bind"])
@scenario()
async def test_kinds_of_destination(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "s") if kind == "unix" else ""
    host = {"ipv6": "::1", "localhost": "::1"}.get(kind, "127.0.0.1")
    async with LocalService(path=path, host=host) as local:
        address = local.address.rpartition(":")[2] if kind == "localhost" else local.address
        arguments = ("-b", "127.0.0.9") if kind == "bind" else ()
        async with proxied(tmp_path, f"SSH={address}", *arguments) as (_, source, _t):
            await source.send(M(Type.STREAM_START, 1, "SSH", 1), M(Type.DATA, 1, "SSH", 1, b"hello"))
            connection = await local.accepted()
            assert await connection.receive(5) == b"hello"
            if kind == "bind":
                assert connection.writer.get_extra_info("peername")[0] == "127.0.0.9"


@scenario()
async def test_too_many_connections_are_refused_one_by_one(tmp_path: Path) -> None:
    async with LocalService(echo) as local, proxied(tmp_path, f"SSH={local.address}") as (_, source, _t):
        await source.send(M(Type.STREAM_START, 1, "SSH", 1))
        for start in range(2, 602, 100):
            await source.send(*(M(Type.CONNECTION_START, 1, "SSH", n) for n in range(start, start + 100)))
        refused = {(await source.receive()).connection_id for _ in range(101)}
        assert len(refused) == 101
        (survivor,) = {1} - refused
        await source.send(M(Type.DATA, 1, "SSH", survivor, b"ping"))
        assert await source.receive() == M(Type.DATA, 1, "SSH", survivor, b"ping")
