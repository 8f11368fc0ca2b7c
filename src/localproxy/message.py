"""Wire messages and their framing: bytes to Message and back.

What lives here: the protobuf encoding of the tunnel's one message type, and the two-byte length that
goes before each (protocol, "Messages"). What must not: any meaning of a message, any socket.

The messages arrive as a plain byte stream whose WebSocket frame borders mean nothing, so `Decoder`
takes bytes in pieces of any size and gives whole messages. It keeps at most one incomplete message:
the length field bounds it to 65,537 bytes.

The schema has seven fields, and one message in a thousand is not DATA: a hand-written codec is faster
and far lighter than a protobuf runtime. The tests hold it against that runtime. Like the runtime it
skips fields that are not in the schema, lets the last of a repeated single field win, and takes a field
of the wrong wire type for an unknown one.
"""

from __future__ import annotations

from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Union

    Data = Union[bytes, memoryview]

MAX_PAYLOAD = 64512
"""Bytes of payload that one message may carry."""

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_MAX_GROUP_DEPTH = 100


class MessageType(IntEnum):
    """What a message asks for. The values are the wire's; a peer may send others."""

    DATA = 1
    STREAM_START = 2
    STREAM_RESET = 3
    SESSION_RESET = 4
    SERVICE_IDS = 5
    CONNECTION_START = 6
    CONNECTION_RESET = 7


class MessageError(ValueError):
    """Bytes that are no message. The tunnel connection that carried them cannot be trusted further."""


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
    head = bytearray(b"\x08") + _varint(message.type)
    if message.stream_id:
        head += b"\x10" + _varint(message.stream_id)
    if message.ignorable:
        head += b"\x18\x01"
    if message.service_id:
        head += _text(b"\x2a", message.service_id)
    for service_id in message.available_service_ids:
        head += _text(b"\x32", service_id)
    if message.connection_id:
        head += b"\x38" + _varint(message.connection_id)
    if message.payload:
        head += b"\x22" + _varint(len(message.payload))
    length = len(head) + len(message.payload)
    return b"".join((length.to_bytes(2, "big"), head, message.payload))


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
            message = bytes(memoryview(self._buffer)[2:])
            self._buffer.clear()
            yield decode(message)
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
        tag, position = _read_tag(data, position)
        # Fields are told apart by number and wire type together.
        if tag == 0x08:
            value, position = _read_varint(data, position)
            message.type = _signed(value)
        elif tag == 0x10:
            value, position = _read_varint(data, position)
            message.stream_id = _signed(value)
        elif tag == 0x22:
            message.payload, position = _read_bytes(data, position)
        elif tag == 0x2A:
            message.service_id, position = _read_text(data, position)
        elif tag == 0x38:
            value, position = _read_varint(data, position)
            message.connection_id = value & 0xFFFFFFFF
        elif tag == 0x18:
            value, position = _read_varint(data, position)
            message.ignorable = value != 0
        elif tag == 0x32:
            text, position = _read_text(data, position)
            services.append(text)
        else:
            position = _skip(data, position, tag, 0)
    if services:
        message.available_service_ids = tuple(services)
    return message


def _varint(value: int) -> bytes:
    """Negative numbers are sign-extended to 64 bits, hence take ten bytes."""
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _text(tag: bytes, text: str) -> bytes:
    raw = text.encode()
    return tag + _varint(len(raw)) + raw


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 0x100000000 if value & 0x80000000 else value


def _read_tag(data: Data, position: int) -> tuple[int, int]:
    # The usual case at once: a field number below 16.
    first = data[position] if position < len(data) else 0x80
    if 8 <= first < 0x80:
        return first, position + 1
    tag, after = _read_varint(data, position)
    if tag > 0xFFFFFFFF or after - position > 5:
        raise MessageError("a field number is out of range")
    if tag < 8:
        raise MessageError("field number 0")
    return tag, after


def _read_varint(data: Data, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        # Most are below 128.
        if data[position] < 0x80:
            return data[position], position + 1
        while shift < 70:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
            shift += 7
    except IndexError:
        pass
    raise MessageError("a number is cut off or too long")


def _read_bytes(data: Data, position: int) -> tuple[Data, int]:
    length, position = _read_varint(data, position)
    end = position + length
    if end > len(data):
        raise MessageError("a field is longer than its message")
    return data[position:end], end


def _read_text(data: Data, position: int) -> tuple[str, int]:
    raw, position = _read_bytes(data, position)
    try:
        return str(raw, "utf-8"), position
    except UnicodeDecodeError:
        raise MessageError("a service id is not UTF-8") from None


def _skip(data: Data, position: int, tag: int, depth: int) -> int:
    """Where the field that is not in the schema ends."""
    wire_type = tag & 7
    if wire_type == _VARINT:
        return _read_varint(data, position)[1]
    if wire_type == _BYTES:
        return _read_bytes(data, position)[1]
    if wire_type in (_FIXED32, _FIXED64):
        position += 4 if wire_type == _FIXED32 else 8
        if position > len(data):
            raise MessageError("a field is longer than its message")
        return position
    if wire_type == _GROUP and depth < _MAX_GROUP_DEPTH:
        while True:
            inner, position = _read_tag(data, position)
            if inner & 7 == _END_GROUP:
                if inner >> 3 != tag >> 3:
                    raise MessageError("a group ends that was not begun")
                return position
            position = _skip(data, position, inner, depth + 1)
    raise MessageError(f"wire type {wire_type} where a field begins")
