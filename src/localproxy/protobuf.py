"""As much of the protobuf wire format as one small message needs (pure).

What lives here: numbers, texts, and skipping what is not known. What must not: the message's fields.
Positions are indices into the bytes of one message; everything that reads raises MessageError.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .message import Data

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_MAX_GROUP_DEPTH = 100


class MessageError(ValueError):
    """Bytes that are no message. The tunnel connection that carried them cannot be trusted further."""


def varint(value: int) -> bytes:
    """Negative numbers are sign-extended to 64 bits, hence take ten bytes."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def text_field(tag: bytes, text: str) -> bytes:
    raw = text.encode()
    return tag + varint(len(raw)) + raw


def signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 0x100000000 if value & 0x80000000 else value


def text(raw: Data) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise MessageError("a service id is not UTF-8") from None


def read_tag(data: Data, position: int) -> tuple[int, int]:
    tag, after = read_varint(data, position)
    if tag > 0xFFFFFFFF or after - position > 5:
        raise MessageError("a field number is out of range")
    if tag < 8:
        raise MessageError("field number 0")
    return tag, after


def read_varint(data: Data, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
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


def skip(data: Data, position: int, tag: int, depth: int) -> int:
    """Where the field that is not in the schema ends."""
    wire_type = tag & 7
    if wire_type == _VARINT:
        return read_varint(data, position)[1]
    if wire_type in (_BYTES, _FIXED32, _FIXED64):
        if wire_type == _BYTES:
            length, position = read_varint(data, position)
        else:
            length = 4 if wire_type == _FIXED32 else 8
        position += length
        if position > len(data):
            raise MessageError("a field is longer than its message")
        return position
    if wire_type == _GROUP and depth < _MAX_GROUP_DEPTH:
        while True:
            inner, position = read_tag(data, position)
            if inner & 7 == _END_GROUP:
                if inner >> 3 != tag >> 3:
                    raise MessageError("a group ends that was not begun")
                return position
            position = skip(data, position, inner, depth + 1)
    raise MessageError(f"wire type {wire_type} where a field begins")
