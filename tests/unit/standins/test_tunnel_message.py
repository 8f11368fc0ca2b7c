"""The stand-ins' codec: bytes as the protocol says, borders found whatever the frames."""

from __future__ import annotations

import pytest

from standins.tunnel_message import (
    MAX_FRAME,
    MAX_PAYLOAD,
    InvalidMessageError,
    MessageSplitter,
    TunnelMessage,
    Type,
    bodies,
    data_frame,
)


def test_the_wire_form_is_the_documented_one() -> None:
    message = TunnelMessage(Type.DATA, 1, "SSH", 2, b"hi", ignorable=True)
    assert message.encode() == bytes.fromhex("0011 0801 1001 1801 2202 6869 2a03 535348 3802")


def test_every_field_comes_back() -> None:
    message = TunnelMessage(Type.SERVICE_IDS, -5, "SSH", 2**32 - 1, b"\0\xff", True, ("A", "B"))
    assert TunnelMessage.parse(message.encode()[2:]) == message


def test_defaults_are_absent() -> None:
    assert TunnelMessage(0).encode() == b"\0\0"


@pytest.mark.parametrize("body", [b"\x08", b"\x2a\x01\xff", b"\x22\x05ab", b"\x42\x01x"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMessageError):
        TunnelMessage.parse(body)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 10_000])
def test_borders_are_found_whatever_the_frames(step: int) -> None:
    messages = [TunnelMessage(Type.DATA, 1, payload=bytes(size)) for size in (0, 1, 300, 5000)]
    stream = b"".join(message.encode() for message in messages)
    splitter = MessageSplitter()
    found = []
    for start in range(0, len(stream), step):
        found += [TunnelMessage.parse(body) for body in bodies(splitter.whole(stream[start : start + step]))]
    assert found == messages


@pytest.mark.parametrize("size", [1, 127, 128, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD])
def test_a_data_frame_is_the_same_as_messages_one_by_one(size: int) -> None:
    template = TunnelMessage(Type.DATA, 12345, "SSH", 7)
    data = bytes(index % 251 for index in range(size))
    frame = data_frame(template)(data)
    chunks = [data[start : start + MAX_PAYLOAD] for start in range(0, size, MAX_PAYLOAD)]
    assert frame == b"".join(template._replace(payload=chunk).encode() for chunk in chunks)
    assert len(frame) <= MAX_FRAME
