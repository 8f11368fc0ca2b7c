"""The stand-in service lets in whom AWS lets in, relays, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from standins.raw_peer import RawPeer
from standins.tunnel import Tunnel
from standins.tunnel_message import MAX_FRAME, MAX_PAYLOAD, TunnelMessage, Type, data_frame
from standins.tunneling_service import TunnelingService

CLIENT_TOKEN = "0123456789abcdef0123456789ABCDEF-"
START = TunnelMessage(Type.STREAM_START, 1, "SSH", 1)
MANY = 512
"""Frames of 126 KiB."""
DATA = TunnelMessage(Type.DATA, 1, "SSH", 1, b"hello")


def peer(service: TunnelingService, tunnel: Tunnel, mode: str, **more: Any) -> RawPeer:
    """One side, not yet connected."""
    return RawPeer(service.endpoint, service.ca_file, tunnel.side(mode).token.text, mode=mode, **more)


@contextlib.asynccontextmanager
async def both_sides(directory: Path) -> AsyncIterator[tuple[Tunnel, RawPeer, RawPeer]]:
    """A tunnel, its source and its destination, greeted."""
    async with TunnelingService(directory) as service:
        tunnel = await service.open_tunnel(["SSH"])
        async with (
            peer(service, tunnel, "source") as source,
            peer(service, tunnel, "destination") as destination,
        ):
            await source.receive()
            await destination.receive()
            yield tunnel, source, destination


async def ended(one: RawPeer) -> ConnectionClosed:
    """How the connection ended, once it has."""
    with pytest.raises(ConnectionClosed) as caught:
        await one.receive()
    return caught.value


async def test_the_notification_is_the_documented_one(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH", "VNC"])
        assert tunnel.notification == {
            "clientAccessToken": tunnel.destination.token.text,
            "clientMode": "destination",
            "region": "eu-central-1",
            "services": ["SSH", "VNC"],
        }
        assert len(tunnel.destination.token.text) == 600
        with pytest.raises(ValueError, match="without services"):
            _ = (await service.open_tunnel()).notification


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("services", [[], ["SSH"], ["SSH", "VNC"]])
async def test_service_ids_greet_v2_and_v3(tmp_path: Path, version: int, services: list[str]) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(services)
        async with peer(service, tunnel, "destination", version=version) as destination:
            assert destination.websocket.subprotocol == f"aws.iot.securetunneling-{version}.0"
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(TunnelMessage(Type.SESSION_RESET))
            first = await destination.receive()
            if services and version > 1:
                assert first == TunnelMessage(Type.SERVICE_IDS, available_service_ids=tuple(services))
                first = await destination.receive()
            assert first.type == Type.SESSION_RESET


async def test_messages_pass_both_ways(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (_, source, destination):
        await source.send(START, DATA)
        assert [await destination.receive(), await destination.receive()] == [START, DATA]
        await destination.send(DATA)
        assert await source.receive() == DATA


async def test_messages_wait_for_the_side_that_comes_later(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel(["SSH"])
        async with peer(service, tunnel, "source") as source:
            await source.send(START, DATA)
            async with peer(service, tunnel, "destination") as destination:
                greeting = await destination.receive()
                assert greeting.type == Type.SERVICE_IDS
                assert [await destination.receive(), await destination.receive()] == [START, DATA]


async def test_what_was_sent_before_the_end_still_arrives(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (_, source, destination):
        for _ in range(20):
            await destination.send(DATA)
        await destination.websocket.close()
        assert [await source.receive() for _ in range(20)] == [DATA] * 20


async def test_frames_to_a_side_can_be_cut_anywhere(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (tunnel, source, destination):
        tunnel.destination.frame_size = 3
        await source.send(START, DATA)
        stream = START.encode() + DATA.encode()
        for start in range(0, len(stream), 3):
            assert await destination.websocket.recv() == stream[start : start + 3]


async def test_a_source_inside_the_service(tmp_path: Path) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel()
        tunnel.source.sink = received.put
        async with peer(service, tunnel, "destination") as destination:
            await tunnel.destination.wait_connected()
            await tunnel.destination.send(START)
            assert await destination.receive() == START
            await destination.send(DATA)
            assert await asyncio.wait_for(received.get(), 10) == DATA.encode()


@pytest.mark.parametrize("stalled", ["source", "destination"])
async def test_a_side_that_does_not_read_holds_up_the_other(tmp_path: Path, stalled: str) -> None:
    frame = data_frame(DATA)(bytes(2 * MAX_PAYLOAD))
    async with both_sides(tmp_path) as (_, source, destination):
        slow, fast = (source, destination) if stalled == "source" else (destination, source)
        sent = await flood(fast, frame)
        for _ in range(2 * (sent + 1)):
            assert len((await slow.receive()).payload) == MAX_PAYLOAD


@pytest.mark.parametrize("paused", ["source", "destination"])
async def test_a_paused_side_is_not_read_until_resumed(tmp_path: Path, paused: str) -> None:
    frame = data_frame(DATA)(bytes(2 * MAX_PAYLOAD))
    async with both_sides(tmp_path) as (tunnel, source, destination):
        sender, receiver = (source, destination) if paused == "source" else (destination, source)
        await tunnel.side(paused).pause()
        sent = await flood(sender, frame)
        with pytest.raises(TimeoutError):
            await receiver.receive(timeout=0.1)
        await tunnel.side(paused).resume()
        for _ in range(2 * (sent + 1)):
            assert len((await receiver.receive()).payload) == MAX_PAYLOAD


async def flood(sender: RawPeer, frame: bytes) -> int:
    """Frames that were sent until the next found no room for half a second; that one is then under way."""
    sent = 0
    while True:
        sending = asyncio.ensure_future(sender.send_frame(frame))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        if not done:
            return sent
        sent += 1
        assert sent < MANY, "nothing holds the sender up"


async def test_closing_the_tunnel_disconnects_both_sides(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (tunnel, source, destination):
        await tunnel.close()
        for one in (source, destination):
            error = await ended(one)
            assert error.rcvd is not None
            assert (error.rcvd.code, error.rcvd.reason) == (1000, "the tunnel was closed")
        await tunnel.destination.wait_gone()


async def test_a_cut_comes_without_a_close(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (tunnel, _, destination):
        await tunnel.destination.cut()
        error = await ended(destination)
        assert error.rcvd is None
        assert isinstance(error.__cause__, ConnectionResetError)
        assert tunnel.source.connection is not None


async def test_a_message_cut_off_by_the_loss_is_forgotten(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel()
        async with peer(service, tunnel, "destination") as destination:
            async with peer(service, tunnel, "source", client_token=CLIENT_TOKEN) as source:
                await source.send_frame(START.encode() + DATA.encode()[:-1])
                assert await destination.receive() == START
                await tunnel.source.cut()
            async with peer(service, tunnel, "source", client_token=CLIENT_TOKEN) as source:
                assert await destination.receive() == TunnelMessage(Type.STREAM_RESET, 1, "SSH")
                await source.send(START)
                assert await destination.receive() == START


async def test_a_connection_with_the_same_client_token_replaces_the_older_one(tmp_path: Path) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel()
        older, newer = (peer(service, tunnel, "destination", client_token=CLIENT_TOKEN) for _ in range(2))
        async with peer(service, tunnel, "source") as source, older:
            await source.send(START)
            assert await older.receive() == START
            async with newer:
                error = await ended(older)
                assert error.rcvd is not None
                assert error.rcvd.code == 1000
                assert await source.receive() == TunnelMessage(Type.STREAM_RESET, 1, "SSH")
                await source.send(START)
                assert await newer.receive() == START
                assert tunnel.destination.connections == 2


async def test_rotation_revokes_the_token_and_disconnects(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (tunnel, _, destination):
        old = tunnel.destination.token.text
        new = await tunnel.rotate("destination")
        assert new == tunnel.notification["clientAccessToken"] != old
        assert (await ended(destination)).rcvd is not None
        assert tunnel.source.connection is not None


@pytest.mark.parametrize(
    ("mode", "frame", "code"),
    [
        ("destination", "text", 1003),
        ("source", b"\0\2\xff\xff", 1002),
        ("destination", START.encode(), 1002),
        ("source", TunnelMessage(Type.SESSION_RESET).encode(), 1002),
        ("destination", bytes(MAX_FRAME + 1), 1009),
    ],
    ids=["text", "no protobuf", "not from a destination", "not from a source", "too large"],
)
async def test_the_service_hangs_up_on_what_is_forbidden(
    tmp_path: Path, mode: str, frame: Any, code: int
) -> None:
    async with TunnelingService(tmp_path) as service:
        tunnel = await service.open_tunnel()
        async with peer(service, tunnel, mode) as sender:
            await sender.send_frame(frame)
            error = await ended(sender)
            assert error.rcvd is not None
            assert error.rcvd.code == code
            await tunnel.side(mode).wait_gone()
        assert bool(service.handshakes[0].violation) == (code != 1009)


async def test_ignorable_messages_of_unknown_type_pass(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (_, source, destination):
        message = TunnelMessage(99, ignorable=True)
        await source.send(message)
        assert await destination.receive() == message


async def test_the_largest_frame_and_payload_pass(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (_, source, destination):
        largest = DATA._replace(payload=bytes(MAX_PAYLOAD))
        filler = TunnelMessage(Type.DATA, 1, "S" * (MAX_FRAME - 2 * len(largest.encode()) - 10))
        frame = largest.encode() * 2 + filler.encode()
        assert MAX_FRAME - 10 < len(frame) <= MAX_FRAME
        await source.send_frame(frame)
        assert [await destination.receive() for _ in range(3)] == [largest, largest, filler]


async def test_the_service_can_send_anything(tmp_path: Path) -> None:
    async with both_sides(tmp_path) as (tunnel, _, destination):
        await tunnel.destination.send_frame("text")
        assert await destination.websocket.recv() == "text"
        await tunnel.destination.send(TunnelMessage(0))
        assert await destination.receive() == TunnelMessage(0)
