"""Which stream and connection a message belongs to, and what a destination answers (sans-I/O).

What lives here: everything that decides about streams. What must not: sockets, buffers, time. One
`Streams` stands for one tunnel connection and is thrown away with it.

Theory of operation. Messages go in through `receive`; what the local side does goes in through `data`,
`local_closed` and `connect_failed`. Out come actions for the caller to carry out in order. `Connection`
objects are their handles, compared by identity, so an old stream's bytes can never reach a new one that
uses the same numbers.

A service has at most one active stream, a stream any number of connections. Whatever names no active
stream or connection is stale and dropped.

The older protocols differ in the ids alone: V1 sends no service id, V1 and V2 no connection id. The
peer's STREAM_START decides for its stream, answers carry exactly the ids that it carried, and a forced
form (`-y`) overrides that (protocol, "Speaking an older peer's language").
"""

from __future__ import annotations

from .actions import Close, Connection, Open, Reply, Stream, Warn, Write
from .message import Message, MessageType, encode_data, encode_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .actions import Action
    from .message import Data

# Nearly every message is one; looking up an enumeration's member takes a while on older Pythons.
_DATA = MessageType.DATA

FIRST_CONNECTION = 1
"""The connection that a message without a connection id means."""


class ProtocolError(Exception):
    """The peer sent what no peer may send: the WebSocket is to be closed with 1002."""


class MissingDestinationError(Exception):
    """The tunnel was opened with services that this proxy has no destination for."""


class Streams:
    """The streams of one tunnel connection.

    `services` are the service ids that have a destination; a single destination without an id is "".
    `form` is None to answer in the peer's form, or "V1" or "V2" to force that one.
    """

    def __init__(self, services: Iterable[str], form: str | None = None) -> None:
        self._services = frozenset(services)
        self._form = form
        self._tunnel_services: Sequence[str] | None = None
        # The one service id that a destination without an id turned out to serve.
        self._adopted: str | None = None
        self._streams: dict[str, Stream] = {}

    def receive(self, message: Message) -> Sequence[Action]:
        """What to do about a message from the peer.

        Raises ProtocolError, or MissingDestinationError for a SERVICE_IDS that cannot be served.
        """
        kind = message.type
        if kind == _DATA:
            connection = self._connection_of(message)
            return (Write(connection, message.payload),) if connection and message.payload else ()
        if kind == MessageType.STREAM_START:
            return self._stream_start(message)
        if kind == MessageType.CONNECTION_START:
            return self._connection_start(message)
        if kind == MessageType.STREAM_RESET:
            stream = self._stream_of(message)
            return self._end(stream) if stream else ()
        if kind == MessageType.CONNECTION_RESET:
            connection = self._connection_of(message)
            return (self._drop(connection),) if connection else ()
        if kind == MessageType.SESSION_RESET:
            return [action for stream in list(self._streams.values()) for action in self._end(stream)]
        if kind == MessageType.SERVICE_IDS:
            return self._service_ids(message.available_service_ids)
        if message.ignorable:
            return ()
        raise ProtocolError(f"a message of the unknown type {kind}, which may not be ignored")

    def is_active(self, connection: Connection) -> bool:
        """Whether the peer still counts this connection as open."""
        stream = connection.stream
        return (
            self._streams.get(stream.service) is stream
            and stream.connections.get(connection.connection_id) is connection
        )

    def data(self, connection: Connection, payload: Data) -> bytes:
        """A DATA message with bytes of the local service, at most MAX_PAYLOAD of them, encoded."""
        return encode_data(connection.data_head, payload)

    def local_closed(self, connection: Connection) -> Sequence[Action]:
        """The local service ended this connection; all it sent has been passed on."""
        if not self.is_active(connection):
            return ()
        stream = connection.stream
        if stream.with_connection_ids:
            self._drop(connection)
            return (Reply(self._message(MessageType.CONNECTION_RESET, stream, connection)),)
        return self._reset(stream)

    def connect_failed(self, connection: Connection) -> Sequence[Action]:
        """The destination cannot be reached: a failed STREAM_START ends its stream."""
        if connection.opens_stream and self.is_active(connection):
            return self._reset(connection.stream)
        return self.local_closed(connection)

    def _reset(self, stream: Stream) -> Sequence[Action]:
        actions = self._end(stream)
        actions.append(Reply(self._message(MessageType.STREAM_RESET, stream)))
        return actions

    def _stream_start(self, message: Message) -> Sequence[Action]:
        if message.stream_id == 0:
            raise ProtocolError("a STREAM_START without a stream id")
        service_id = "" if self._form == "V1" else message.service_id
        service = self._service_of(message.service_id, adopt=True)
        if service is None:
            refused = Stream("", message.stream_id, service_id, with_connection_ids=False)
            return (
                Warn(f"no destination for service id {message.service_id!r}: its stream is refused"),
                Reply(self._message(MessageType.STREAM_RESET, refused)),
            )
        if self._form == "V2" and not service_id:
            service_id = service or self._adopted or ""
        older = self._streams.get(service)
        actions = self._end(older) if older else []
        with_connection_ids = message.connection_id != 0 and self._form not in ("V1", "V2")
        stream = Stream(service, message.stream_id, service_id, with_connection_ids)
        self._streams[service] = stream
        actions.append(self._open(stream, message.connection_id, opens_stream=True))
        return actions

    def _connection_start(self, message: Message) -> Sequence[Action]:
        if message.stream_id == 0:
            raise ProtocolError("a CONNECTION_START without a stream id")
        stream = self._stream_of(message)
        if stream is None:
            return ()
        if not stream.with_connection_ids:
            # Its answers could not be told from those of the stream's first connection.
            return (Warn("a second connection in a stream of V1 or V2 is not opened"),)
        existing = self._connection_of(message)
        if existing:
            reset = self._message(MessageType.CONNECTION_RESET, stream, existing)
            return (self._drop(existing), Reply(reset))
        return (self._open(stream, message.connection_id, opens_stream=False),)

    def _service_ids(self, service_ids: Sequence[str]) -> Sequence[Action]:
        if self._tunnel_services is not None:
            return ()
        self._tunnel_services = tuple(dict.fromkeys(service_ids))
        missing = [name for name in self._tunnel_services if self._service_of(name, adopt=True) is None]
        if missing:
            has = ", ".join(sorted(self._services - {""})) or f"one destination, taken for {self._adopted}"
            raise MissingDestinationError(
                f"no destination for service id {', '.join(missing)} (there is {has})"
            )
        return ()

    def _service_of(self, service_id: str, adopt: bool = False) -> str | None:
        """The local service that a message's service id means, or None."""
        if not service_id:
            tunnel_services = self._tunnel_services or ()
            if len(tunnel_services) == 1:
                service_id = tunnel_services[0]
            elif len(self._services) == 1:
                return next(iter(self._services))
            else:
                return None
        if service_id in self._services:
            return service_id
        if "" not in self._services:
            return None
        if self._adopted is None and adopt:
            self._adopted = service_id
        return "" if service_id == self._adopted else None

    def _stream_of(self, message: Message) -> Stream | None:
        service = self._service_of(message.service_id)
        stream = self._streams.get(service) if service is not None else None
        return stream if stream and stream.stream_id == message.stream_id else None

    def _connection_of(self, message: Message) -> Connection | None:
        stream = self._stream_of(message)
        return stream.connections.get(message.connection_id or FIRST_CONNECTION) if stream else None

    def _open(self, stream: Stream, connection_id: int, opens_stream: bool) -> Open:
        connection = Connection(stream, connection_id or FIRST_CONNECTION, opens_stream)
        connection.data_head = encode_head(self._message(_DATA, stream, connection))
        stream.connections[connection.connection_id] = connection
        return Open(connection)

    def _drop(self, connection: Connection) -> Close:
        del connection.stream.connections[connection.connection_id]
        return Close(connection)

    def _end(self, stream: Stream) -> list[Action]:
        del self._streams[stream.service]
        return [Close(connection) for connection in stream.connections.values()]

    def _message(self, kind: MessageType, stream: Stream, connection: Connection | None = None) -> Message:
        with_id = connection is not None and stream.with_connection_ids
        return Message(
            kind,
            stream.stream_id,
            service_id=stream.service_id,
            connection_id=connection.connection_id if connection and with_id else 0,
        )
