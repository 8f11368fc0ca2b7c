"""The source's local ports: what it says to a destination, and whole sessions through a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from standins.raw_peer import RawPeer
from standins.source import Source
from standins.tunnel import Tunnel
from standins.tunnel_message import MAX_PAYLOAD, TunnelMessage, Type
from standins.tunneling_service import TunnelingService

IDS = {1: ("", 0), 2: ("SSH", 0), 3: ("SSH", 1)}
"""The service id and connection id of a first connection, by protocol version."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def source_and_destination(
    directory: Path, version: int = 3, services: tuple[str, ...] = ("SSH",)
) -> AsyncIterator[tuple[Source, RawPeer, Tunnel]]:
    """A source with its ports, and a destination by hand."""
    async with TunnelingService(directory) as service:
        tunnel = await service.open_tunnel(services)
        tokens = tunnel.source.token.text, tunnel.destination.token.text
        source = Source(service.endpoint, service.ca_file, tokens[0], version=version)
        destination = RawPeer(service.endpoint, service.ca_file, tokens[1], mode="destination")
        async with source, destination:
            assert (await destination.receive()).type == Type.SERVICE_IDS
            yield source, destination, tunnel


async def dial(source: Source, service_id: str = "SSH") -> Streams:
    """A local connection to one of the source's ports."""
    port = source.ports[service_id if service_id in source.ports else ""]
    return await asyncio.open_connection("127.0.0.1", port)


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    """What still arrives on a local connection until its end."""
    return await asyncio.wait_for(reader.read(), 10)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_the_messages_have_the_ids_of_their_version(tmp_path: Path, version: int) -> None:
    service_id, connection_id = IDS[version]
    async with source_and_destination(tmp_path, version) as (source, destination, _):
        reader, writer = await dial(source)
        ids = (1, service_id, connection_id)
        assert await destination.receive() == TunnelMessage(Type.STREAM_START, *ids)
        writer.write(b"to the device")
        assert await destination.receive() == TunnelMessage(Type.DATA, *ids, b"to the device")
        await destination.send(TunnelMessage(Type.DATA, *ids, b"to the user"))
        assert await asyncio.wait_for(reader.readexactly(11), 10) == b"to the user"
        writer.close()
        end = Type.CONNECTION_RESET if version == 3 else Type.STREAM_RESET
        assert await destination.receive() == TunnelMessage(end, *ids)
        assert source.stale == 0


async def test_v3_connections_share_a_stream(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path) as (source, destination, _):
        first, second = await dial(source), await dial(source)
        started = [await destination.receive(), await destination.receive()]
        assert started == [
            TunnelMessage(Type.STREAM_START, 1, "SSH", 1),
            TunnelMessage(Type.CONNECTION_START, 1, "SSH", 2),
        ]
        await destination.send(
            TunnelMessage(Type.DATA, 1, "SSH", 2, b"two"),
            TunnelMessage(Type.CONNECTION_RESET, 1, "SSH", 2),
            TunnelMessage(Type.DATA, 1, "SSH", 1, b"one"),
        )
        assert await hung_up(second[0]) == b"two"
        assert await asyncio.wait_for(first[0].readexactly(3), 10) == b"one"
        first[1].close()
        second[1].close()
        assert await destination.receive() == TunnelMessage(Type.CONNECTION_RESET, 1, "SSH", 1)
        # The stream outlives its connections.
        _, third = await dial(source)
        assert await destination.receive() == TunnelMessage(Type.CONNECTION_START, 1, "SSH", 3)
        third.close()


async def test_services_have_streams_of_their_own(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path, services=("SSH", "VNC")) as (source, destination, _):
        for service_id in ("SSH", "VNC"):
            _, writer = await dial(source, service_id)
            assert await destination.receive() == TunnelMessage(Type.STREAM_START, 1, service_id, 1)
            writer.close()
            assert (await destination.receive()).type == Type.CONNECTION_RESET


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_reset_stream_is_followed_by_a_new_one(tmp_path: Path, version: int) -> None:
    service_id, connection_id = IDS[version]
    async with source_and_destination(tmp_path, version) as (source, destination, _):
        for stream_id in (1, 2, 3):
            reader, writer = await dial(source)
            start = TunnelMessage(Type.STREAM_START, stream_id, service_id, connection_id)
            assert await destination.receive() == start
            await destination.send(
                TunnelMessage(Type.DATA, stream_id, service_id, connection_id, b"last words"),
                TunnelMessage(Type.STREAM_RESET, stream_id, service_id),
            )
            assert await hung_up(reader) == b"last words"
            writer.close()
        assert source.stale == 0


@pytest.mark.parametrize("version", [1, 2])
async def test_before_v3_a_new_connection_replaces_the_former(tmp_path: Path, version: int) -> None:
    service_id, _ = IDS[version]
    async with source_and_destination(tmp_path, version) as (source, destination, _):
        former_reader, former = await dial(source)
        assert await destination.receive() == TunnelMessage(Type.STREAM_START, 1, service_id)
        _, newer = await dial(source)
        assert await destination.receive() == TunnelMessage(Type.STREAM_START, 2, service_id)
        assert await hung_up(former_reader) == b""
        await destination.send(TunnelMessage(Type.DATA, 1, service_id, 0, b"stale"))
        newer.write(b"new")
        assert await destination.receive() == TunnelMessage(Type.DATA, 2, service_id, 0, b"new")
        former.close()
        newer.close()
        assert await destination.receive() == TunnelMessage(Type.STREAM_RESET, 2, service_id)
        assert source.stale == 1


async def test_a_session_reset_ends_every_connection(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path, services=("SSH", "VNC")) as (source, _, tunnel):
        dialled = [await dial(source, "SSH"), await dial(source, "VNC")]
        await tunnel.source.send(TunnelMessage(Type.SESSION_RESET))
        for reader, writer in dialled:
            assert await hung_up(reader) == b""
            writer.close()


async def test_a_half_close_ends_the_connection_after_its_data(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path) as (source, destination, _):
        reader, writer = await dial(source)
        writer.write(b"all I have")
        writer.write_eof()
        assert (await destination.receive()).type == Type.STREAM_START
        assert (await destination.receive()).payload == b"all I have"
        assert (await destination.receive()).type == Type.CONNECTION_RESET
        assert await hung_up(reader) == b""
        writer.close()


async def test_the_end_of_the_tunnel_ends_the_local_connections(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path) as (source, destination, tunnel):
        reader, writer = await dial(source)
        assert (await destination.receive()).type == Type.STREAM_START
        await tunnel.close()
        assert await hung_up(reader) == b""
        writer.close()
        await source.wait_closed()


async def test_a_local_connection_that_does_not_read_holds_up_the_destination(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path) as (source, destination, _):
        reader, writer = await dial(source)
        start = await destination.receive()
        message = start._replace(type=Type.DATA, payload=bytes(MAX_PAYLOAD))
        sent = 0
        while True:
            sending = asyncio.ensure_future(destination.send(message, message))
            done, _ = await asyncio.wait({sending}, timeout=0.5)
            if not done:
                break
            sent += 2
            assert sent < 1024, "nothing holds the destination up"
        for _ in range(sent + 2):
            await asyncio.wait_for(reader.readexactly(MAX_PAYLOAD), 10)
        await sending
        writer.close()


async def test_leaving_does_not_wait_for_a_local_connection_that_does_not_read(tmp_path: Path) -> None:
    async with source_and_destination(tmp_path) as (source, destination, _):
        _, writer = await dial(source)
        start = await destination.receive()
        message = start._replace(type=Type.DATA, payload=bytes(MAX_PAYLOAD))
        sending = asyncio.ensure_future(send_for_ever(destination, message))
        await asyncio.wait({sending}, timeout=0.5)
    sending.cancel()
    writer.close()


async def send_for_ever(destination: RawPeer, message: TunnelMessage) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await destination.send(message)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_http_sessions_through_the_tunnel(tmp_path: Path, version: int) -> None:
    body = hashlib.sha512(b"page").digest() * 40_000  # 2.4 MiB

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET / ")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with source_and_destination(tmp_path, version) as (source, destination, _):
        local = await asyncio.start_server(page, "127.0.0.1", 0)
        serving = asyncio.ensure_future(serve_to(destination, local.sockets[0].getsockname()[1]))
        for _ in range(3):
            reader, writer = await dial(source)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            head, _, received = (await hung_up(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert received == body
            writer.close()
        serving.cancel()
        local.close()


async def serve_to(destination: RawPeer, port: int) -> None:
    """The smallest destination there is: one connection at a time."""
    writer: Any = None
    while True:
        message = await destination.receive(60)
        if message.type in (Type.STREAM_START, Type.CONNECTION_START):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        elif message.type == Type.DATA:
            writer.write(message.payload)
            while data := await reader.read(MAX_PAYLOAD):
                await destination.send(message._replace(payload=data))
            end = Type.CONNECTION_RESET if message.connection_id else Type.STREAM_RESET
            await destination.send(message._replace(type=end, payload=b""))
            writer.close()
