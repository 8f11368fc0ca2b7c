"""One tunnel of the stand-in service: its two sides, and what is relayed between them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from standins.changes import Changes
from standins.tunnel_handshake import MODES, AccessToken, RefusedError
from standins.tunnel_message import (
    MAX_FRAME,
    MAX_PAYLOAD,
    InvalidMessageError,
    MessageSplitter,
    TunnelMessage,
    Type,
    bodies,
)

_CLOSE_PATIENCE = 3.0
_TYPES = {int(type_) for type_ in Type}
_STREAM_TYPES = {
    Type.DATA,
    Type.STREAM_START,
    Type.STREAM_RESET,
    Type.CONNECTION_START,
    Type.CONNECTION_RESET,
}
_MAY_SEND = {
    "source": _STREAM_TYPES,
    "destination": _STREAM_TYPES - {Type.STREAM_START, Type.CONNECTION_START},
}


@dataclass
class Handshake:
    """One attempt to connect, and how the connection ended if it came to one."""

    path: str
    headers: list[tuple[str, str]]
    channel_id: str
    status: int = 101
    refusal: str = ""
    tunnel_id: str = ""
    violation: str = ""
    """What the client did against the protocol, for which the service hung up."""
    close_code: Optional[int] = None
    """As the WebSocket ended: 1006 for one that was lost without a close; None while it lives."""
    close_reason: str = ""

    def header(self, name: str) -> list[str]:
        """All values of a request header."""
        return [value for key, value in self.headers if key.lower() == name]


class Side:
    """One end of a tunnel: its token, and the connection that speaks for it now."""

    def __init__(self, mode: str, changes: Changes) -> None:
        self.mode = mode
        self.token = AccessToken()
        self.connection: Optional[ServerConnection] = None
        self.connections = 0
        """How many connections this side has had."""
        self.paused = False
        self.frame_size = MAX_FRAME
        """Payload bytes of the frames sent to this side, to cut messages at odd places."""
        self._changes = changes

    async def wait_connected(self, times: int = 1, timeout: float = 10) -> None:
        """Until this side is connected, for at least the `times`-th time; raises TimeoutError."""
        await self._changes.within(
            timeout,
            lambda: self.connection is not None and self.connections >= times,
            f"{self.mode} connected {times} times (was {self.connections})",
        )

    async def wait_gone(self, timeout: float = 10) -> None:
        """Until this side, once connected, is connected no more; raises TimeoutError."""
        await self._changes.within(
            timeout, lambda: self.connection is None and self.connections > 0, f"{self.mode} gone"
        )

    async def send(self, *messages: TunnelMessage) -> None:
        """Messages from the service itself, in one frame."""
        await self.send_frame(b"".join(message.encode() for message in messages))

    async def send_frame(self, data: Union[bytes, str]) -> None:
        """Any frame from the service itself, however wrong; a str makes a text frame."""
        if self.connection is None:
            raise ConnectionError(f"the {self.mode} is not connected")
        await self.connection.send(data)

    async def pause(self) -> None:
        """Stop reading from this side; what it sends piles up on its way."""
        self.paused = True

    async def resume(self) -> None:
        """Read from this side again."""
        self.paused = False
        self._changes.tell()

    async def cut(self) -> None:
        """Reset the TCP connection, without a word of TLS or WebSocket."""
        if self.connection is None:
            raise ConnectionError(f"the {self.mode} is not connected")
        transport = self.connection.transport
        linger = struct.pack("ii", 1, 0)  # an abrupt RST in place of FIN
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
        await self.wait_gone()

    async def hang_up(self, code: int, reason: str) -> None:
        """Close the WebSocket properly, if this side is connected."""
        if self.connection is not None:
            await hang_up(self.connection, code, reason)


class Tunnel:
    """A tunnel as `OpenTunnel` makes it."""

    def __init__(self, services: Sequence[str], region: str) -> None:
        self.tunnel_id = secrets.token_hex(16)
        self.services = tuple(services)
        self.region = region
        self.closed = False
        self.changes = Changes()
        self.source = Side("source", self.changes)
        self.destination = Side("destination", self.changes)
        self._streams: dict[str, int] = {}
        """The active stream of each service, as far as both sides were told."""

    def side(self, mode: str) -> Side:
        """The side of that local-proxy-mode."""
        return {"source": self.source, "destination": self.destination}[mode]

    @property
    def notification(self) -> dict[str, Any]:
        """What AWS publishes to `$aws/things/<thing>/tunnels/notify` for the current token."""
        if not self.services:
            raise ValueError("a tunnel that was opened without services is not notified")
        return {
            "clientAccessToken": self.destination.token.text,
            "clientMode": "destination",
            "region": self.region,
            "services": list(self.services),
        }

    async def rotate(self, mode: str = "destination") -> str:
        """A new access token for a side; the old one is revoked and its connection closed."""
        side = self.side(mode)
        side.token = AccessToken()
        await side.hang_up(1000, "the access token was rotated")
        return side.token.text

    async def close(self) -> None:
        """End the tunnel: both sides are disconnected, both tokens refused."""
        self.closed = True
        self.changes.tell()
        await asyncio.gather(*(self.side(mode).hang_up(1000, "the tunnel was closed") for mode in MODES))

    def admit(self, mode: str, client_token: Optional[str]) -> None:
        """Raises RefusedError if the side's token opens nothing (any more)."""
        if self.closed:
            raise RefusedError(403, "Invalid access token: The tunnel is closed")
        self.side(mode).token.check(client_token)

    async def serve(self, side: Side, connection: ServerConnection, handshake: Handshake) -> None:
        """Speak for the service on a connection that stands, until it ends."""
        if self.services and connection.subprotocol != "aws.iot.securetunneling-1.0":
            greeting = TunnelMessage(Type.SERVICE_IDS, available_service_ids=self.services)
            await connection.send(greeting.encode())
        replaced, side.connection = side.connection, connection
        side.connections += 1
        self.changes.tell()
        relay = asyncio.ensure_future(self._relay(side, connection, handshake))
        if replaced is not None:
            await hang_up(replaced, 1000, "replaced by a newer connection")
        await connection.wait_closed()
        handshake.close_code = connection.close_code
        handshake.close_reason = connection.close_reason or ""
        if side.connection is connection:
            side.connection = None
        self.changes.tell()
        # What came in before the end still goes on to the other side.
        await relay

    async def _relay(self, side: Side, connection: ServerConnection, handshake: Handshake) -> None:
        try:
            await self._reset_streams(side)
            splitter = MessageSplitter()
            while True:
                frame = await connection.recv()
                if side.paused:
                    await self.changes.until(lambda: not side.paused or self._left(side, connection))
                if isinstance(frame, str):
                    raise _ViolationError(1003, "a text frame")
                whole = splitter.whole(frame)
                started = _check(side.mode, whole)
                if whole:
                    await self._deliver(side, connection, whole, started)
        except ConnectionClosed:
            pass
        except _ViolationError as violation:
            handshake.violation = str(violation)
            await hang_up(connection, violation.code, str(violation))

    async def _reset_streams(self, side: Side) -> None:
        """Tell the other side of a newly connected one that the former connection's streams are gone."""
        streams, self._streams = self._streams, {}
        other = self._other(side)
        if other.connection is not None and streams:
            with contextlib.suppress(ConnectionClosed):
                await other.send(*(TunnelMessage(Type.STREAM_RESET, i, s) for s, i in streams.items()))

    async def _deliver(
        self, side: Side, connection: ServerConnection, whole: bytes, started: dict[str, int]
    ) -> None:
        """Messages from one side to the other, which may still have to connect.

        Returns once the other side's write buffer has room again: that is the backpressure.
        """
        other = self._other(side)
        if other.connection is None:
            await self.changes.until(lambda: other.connection is not None or self._left(side, connection))
        if other.connection is None or side.connection not in (connection, None):
            return
        self._streams.update(started)
        # What was under way to a connection that is lost is lost with it.
        with contextlib.suppress(ConnectionClosed):
            receiver, size = other.connection, other.frame_size
            for start in range(0, len(whole), size):
                await receiver.send(whole[start : start + size])

    def _left(self, side: Side, connection: ServerConnection) -> bool:
        return self.closed or side.connection is not connection

    def _other(self, side: Side) -> Side:
        return self.destination if side is self.source else self.source


async def hang_up(connection: ServerConnection, code: int, reason: str) -> None:
    """A proper WebSocket close; a peer that does not take part in it is cut off."""
    try:
        await asyncio.wait_for(connection.close(code, reason), _CLOSE_PATIENCE)
    except asyncio.TimeoutError:
        connection.transport.abort()


class _ViolationError(Exception):
    """A client did what the protocol forbids; the service closes its WebSocket with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _check(mode: str, whole: bytes) -> dict[str, int]:
    """The streams that these messages start, by service; raises _ViolationError."""
    started = {}
    for body in bodies(whole):
        try:
            message = TunnelMessage.parse(body)
        except InvalidMessageError as error:
            raise _ViolationError(1002, str(error)) from error
        if message.type not in _MAY_SEND[mode]:
            if message.type in _TYPES or not message.ignorable:
                raise _ViolationError(1002, f"a {mode} may not send messages of type {message.type}")
        elif message.stream_id == 0:
            raise _ViolationError(1002, f"stream id 0 in a message of type {message.type}")
        elif len(message.payload) > MAX_PAYLOAD:
            raise _ViolationError(1002, f"a payload of {len(message.payload)} bytes")
        elif message.type == Type.STREAM_START:
            started[message.service_id] = message.stream_id
    return started
