"""One tunnel connection: the WebSocket on one side, the local connections on the other.

What lives here: carrying bytes and actions between channel, frames, messages, streams and local
connections; how much may be under way; whether the peer is alive. What must not: how the connection came
about or what follows its end (proxy), what a message means (streams).

Flow. Towards the service nothing is queued but what one read of a local socket gave: while the channel
has bytes that the service does not take, no local socket is read. Towards the local services each
connection has a queue, for one that stops reading must not at once stop the others; the channel is not
read while one queue is full or all together are (local_side). So a service that stops reading stops the
source, and memory stays bounded whatever is pushed.
"""

from __future__ import annotations

import time

from . import frames
from .actions import Close, Open, Reply, Warn, Write
from .frames import FrameError, FrameParser
from .local_side import MAX_CONNECTIONS, LocalSide
from .loop import READ, WRITE, Outcome
from .message import MAX_PAYLOAD, Decoder, Message, encode
from .protobuf import MessageError
from .streams import MissingDestinationError, ProtocolError, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .actions import Action, Connection
    from .channel import Channel
    from .command_line import Settings
    from .local import LocalConnection
    from .log import Log
    from .loop import Loop
    from .message import Data

MAX_WARNINGS = 20

_MAX_PENDING = 1024 * 1024
"""Answers and pongs that may wait for a service that sends but does not read, before it is not read."""

PING_INTERVAL = 7.0
PEER_PATIENCE = 21.0
"""Seconds of silence that make a peer dead; with the interval it is noticed within 28 s."""

_GOODBYE_PATIENCE = 0.7

CLOSED, LOST, UNSERVED, STOPPED = "closed", "lost", "unserved", "stopped"


class End:
    """How a tunnel connection ended: CLOSED by the service, LOST, UNSERVED (a destination is missing),
    or STOPPED on request; and the sentence for the log."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text


class Session:
    """A tunnel connection from the first byte after its handshake to its end."""

    def __init__(self, loop: Loop, log: Log, channel: Channel, settings: Settings) -> None:
        self._loop = loop
        self._log = log
        self._channel = channel
        self._frames = FrameParser()
        self._messages = Decoder()
        self._streams = Streams(settings.destinations, settings.form)
        self._locals = LocalSide(loop, self, settings)
        self._end: End | None = None
        self._said_goodbye = False
        self._ended = Outcome()
        self._held = False
        self._pong: bytes | None = None
        self._warnings = 0
        self._heard = time.monotonic()

    async def run(self, first: bytes) -> End:
        """Serve until the connection ends; `first` are bytes that came along with the handshake.

        Local connections may still be flushing then: see `drain`.
        """
        self._tick()
        self._guarded_receive(first)
        self._regulate()
        end: End = await self._ended.settled()
        if self._said_goodbye:
            await self._channel.hang_up(time.monotonic() + _GOODBYE_PATIENCE)
        else:
            self._channel.close()
        return end

    def stop(self) -> None:
        """End on request, without waiting for local services any more."""
        self._locals.stop_draining()
        self._finish(End(STOPPED, "stopped on request"), frames.GOING_AWAY)

    async def drain(self, patience: float) -> None:
        """Wait until what was under way to local services is written, then close all of them."""
        await self._locals.drain(patience)

    # What the local connections tell.

    def local_connected(self, local: LocalConnection) -> None:
        self._log.debug(f"Connected to {local.destination} for {local.connection}")

    def local_data(self, local: LocalConnection, data: memoryview) -> None:
        connection = local.connection
        message = self._streams.data(connection, data[:MAX_PAYLOAD])
        if len(data) > MAX_PAYLOAD:
            # One frame holds two full messages, and that is what one read gives at most.
            message += self._streams.data(connection, data[MAX_PAYLOAD:])
        self._send(frames.BINARY, message)

    def local_closed(self, local: LocalConnection, reason: str) -> None:
        self._log.debug(f"Connection to {local.destination} for {local.connection} ended: {reason}")
        self._carry_out(self._streams.local_closed(local.connection))

    def local_failed(self, local: LocalConnection, reason: str) -> None:
        self._log.error(f"Could not connect to {local.destination} for {local.connection}: {reason}")
        self._carry_out(self._streams.connect_failed(local.connection))

    def local_written(self) -> None:
        if self._held:
            self._regulate()

    def local_gone(self, local: LocalConnection) -> None:
        self._locals.forget(local)
        self._regulate()

    # What the channel tells.

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._channel.flush()
                if self._pong is not None and not self._channel.pending:
                    pong, self._pong = self._pong, None
                    self._send(frames.PONG, pong)
            if events & READ:
                data, ended = self._channel.read()
                if data:
                    self._heard = time.monotonic()
                    self._guarded_receive(data)
                if ended:
                    self._finish(End(LOST, "the service hung up without closing the WebSocket"))
        except OSError as error:
            self._finish(End(LOST, error.strerror or str(error)))
        self._regulate()

    def _guarded_receive(self, data: Data) -> None:
        """Take bytes of the peer, whatever they are."""
        try:
            try:
                self._receive(data)
            finally:
                self._locals.write_batch()
        except FrameError as violation:
            self._violated(violation.code, str(violation))
        except (MessageError, ProtocolError) as violation:
            self._violated(frames.PROTOCOL_ERROR, str(violation))
        except MissingDestinationError as missing:
            self._finish(End(UNSERVED, str(missing)), frames.NORMAL)

    def _receive(self, data: Data) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == frames.BINARY:
                for message in self._messages.feed(payload):
                    self._carry_out(self._streams.receive(message))
                    if self._end:
                        return
            elif opcode == frames.PING:
                # A peer that pings but does not read gets one answer to all of its pings (RFC 6455 5.5.3).
                if self._channel.pending:
                    self._pong = bytes(payload)
                else:
                    self._send(frames.PONG, payload)
            elif opcode == frames.CLOSE:
                code, reason = frames.parse_close(payload)
                text = f"code {code}" + (f": {reason}" if reason else "")
                self._finish(End(CLOSED, text), frames.NORMAL if code == frames.NO_STATUS else code)
                return

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Write):
                self._locals.write(action.connection, action.payload)
            elif isinstance(action, Open):
                self._open(action.connection)
            elif isinstance(action, Close):
                self._locals.flush_and_close(action.connection)
            elif isinstance(action, Reply):
                self._reply(action.message)
            elif isinstance(action, Warn):
                self._warn(action.text)

    def _open(self, connection: Connection) -> None:
        if self._locals.is_crowded:
            self._warn(f"{MAX_CONNECTIONS} local connections are open: {connection} is refused")
            self._carry_out(self._streams.connect_failed(connection))
        else:
            self._locals.open(connection)

    def _warn(self, text: str) -> None:
        """A peer can provoke warnings as fast as it can send: a few will do."""
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            self._log.warning(text)
        if self._warnings == MAX_WARNINGS:
            self._log.warning("Further warnings about this tunnel connection are left out")

    def _reply(self, message: Message) -> None:
        self._log.trace(f"Sending {message}")
        self._send(frames.BINARY, encode(message))

    def _send(self, opcode: int, payload: Data) -> None:
        if self._end:
            return
        try:
            self._channel.write(frames.serialize(opcode, payload))
        except OSError as error:
            self._finish(End(LOST, error.strerror or str(error)))
        if self._channel.pending:
            self._regulate()

    def _regulate(self) -> None:
        """Read and write what may be read and written now."""
        if self._end:
            return
        pending = self._channel.pending
        was_held = self._held
        self._held = self._locals.is_full(was_held)
        if was_held and not self._held:
            # Its silence was our doing.
            self._heard = time.monotonic()
        events = WRITE if pending else 0
        if not self._held and pending < _MAX_PENDING:
            events |= READ
        self._channel.watch(events, self._ready)
        self._locals.allow_reading(not pending)

    def _tick(self) -> None:
        """Every PING_INTERVAL: is the peer alive, and keep the way to it open."""
        if self._end:
            return
        now = time.monotonic()
        # While bytes are unconfirmed TCP knows best: a ping may be waiting behind them for long.
        silence = self._channel.unacknowledged_for()
        if silence is None:
            silence = 0.0 if self._held else now - self._heard
        if silence >= PEER_PATIENCE:
            self._finish(End(LOST, f"no sign of life from the service for {silence:.0f} s"))
            return
        self._loop.call_at(now + PING_INTERVAL, self._tick)
        if not self._channel.pending:
            self._send(frames.PING, b"")

    def _violated(self, code: int, text: str) -> None:
        self._log.error(f"The service broke the protocol, closing the WebSocket ({code}): {text}")
        self._finish(End(LOST, text), code)

    def _finish(self, end: End, close_code: int | None = None) -> None:
        """The connection is over: say so to the peer where a code is given, flush the local side."""
        if self._end:
            return
        self._end = end
        if close_code is not None:
            try:
                self._channel.write(frames.serialize(frames.CLOSE, frames.close_payload(close_code)))
            except OSError:
                close_code = None
        self._channel.watch(0, self._ready)
        self._said_goodbye = close_code is not None
        self._locals.flush_and_close_all()
        self._ended.settle(end)
