"""Wire messages and their framing: bytes to Message and back.

What lives here: the protobuf encoding of the tunnel's one message type, and the two-byte length that
goes before each (protocol, "Messages"). What must not: any meaning of a message, any socket.

The messages arrive as a plain byte stream whose WebSocket frame borders mean nothing, so `Decoder`
takes bytes in pieces of any size and gives whole messages. It keeps at most one incomplete message:
the length field bounds it to 65,537 bytes.

The schema has seven fields, and nearly every message is DATA: a hand-written codec is faster and far
lighter than a protobuf runtime. The tests hold it against that runtime. Like the runtime it
skips fields that are not in the schema, lets the last of a repeated single field win, and takes a field
of the wrong wire type for an unknown one.
"""

from __future__ import annotations

from enum import IntEnum

from .protobuf import (
    MessageError,
    read_tag,
    read_varint,
    signed,
    skip,
    text,
    text_field,
    varint,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Union

    Data = Union[bytes, memoryview]

MAX_PAYLOAD = 64512
"""Bytes of payload that one message may carry."""


class MessageType(IntEnum):
    """What a message asks for. The values are the wire's; a peer may send others."""

    DATA = 1
    STREAM_START = 2
    STREAM_RESET = 3
    SESSION_RESET = 4
    SERVICE_IDS = 5
    CONNECTION_START = 6
    CONNECTION_RESET = 7


class Message:
    """One tunnel message. A field at its default is absent on the wire.

    `type` is a plain int, for a peer may send one that MessageType does not know. Ids are numbers as
    on the wire: `stream_id` a signed, `connection_id` an unsigned 32-bit integer.
    """

    __slots__ = (
        "available_service_ids",
        "connection_id",
        "ignorable",
        "payload",
        "service_id",
        "stream_id",
        "type",
    )

    def __init__(
        self,
        type: int,  # noqa: A002 - the schema's name
        stream_id: int = 0,
        *,
        service_id: str = "",
        connection_id: int = 0,
        payload: Data = b"",
        ignorable: bool = False,
        available_service_ids: Sequence[str] = (),
    ) -> None:
        self.type = type
        self.stream_id = stream_id
        self.service_id = service_id
        self.connection_id = connection_id
        self.payload = payload
        self.ignorable = ignorable
        self.available_service_ids = tuple(available_service_ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The message without its payload, which is the user's business."""
        try:
            name = MessageType(self.type).name
        except ValueError:
            name = f"type {self.type}"
        parts = [name, f"stream {self.stream_id}"]
        if self.service_id:
            parts.append(f"service {self.service_id}")
        if self.connection_id:
            parts.append(f"connection {self.connection_id}")
        if self.payload:
            parts.append(f"{len(self.payload)} bytes")
        if self.available_service_ids:
            parts.append("services " + ",".join(self.available_service_ids))
        return f"<{', '.join(parts)}>"


def encode(message: Message) -> bytes:
    """The message with its two-byte length before it.

    Raises ValueError for a payload above MAX_PAYLOAD or a message above 65,535 bytes.
    """
    if len(message.payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(message.payload)} bytes, allowed are {MAX_PAYLOAD}")
    head = encode_head(message)
    if message.ignorable:
        head += b"\x18\x01"
    for service_id in message.available_service_ids:
        head += text_field(b"\x32", service_id)
    return encode_data(head, message.payload)


def encode_head(message: Message) -> bytes:
    """The fields that all messages of one type and connection share: for encode_data."""
    head = b"\x08" + varint(message.type)
    if message.stream_id:
        head += b"\x10" + varint(message.stream_id)
    if message.service_id:
        head += text_field(b"\x2a", message.service_id)
    if message.connection_id:
        head += b"\x38" + varint(message.connection_id)
    return head


def encode_data(head: bytes, payload: Data) -> bytes:
    """A whole message of these fields and a payload of at most MAX_PAYLOAD, with its length before it."""
    if not payload:
        return len(head).to_bytes(2, "big") + head
    field = b"\x22" + varint(len(payload))
    length = len(head) + len(field) + len(payload)
    return b"".join((length.to_bytes(2, "big"), head, field, payload))


class Decoder:
    """Takes the byte stream in pieces, gives the messages in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Data) -> Iterator[Message]:
        """The messages completed by `data`, each decoded when it is asked for.

        A payload may be a part of `data`, not a copy. Raises MessageError; nothing may be fed after that.
        """
        position = 0
        if self._buffer:
            # The message that was cut off takes just the bytes that it lacks.
            position = self._complete(data)
            if position < 0:
                return
            body: Data = memoryview(self._buffer)[2:]
            self._buffer = bytearray()
            yield decode(body)
        while len(data) - position >= 2:
            end = position + 2 + (data[position] << 8 | data[position + 1])
            if end > len(data):
                break
            body = data[position + 2 : end]
            position = end
            yield decode(body)
        self._buffer += data[position:]

    def _complete(self, data: Data) -> int:
        """Add to the buffered message; where in `data` it ends, or -1 if it does not."""
        buffer = self._buffer
        position = 0
        if len(buffer) == 1:
            buffer += data[:1]
            position = 1
        lacking = (2 + (buffer[0] << 8 | buffer[1]) if len(buffer) > 1 else 2) - len(buffer)
        buffer += data[position : position + lacking]
        return position + lacking if position + lacking <= len(data) else -1


def decode(data: Data) -> Message:
    """One message from its protobuf bytes, without the length. Raises MessageError."""
    message = Message(0)
    services: list[str] = []
    position, end = 0, len(data)
    while position < end:
        # A tag or a number takes one byte mostly: then no call, which is half of the time.
        tag = data[position]
        if 0x08 <= tag < 0x80:
            position += 1
        else:
            tag, position = read_tag(data, position)
        if tag & 5:  # of the wire types only a number (0) and bytes (2) have neither bit
            position = skip(data, position, tag, 0)
            continue
        value = data[position] if position < end else 0x80
        if value < 0x80:
            position += 1
        else:
            value, position = read_varint(data, position)
        # Fields are told apart by number and wire type together.
        if tag & 2:
            start, position = position, position + value
            if position > end:
                raise MessageError("a field is longer than its message")
            if tag == 0x22:
                message.payload = data[start:position]
            elif tag == 0x2A:
                message.service_id = text(data[start:position])
            elif tag == 0x32:
                services.append(text(data[start:position]))
        elif tag == 0x08:
            message.type = signed(value)
        elif tag == 0x10:
            message.stream_id = signed(value)
        elif tag == 0x38:
            message.connection_id = value & 0xFFFFFFFF
        elif tag == 0x18:
            message.ignorable = value != 0
    if services:
        message.available_service_ids = tuple(services)
    return message
