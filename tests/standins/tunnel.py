"""One tunnel of the stand-in service: its two sides, and what is relayed between them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from standins.changes import Changes
from standins.hang_up import hang_up
from standins.tunnel_handshake import MODES, AccessToken, RefusedError
from standins.tunnel_message import MAX_FRAME, MessageSplitter, TunnelMessage, Type
from standins.tunnel_rules import ViolationError, check


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
        self.sink: Optional[Callable[[bytes], Awaitable[None]]] = None
        """If set, takes whole messages in place of this side's connection: with `send_frame` of the other
        side, a source or destination inside the service, which costs a benchmark no second connection."""
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
        streams, self._streams = self._streams, {}
        self.changes.tell()
        # What the former connection had open is gone with it, and the other side must know.
        resets = [TunnelMessage(Type.STREAM_RESET, i, service) for service, i in streams.items()]
        relay = asyncio.ensure_future(self._relay(side, connection, handshake, resets))
        if replaced is not None:
            await hang_up(replaced, 1000, "replaced by a newer connection")
        await connection.wait_closed()
        await hang_up(connection)  # ended it has; its transport may not know
        handshake.close_code = connection.close_code
        handshake.close_reason = connection.close_reason or ""
        if side.connection is connection:
            side.connection = None
        self.changes.tell()
        # What came in before the end still goes on to the other side.
        await relay

    async def _relay(
        self, side: Side, connection: ServerConnection, handshake: Handshake, resets: list[TunnelMessage]
    ) -> None:
        try:
            other = self._other(side)
            if resets and other.connection is not None:
                with contextlib.suppress(ConnectionClosed):
                    await other.send(*resets)
            splitter = MessageSplitter()
            while True:
                frame = await connection.recv()
                if side.paused:
                    await self.changes.until(lambda: not side.paused or self._left(side, connection))
                if isinstance(frame, str):
                    raise ViolationError(1003, "a text frame")
                whole = splitter.whole(frame)
                started = check(side.mode, whole)
                if whole:
                    await self._deliver(side, connection, whole, started)
        except ConnectionClosed:
            pass
        except ViolationError as violation:
            handshake.violation = str(violation)
            await hang_up(connection, violation.code, str(violation)[:120])

    async def _deliver(
        self, side: Side, connection: ServerConnection, whole: bytes, started: dict[str, int]
    ) -> None:
        """Messages from one side to the other, which may still have to connect.

        Returns once the other side's write buffer has room again: that is the backpressure.
        """
        other = self._other(side)
        if other.sink is not None:
            await other.sink(whole)
            return
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
