"""The built-in localproxy as a process: backpressure both ways, and memory that stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path

from standins.proxy_process import LocalConnection, LocalService, ProxyProcess, scenario, until
from standins.tunnel import Tunnel
from standins.tunnel_message import MAX_FRAME, MAX_PAYLOAD, MessageSplitter, Type, bodies
from standins.tunnel_message import TunnelMessage as M
from standins.tunneling_service import TunnelingService

MIB = 1 << 20
BOUND = 64
"""MiB that a localproxy may have resident, whatever is pushed."""

START = M(Type.STREAM_START, 1, "SSH", 1)


def data(payload: bytes, connection_id: int = 1) -> M:
    return M(Type.DATA, 1, "SSH", connection_id, payload)


async def push(tunnel: Tunnel, content: bytes, connection_id: int = 1) -> None:
    """Content towards the device, as fast as it is taken."""
    view = memoryview(content)
    for start in range(0, len(content), 2 * MAX_PAYLOAD):
        pieces = (view[at : at + MAX_PAYLOAD] for at in (start, start + MAX_PAYLOAD))
        await tunnel.destination.send(*(data(bytes(piece), connection_id) for piece in pieces if piece))


class Sink:
    """Takes what comes for the source, inside the service."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.received: dict[int, bytearray] = {}
        self._splitter = MessageSplitter()
        tunnel.source.sink = self._take

    def of(self, connection_id: int = 1) -> bytearray:
        return self.received.setdefault(connection_id, bytearray())

    async def _take(self, whole: bytes) -> None:
        for body in bodies(whole):
            message = M.parse(body)
            if message.type == Type.DATA:
                self.of(message.connection_id).extend(message.payload)


async def started(service: TunnelingService, local: LocalService) -> tuple[Tunnel, LocalConnection]:
    tunnel = service.tunnels[-1]
    await tunnel.destination.wait_connected()
    await tunnel.destination.send(START)
    return tunnel, await local.accepted()


@scenario(60)
async def test_64_mib_to_a_service_that_pauses(tmp_path: Path) -> None:
    content = os.urandom(64 * MIB)
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, connection = await started(service, local)
            pushing = asyncio.ensure_future(push(tunnel, content))
            received = hashlib.sha256(await connection.receive(8 * MIB))
            connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(3)
            assert not pushing.done()  # the source has been stopped
            connection.reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(7):
                received.update(await connection.receive(8 * MIB))
            await pushing
            assert received.digest() == hashlib.sha256(content).digest()
            assert proxy.resident < BOUND, proxy.resident
            # Whoever closes the tunnel right after the last byte loses none of the other way's.
            await connection.send(b"done")
            await tunnel.close()
            connection.close()
            assert await proxy.exit_code() == 0


@scenario(60)
async def test_64_mib_from_a_service_while_the_tunnel_pauses(tmp_path: Path) -> None:
    content = os.urandom(64 * MIB)
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, connection = await started(service, local)
            sink = Sink(tunnel)
            sending = asyncio.ensure_future(connection.send(content))
            await until(lambda: len(sink.of()) > 8 * MIB, "8 MiB arrived")
            await tunnel.destination.pause()
            await asyncio.sleep(3)
            assert not sending.done()  # the local service has been stopped
            await tunnel.destination.resume()
            await sending
            connection.close()
            await until(lambda: len(sink.of()) == len(content), "all arrived", 30)
            assert hashlib.sha256(sink.of()).digest() == hashlib.sha256(content).digest()
            assert proxy.resident < BOUND, proxy.resident


@scenario(60)
async def test_both_ways_at_once(tmp_path: Path) -> None:
    content = os.urandom(32 * MIB)
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, connection = await started(service, local)
            sink = Sink(tunnel)
            tasks = [
                asyncio.ensure_future(push(tunnel, content)),
                asyncio.ensure_future(connection.send(content)),
            ]
            assert await connection.receive(len(content), 30) == content
            await asyncio.gather(*tasks)
            await until(lambda: len(sink.of()) == len(content), "all arrived", 30)
            assert sink.of() == content
            assert proxy.resident < BOUND, proxy.resident


@scenario(60)
async def test_a_stalled_connection_holds_up_others_only_when_its_buffer_is_full(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, stalled = await started(service, local)
            sink = Sink(tunnel)
            stalled.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await tunnel.destination.send(M(Type.CONNECTION_START, 1, "SSH", 2))
            other = await local.accepted()
            # More than the kernel takes for the stalled one, but less than its buffer holds.
            content = os.urandom(3 * MIB)
            await push(tunnel, content)
            await tunnel.destination.send(data(b"ping", 2))
            assert await other.receive(4) == b"ping"
            # Now it is full: the tunnel stops, and goes on where it was once the service reads again.
            more = os.urandom(64 * MIB)
            pushing = asyncio.ensure_future(push(tunnel, more))
            await asyncio.sleep(1)
            assert not pushing.done()
            # The other way is not held up.
            await other.send(b"from the device")
            await until(lambda: sink.of(2) == b"from the device", "the other way")
            stalled.reader._transport.resume_reading()  # type: ignore[attr-defined]
            assert await stalled.receive(len(content)) == content
            assert await stalled.receive(len(more), 30) == more
            await pushing
            assert proxy.resident < BOUND, proxy.resident


@scenario(60)
async def test_memory_is_bounded_for_many_stalled_connections_and_tiny_messages(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, first = await started(service, local)
            connections = [first]
            for number in range(2, 41):
                await tunnel.destination.send(M(Type.CONNECTION_START, 1, "SSH", number))
                connections.append(await local.accepted())
            for connection in connections:
                connection.reader._transport.pause_reading()  # type: ignore[attr-defined]

            async def flood() -> None:
                tiny = data(b"x").encode()
                frame = tiny * (MAX_FRAME // len(tiny))
                for _ in range(20):
                    await tunnel.destination.send_frame(frame)
                block = bytes(5 * MIB)  # of which the kernel takes a part
                for number in range(1, 41):
                    await push(tunnel, block, number)

            flooding = asyncio.ensure_future(flood())
            await asyncio.sleep(3)
            assert not flooding.done()
            assert proxy.resident < BOUND, proxy.resident
            await tunnel.destination.cut()
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


@scenario(60)
async def test_a_peer_that_pings_without_reading_costs_no_memory(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service, LocalService() as local:
        tunnel = await service.open_tunnel(["SSH"])
        async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
            tunnel, connection = await started(service, local)
            await tunnel.destination.pause()
            sending = asyncio.ensure_future(connection.send(bytes(32 * MIB)))
            websocket = tunnel.destination.connection
            assert websocket

            async def flood() -> None:
                for number in range(200_000):
                    await websocket.ping(b"%0125d" % number)

            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(flood(), 4)
            assert proxy.resident < BOUND, proxy.resident
            assert proxy.process.returncode is None
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
