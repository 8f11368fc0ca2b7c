"""The built-in localproxy as a process: how its tunnel connection comes about, ends, and comes back."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Callable

import pytest

from standins.hostile_service import Hostile
from standins.proxy_process import (
    CLIENT_TOKEN,
    LocalService,
    ProxyProcess,
    echo,
    scenario,
    until,
)
from standins.tunnel_message import TunnelMessage as M
from standins.tunnel_message import Type
from standins.tunneling_service import TunnelingService

CONNECTED = "\\[info\\] Successfully established websocket connection with proxy server: wss://localhost:"
START = M(Type.STREAM_START, 1, "SSH", 1)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize("status", [301, 307, 400, 403, 404, 429])
@scenario()
async def test_a_refusal_is_final_and_told_truly(tmp_path: Path, status: int) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        await service.refuse_next(1, status, "Not \x1b[31mtoday", [("Location", "https://example.com/")])
        async with ProxyProcess(service, tunnel, "1", client_token=CLIENT_TOKEN) as proxy:
            assert await proxy.exit_code() == 1
            line = await proxy.line("Proxy server rejected")
            assert re.search(
                "\\[error\\] Proxy server rejected web socket upgrade request: "
                f'\\(HTTP/1.1 {status} [A-Z][A-Za-z ]+\\) "Not \\\\x1b\\[31mtoday"$',
                line,
            )
            await proxy.line(f"session ID: {service.handshakes[0].channel_id}")
        assert len(service.handshakes) == 1


@scenario()
async def test_a_used_token_is_refused(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, "1") as first:
            await first.line(CONNECTED)
            async with ProxyProcess(service, tunnel, "1") as second:
                assert await second.exit_code() == 1
                await second.line("403 Forbidden.*previously used")
            assert first.process.returncode is None


@scenario()
async def test_the_request(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, "1", client_token=CLIENT_TOKEN) as proxy:
            await proxy.line(CONNECTED)
        (handshake,) = service.handshakes
        assert handshake.path == "/tunnel?local-proxy-mode=destination"
        assert handshake.header("access-token") == [tunnel.destination.token.text]
        assert handshake.header("client-token") == [CLIENT_TOKEN]
        assert handshake.header("host") == [service.endpoint]
        assert not handshake.header("sec-websocket-extensions")


@scenario()
async def test_server_errors_are_tried_again(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        await service.refuse_next(2, 503, "Later")
        async with ProxyProcess(service, tunnel, "1") as proxy:
            await proxy.line(CONNECTED)
            assert len(service.handshakes) == 3
            waits = [float(found[1]) for line in proxy.lines if (found := re.search(r"in ([\d.]+) s", line))]
            assert 0.5 <= waits[0] <= 1.0
            assert 1.0 <= waits[1] <= 2.0
            await proxy.line('\\[error\\] Could not connect.*503 Service Unavailable\\) "Later"')


@pytest.mark.parametrize("how", ["close", "rotate", "odd"])
@scenario()
async def test_a_close_by_the_service_is_a_success(tmp_path: Path, how: str) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        destination = f"SSH={local.address}"
        async with ProxyProcess(service, tunnel, destination, client_token=CLIENT_TOKEN) as proxy:
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(START, M(Type.DATA, 1, "SSH", 1, b"x" * 60_000))
            connection = await local.accepted()
            if how == "close":
                await tunnel.close()
            elif how == "rotate":
                await tunnel.rotate()
            else:
                await tunnel.destination.hang_up(4001, "odd")
            assert await connection.rest() == b"x" * 60_000
            connection.close()
            assert await proxy.exit_code() == 0
            await proxy.line("\\[info\\] The service closed the tunnel connection \\(code (1000|4001): ")


@scenario()
async def test_a_lost_connection_without_client_token_is_the_end(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(START)
            connection = await local.accepted()
            await tunnel.destination.cut()
            assert await connection.rest() == b""
            connection.close()
            assert await proxy.exit_code() == 1
            await proxy.line("\\[error\\] Lost the tunnel connection: Connection reset.*--client-token")


@scenario()
async def test_a_lost_connection_comes_back_with_its_client_token(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        destination = f"SSH={local.address}"
        async with ProxyProcess(service, tunnel, destination, client_token=CLIENT_TOKEN) as proxy:
            for times in (1, 2, 3):
                await tunnel.destination.wait_connected(times)
                await tunnel.destination.send(START, M(Type.DATA, 1, "SSH", 1, b"%d" % times))
                connection = await local.accepted()
                assert await connection.receive(1) == b"%d" % times
                # The beginning of a message that is cut off is forgotten with its connection.
                whole = M(Type.DATA, 1, "SSH", 1, b"cut off").encode()
                await tunnel.destination.send_frame(whole[:-3])
                await tunnel.destination.cut()
                assert await connection.rest() == b""
                connection.close()
            await tunnel.destination.wait_connected(4)
            await tunnel.close()
            assert await proxy.exit_code() == 0


@scenario()
async def test_the_end_of_the_tunnel_is_noticed_on_coming_back(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, "1", client_token=CLIENT_TOKEN) as proxy:
            await tunnel.destination.wait_connected()
            tunnel.closed = True
            await tunnel.destination.cut()
            assert await proxy.exit_code() == 1
            await proxy.line("403 Forbidden.*closed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["serving", "stalled", "waiting", "connecting"])
@scenario()
async def test_a_signal_ends_it_promptly(tmp_path: Path, number: signal.Signals, when: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    hostile = Hostile(tmp_path, silent)
    async with TunnelingService(tmp_path) as service, hostile, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        endpoint = {"waiting": "localhost:9", "connecting": hostile.endpoint}.get(when, "")
        ca = hostile.ca if endpoint else ""
        proxy = ProxyProcess(service, tunnel, f"SSH={local.address}", endpoint=endpoint, ca=ca)
        async with proxy:
            connection = None
            if when in ("serving", "stalled"):
                await tunnel.destination.wait_connected()
                await tunnel.destination.send(START)
                connection = await local.accepted()
            elif when == "waiting":
                await proxy.line("Trying again")
            else:
                await until(lambda: bool(hostile.requests), "the request came")
            if when == "stalled" and connection:
                await tunnel.destination.pause()
                connection.writer.write(bytes(20_000_000))
                await asyncio.sleep(0.3)
            begun = asyncio.get_running_loop().time()
            proxy.process.send_signal(number)
            assert await proxy.exit_code() == -number
            assert asyncio.get_running_loop().time() - begun < 1.5
            if connection and when == "serving":
                assert await connection.rest() == b""


@scenario()
async def test_a_signal_does_not_wait_for_a_local_service(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(START)
            connection = await local.accepted()
            connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(100):
                await tunnel.destination.send(M(Type.DATA, 1, "SSH", 1, bytes(60_000)))
            await tunnel.close()
            await proxy.line("debug")
            await asyncio.sleep(0.3)
            assert proxy.process.returncode is None  # it waits for the service to take all of it
            begun = asyncio.get_running_loop().time()
            proxy.process.terminate()
            await proxy.exit_code()
            assert asyncio.get_running_loop().time() - begun < 1.5


@scenario()
async def test_a_reader_of_stderr_that_sleeps_does_not_stop_the_tunnel(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService(echo) as local:
        tunnel = await service.open_tunnel(["SSH"])
        destination = f"SSH={local.address}"
        async with ProxyProcess(service, tunnel, destination, read_stderr=False) as proxy:
            await tunnel.destination.wait_connected()
            # Every second of these is answered, which is worth a line: far more than a pipe holds.
            again = M(Type.CONNECTION_START, 1, "SSH", 2).encode()
            await tunnel.destination.send(START)
            for _ in range(40):
                await tunnel.destination.send_frame(again * 100)
            received = bytearray()
            arrived = asyncio.Event()

            async def take(whole: bytes) -> None:
                received.extend(whole)
                if b"still alive" in received:
                    arrived.set()

            tunnel.source.sink = take
            await tunnel.destination.send(M(Type.DATA, 1, "SSH", 1, b"still alive"))
            await asyncio.wait_for(arrived.wait(), 10)
            assert proxy.process.returncode is None
        await proxy.line("Sending")
        assert len(proxy.lines) < 2000


@scenario()
async def test_tokens_stay_out_of_sight(tmp_path: Path) -> None:
    """Not in the arguments; echoed back by the service, still not in the log (checked for every test)."""
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        token = tunnel.destination.token.text
        async with ProxyProcess(service, tunnel, "1", client_token=CLIENT_TOKEN) as proxy:
            await proxy.line(CONNECTED)
            arguments = Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes()
            assert token.encode() not in arguments
            assert CLIENT_TOKEN.encode() not in arguments
            await tunnel.destination.hang_up(1000, f"bye {CLIENT_TOKEN}")
            assert await proxy.exit_code() == 0
            await proxy.line("bye \\*\\*\\*")
        await service.refuse_next(1, 403, f"no {token} {CLIENT_TOKEN}")
        async with ProxyProcess(service, tunnel, "1", client_token=CLIENT_TOKEN) as proxy:
            await proxy.line('"no \\*\\*\\* \\*\\*\\*"')
            assert await proxy.exit_code() == 1
