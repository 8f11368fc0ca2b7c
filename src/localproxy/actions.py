"""Streams and connections as names, and what may be asked to be done about them (pure).

What lives here: the nouns of the tunnel and the actions, plain records. What must not: deciding which
action it is to be (streams), carrying one out (session).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from .message import Data, Message

    Action = Union["Open", "Write", "Close", "Reply", "Warn"]


class Stream:
    """An active stream: its numbers, the ids its answers carry, and its connections by id."""

    __slots__ = ("connections", "service", "service_id", "stream_id", "with_connection_ids")

    def __init__(self, service: str, stream_id: int, service_id: str, with_connection_ids: bool) -> None:
        self.service = service
        self.stream_id = stream_id
        self.service_id = service_id
        self.with_connection_ids = with_connection_ids
        self.connections: dict[int, Connection] = {}


class Connection:
    """One local TCP connection of a stream; `opens_stream` if the STREAM_START itself asked for it."""

    __slots__ = ("connection_id", "data_head", "opens_stream", "stream")

    def __init__(self, stream: Stream, connection_id: int, opens_stream: bool) -> None:
        self.stream = stream
        self.connection_id = connection_id
        self.opens_stream = opens_stream
        self.data_head = b""
        """What each of its DATA messages begins with."""

    def __repr__(self) -> str:
        return f"stream {self.stream.stream_id} connection {self.connection_id}"


class _Act:
    """What all kinds of action have in common: equal by what they say."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._said() == other._said()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._said()}"

    def _said(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)


class Open(_Act):
    """Connect to the destination of connection.stream.service."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


class Write(_Act):
    """Bytes for the local service, in order, also before it is connected."""

    __slots__ = ("connection", "payload")

    def __init__(self, connection: Connection, payload: Data) -> None:
        self.connection = connection
        self.payload = payload


class Close(_Act):
    """Write what is still waiting, then close."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


class Reply(_Act):
    """A message to the peer."""

    __slots__ = ("message",)

    def __init__(self, message: Message) -> None:
        self.message = message


class Warn(_Act):
    """A line for the log."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text
