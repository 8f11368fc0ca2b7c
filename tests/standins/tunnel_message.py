"""The tunnel's wire messages, made by the real protobuf library at run time (no generated code).

The stand-ins read and write messages with this and nothing else, so that the program under test and
its peer never share a mistake. What lives here knows no socket.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Callable, NamedTuple

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    unknown_fields,
)

MAX_PAYLOAD = 64_512
"""Bytes of payload that one message may carry."""

MAX_FRAME = 131_076
"""Bytes that one WebSocket frame may carry, either way."""


class Type(IntEnum):
    """What a message says."""

    DATA = 1
    STREAM_START = 2
    STREAM_RESET = 3
    SESSION_RESET = 4
    SERVICE_IDS = 5
    CONNECTION_START = 6
    CONNECTION_RESET = 7


class InvalidMessageError(Exception):
    """These bytes are no tunnel message; the text says why."""


def _wire_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(
        name="standins/tunnel.proto", package="standins", syntax="proto3"
    )
    tunnel = file.message_type.add(name="Tunnel")
    for number, (name, kind, label) in enumerate(
        [
            ("type", field.TYPE_INT32, one),  # an open enum: on the wire, and in proto3, the same
            ("streamId", field.TYPE_INT32, one),
            ("ignorable", field.TYPE_BOOL, one),
            ("payload", field.TYPE_BYTES, one),
            ("serviceId", field.TYPE_STRING, one),
            ("availableServiceIds", field.TYPE_STRING, many),
            ("connectionId", field.TYPE_UINT32, one),
        ],
        start=1,
    ):
        tunnel.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("standins.Tunnel"))


_Wire = _wire_class()


class TunnelMessage(NamedTuple):
    """One message; a field at its default is absent on the wire."""

    type: int
    stream_id: int = 0
    service_id: str = ""
    connection_id: int = 0
    payload: bytes = b""
    ignorable: bool = False
    available_service_ids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The message with its length in front, as it goes into a WebSocket frame."""
        body: bytes = _Wire(
            type=self.type,
            streamId=self.stream_id,
            ignorable=self.ignorable,
            payload=self.payload,
            serviceId=self.service_id,
            availableServiceIds=self.available_service_ids,
            connectionId=self.connection_id,
        ).SerializeToString()
        return len(body).to_bytes(2, "big") + body

    @classmethod
    def parse(cls, body: bytes) -> TunnelMessage:
        """The message in `body`, which comes without its length.

        Raises InvalidMessageError for anything but the seven known fields.
        """
        wire = _Wire()
        try:
            wire.ParseFromString(body)
        except message.DecodeError as error:
            raise InvalidMessageError(f"not a protobuf message: {error}") from error
        unknown = unknown_fields.UnknownFieldSet(wire)
        if len(unknown):
            raise InvalidMessageError(f"field {unknown[0].field_number} is not in the schema")
        return cls(
            wire.type,
            wire.streamId,
            wire.serviceId,
            wire.connectionId,
            wire.payload,
            wire.ignorable,
            tuple(wire.availableServiceIds),
        )


class MessageSplitter:
    """Finds whole messages in the byte stream of one connection, whatever its frame borders."""

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, data: bytes) -> bytes:
        """All bytes so far that make whole messages; the beginning of the next one is kept back."""
        if self._rest:
            data = self._rest + data
        end = 0
        while end + 2 <= len(data):
            following = end + 2 + (data[end] << 8 | data[end + 1])
            if following > len(data):
                break
            end = following
        if end == len(data):
            self._rest = b""
            return data
        self._rest = data[end:]
        return data[:end]


def bodies(whole: bytes) -> Iterator[bytes]:
    """The messages in what MessageSplitter.whole gave, without their lengths."""
    start = 0
    while start < len(whole):
        end = start + 2 + (whole[start] << 8 | whole[start + 1])
        yield whole[start + 2 : end]
        start = end


def data_frame(message: TunnelMessage) -> Callable[[bytes], bytes]:
    """Makes frames of DATA messages that carry bytes, all but the payload as in `message`.

    The payload is copied once only; the fields are in their natural order.
    """
    template = message._replace(payload=b"").encode()[2:]
    head = message._replace(service_id="", connection_id=0, payload=b"").encode()[2:]
    tail = template[len(head) :]

    def frame(data: bytes) -> bytes:
        parts: list[bytes | memoryview] = []
        view = memoryview(data)
        for start in range(0, len(data), MAX_PAYLOAD):
            payload = view[start : start + MAX_PAYLOAD]
            field = b"\x22" + _varint(len(payload))
            length = len(head) + len(field) + len(payload) + len(tail)
            parts += [length.to_bytes(2, "big") + head + field, payload, tail]
        return b"".join(parts)

    return frame


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
