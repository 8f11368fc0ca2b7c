"""The event-stream RPC message format, both directions: bytes in, messages out.

No sockets here. A message on the wire is::

    total length u32 | headers length u32 | CRC-32 of these 8 bytes u32
    headers: name length u8, name, type u8, value   (type 4: int32; type 7: u16 length and UTF-8)
    payload | CRC-32 of everything before it u32

All numbers are big-endian. Source: the Amazon event stream encoding that the AWS SDKs document, and what
``awscrt.eventstream.rpc`` sends.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Union

HeaderValue = Union[int, str]

_PRELUDE = struct.Struct(">III")
_INT32, _STRING = 4, 7


class MessageType(IntEnum):
    """The ``:message-type`` header."""

    APPLICATION_MESSAGE = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5


CONNECTION_ACCEPTED = 1
TERMINATE_STREAM = 2


@dataclass(frozen=True)
class Message:
    """One message; stream 0 is the connection itself."""

    message_type: MessageType
    stream_id: int = 0
    flags: int = 0
    headers: dict[str, HeaderValue] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """The message as it goes over the wire."""
        headers: dict[str, HeaderValue] = {
            ":message-type": int(self.message_type),
            ":message-flags": self.flags,
            ":stream-id": self.stream_id,
            **self.headers,
        }
        encoded = b"".join(_encode_header(name, value) for name, value in headers.items())
        total = _PRELUDE.size + len(encoded) + len(self.payload) + 4
        lengths = struct.pack(">II", total, len(encoded))
        body = lengths + struct.pack(">I", zlib.crc32(lengths)) + encoded + self.payload
        return body + struct.pack(">I", zlib.crc32(body))


def _encode_header(name: str, value: HeaderValue) -> bytes:
    start = bytes([len(name)]) + name.encode()
    if isinstance(value, int):
        return start + struct.pack(">Bi", _INT32, value)
    text = value.encode()
    return start + struct.pack(">BH", _STRING, len(text)) + text


def _decode_headers(data: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        name = data[at + 1 : name_end].decode()
        kind = data[name_end]
        at = name_end + 1
        if kind == _INT32:
            headers[name] = struct.unpack_from(">i", data, at)[0]
            at += 4
        elif kind == _STRING:
            (length,) = struct.unpack_from(">H", data, at)
            headers[name] = data[at + 2 : at + 2 + length].decode()
            at += 2 + length
        else:
            raise ValueError(f"header {name!r} has type {kind}, which no RPC message uses")
    return headers


class Decoder:
    """Collects received bytes and gives the complete messages in them."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes.

        Raises:
            ValueError: a checksum is wrong or a header is of an unknown type.
        """
        self._received += data
        while len(self._received) >= _PRELUDE.size:
            total, headers_length, prelude_crc = _PRELUDE.unpack_from(self._received)
            if zlib.crc32(self._received[:8]) != prelude_crc:
                raise ValueError("the prelude's CRC is wrong")
            if len(self._received) < total:
                return
            whole = bytes(self._received[:total])
            del self._received[:total]
            if zlib.crc32(whole[:-4]) != int.from_bytes(whole[-4:], "big"):
                raise ValueError("the message's CRC is wrong")
            headers_end = _PRELUDE.size + headers_length
            headers = _decode_headers(whole[_PRELUDE.size : headers_end])
            yield Message(
                MessageType(int(headers.pop(":message-type"))),
                int(headers.pop(":stream-id", 0)),
                int(headers.pop(":message-flags", 0)),
                headers,
                whole[headers_end:-4],
            )
