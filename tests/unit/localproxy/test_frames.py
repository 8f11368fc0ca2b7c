"""WebSocket frames, with the websockets library as the judge."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from localproxy import frames
from localproxy.frames import BINARY, CLOSE, MAX_FRAME_PAYLOAD, PING, PONG, FrameError, FrameParser


def from_server(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


def parsed(stream: bytes, sizes: list[int]) -> list[tuple[int, bytes]]:
    """What the parser gives for a stream cut into pieces, neighbouring data joined."""
    parser = FrameParser()
    result: list[tuple[int, bytes]] = []
    position = 0
    for size in [*sizes, len(stream)]:
        for opcode, data in parser.feed(memoryview(stream)[position : position + size]):
            if opcode == BINARY and result and result[-1][0] == BINARY:
                result[-1] = (BINARY, result[-1][1] + bytes(data))
            else:
                result.append((opcode, bytes(data)))
        position += size
    return result


@given(
    st.sampled_from([BINARY, CLOSE, PING, PONG]),
    st.one_of(st.binary(max_size=125), st.binary(min_size=126, max_size=400)),
)
def test_websockets_reads_our_frames(opcode: int, payload: bytes) -> None:
    if opcode != BINARY:
        payload = payload[:125]
    server = ServerProtocol(state=1)  # type: ignore[arg-type]
    if opcode == CLOSE:
        payload = frames.close_payload(1000, "bye")
    server.receive_data(frames.serialize(opcode, payload))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert (int(frame.opcode), bytes(frame.data)) == (opcode, payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, MAX_FRAME_PAYLOAD])
def test_every_length_form(size: int) -> None:
    payload = random.randbytes(size)
    server = ServerProtocol(state=1)  # type: ignore[arg-type]
    server.receive_data(frames.serialize(BINARY, payload))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert bytes(frame.data) == payload
    assert parsed(from_server(Opcode.BINARY, payload), [1] * 20) == ([(BINARY, payload)] if size else [])


def test_every_frame_has_a_key_of_its_own() -> None:
    assert len({frames.serialize(BINARY, b"x")[2:6] for _ in range(50)}) == 50


@given(st.binary(max_size=5000))
def test_masking_without_the_compiled_part(payload: bytes) -> None:
    key = b"\x01\x80\xfe\x33"
    assert frames._slow_apply_mask(payload, key) == frames._apply_mask(payload, key)


@given(
    st.lists(
        st.tuples(st.sampled_from([Opcode.BINARY, Opcode.PING, Opcode.PONG]), st.binary(max_size=125)),
        max_size=8,
    ),
    st.lists(st.integers(1, 50), max_size=60),
)
def test_frame_borders_mean_nothing(sent: list[tuple[Opcode, bytes]], sizes: list[int]) -> None:
    stream = b"".join(from_server(opcode, data) for opcode, data in sent)
    expected: list[tuple[int, bytes]] = []
    for opcode, data in sent:
        if opcode == BINARY:
            if not data:
                continue
            if expected and expected[-1][0] == BINARY:
                expected[-1] = (BINARY, expected[-1][1] + data)
                continue
        expected.append((int(opcode), data))
    assert parsed(stream, sizes) == expected


def test_fragments_with_a_ping_between() -> None:
    stream = (
        from_server(Opcode.BINARY, b"ab", fin=False)
        + from_server(Opcode.PING, b"?")
        + from_server(Opcode.CONT, b"cd", fin=False)
        + from_server(Opcode.CONT, b"ef")
        + from_server(Opcode.BINARY, b"gh")
    )
    assert parsed(stream, [1] * 9) == [(BINARY, b"ab"), (PING, b"?"), (BINARY, b"cdefgh")]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (from_server(Opcode.TEXT, b"hello"), 1003),
        (b"\xc2\x02ab", 1002),  # a compressed frame
        (b"\xa2\x00", 1002),
        (b"\x92\x00", 1002),
        (b"\x82\x82abcdab", 1002),  # masked
        (b"\x83\x00", 1002),  # reserved opcodes
        (b"\x8b\x00", 1002),
        (b"\x80\x01a", 1002),  # a continuation of nothing
        (b"\x02\x01a\x82\x01b", 1002),  # a new message inside one
        (b"\x09\x00", 1002),  # a fragmented ping
        (b"\x89\x7e\x00\x7e", 1002),  # a ping of 126 bytes
        (b"\x82\x7f" + struct.pack("!Q", MAX_FRAME_PAYLOAD + 1), 1009),
        (b"\x82\x7f" + b"\xff" * 8, 1009),
    ],
)
def test_violations(stream: bytes, code: int) -> None:
    for sizes in ([], [1] * len(stream)):
        with pytest.raises(FrameError) as caught:
            parsed(stream, sizes)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("payload", "meaning"),
    [
        (b"", (1005, "")),
        (b"\x03", (1005, "")),
        (b"\x03\xe8", (1000, "")),
        (b"\x03\xe9bye", (1001, "bye")),
        (b"\x03\xe9\xff", (1001, "\ufffd")),
    ],
)
def test_close_frames(payload: bytes, meaning: tuple[int, str]) -> None:
    assert frames.parse_close(payload) == meaning


def test_a_long_reason_is_cut_at_a_character() -> None:
    payload = frames.close_payload(1002, "\u00e9" * 100)
    assert len(payload) == 124
    assert frames.parse_close(payload) == (1002, "\u00e9" * 61)


def test_mutated_streams_never_surprise() -> None:
    """Frames, or a FrameError; nothing is kept but the beginning of a header or a control frame."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    stream = b"".join(
        [
            from_server(Opcode.BINARY, b"x" * 300),
            from_server(Opcode.PING, b"ping"),
            from_server(Opcode.BINARY, b"y", fin=False),
            from_server(Opcode.CONT, b"z"),
            from_server(Opcode.CLOSE, b"\x03\xe8"),
        ]
    )
    refused = 0
    for _ in range(20_000):
        mutated = bytearray(stream)
        for _ in range(chance.randrange(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        parser: Any = FrameParser()
        try:
            for start in range(0, len(mutated), 97):
                for _ in parser.feed(bytes(mutated[start : start + 97])):
                    pass
                assert len(parser._header) + len(parser._control) <= 125, f"seed {seed}"
        except FrameError:
            refused += 1
    assert 200 < refused < 19_800
