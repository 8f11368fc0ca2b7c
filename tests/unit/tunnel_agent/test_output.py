"""localproxy's output: lines, levels, what they tell, and that no secret gets through however it is cut."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.events import Event, TunnelConnected, TunnelRejected
from tunnel_agent.logs import Secrets
from tunnel_agent.output import OutputReader, Record

TIME = "[2026-11-22 00:14:27.395683] (0x00007f54)"
SECRET = "AQGA" + "s3cr3t" * 20


def reader(verbosity: int = 6, unformatted: int = logging.WARNING) -> OutputReader:
    secrets = Secrets()
    secrets.add(SECRET, "client-token-0123456789")
    return OutputReader(3, "[tunnel 3 SSH]", verbosity, unformatted, secrets)


def read(text: bytes, size: int = 1 << 20, verbosity: int = 6) -> tuple[list[Record], list[Event]]:
    """Everything that the text gives when it arrives in pieces of this size."""
    records: list[Record] = []
    events: list[Event] = []
    taken = reader(verbosity)
    pieces = [taken.feed(text[start : start + size]) for start in range(0, len(text), size)]
    for more_records, more_events in [*pieces, taken.finish()]:
        records += more_records
        events += more_events
    return records, events


def lines(text: bytes, size: int = 1 << 20) -> list[str]:
    return [text for _, text in read(text, size)[0]]


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        ("trace", "DEBUG"),
        ("debug", "DEBUG"),
        ("info", "INFO"),
        ("warning", "WARNING"),
        ("error", "ERROR"),
        ("fatal", "ERROR"),
        ("strange", "WARNING"),
    ],
)
def test_levels(severity: str, level: str) -> None:
    assert lines(f"{TIME} [{severity}] some text\n".encode()) == [f"{level} [tunnel 3 SSH] some text"]


def test_verbosity() -> None:
    text = "".join(f"{TIME} [{s}] {s}\n" for s in ("trace", "debug", "info", "warning", "error", "fatal"))
    for verbosity in range(7):
        assert len(read(text.encode(), verbosity=verbosity)[0]) == verbosity


def test_records_of_old_binaries() -> None:
    old = "[2026-11-22T00:14:27.395683]{32596}"
    records, events = read(
        f"{old}[info]    Successfully established websocket connection\n{old}[warning] slow\n".encode()
    )
    assert records == [
        (logging.INFO, "INFO [tunnel 3 SSH] Successfully established websocket connection"),
        (logging.WARNING, "WARNING [tunnel 3 SSH] slow"),
    ]
    assert events == [TunnelConnected(3)]


def test_what_lines_tell() -> None:
    text = (
        f"{TIME} [info] Successfully established websocket connection with proxy server: wss://x\n"
        f'{TIME} [error] Proxy server rejected web socket upgrade request: (HTTP/1.1 403 Forbidden) "no"\n'
        f"{TIME} [info] he said Successfully established websocket connection\n"
        "Successfully established websocket connection\n"
    )
    for verbosity in (0, 4):
        _, events = read(text.encode(), verbosity=verbosity)
        assert events == [TunnelConnected(3), TunnelRejected(3, '(HTTP/1.1 403 Forbidden) "no"')]


def test_last_lines() -> None:
    taken = reader()
    taken.feed("".join(f"{TIME} [error] {number}\n{TIME} [info] x\n" for number in range(9)).encode())
    assert taken.last_lines == ("6", "7", "8")


def test_undecodable_bytes_and_control_characters() -> None:
    assert lines(b"a\xff\xfeb\x1b[31m\0c\td\r\n") == ["WARNING [tunnel 3 SSH] a\ufffd\ufffdb?[31m?c\td"]
    assert lines("one\x9b2Jtwo\n".encode()) == ["WARNING [tunnel 3 SSH] one?2Jtwo"]


def test_empty_lines_are_left_out() -> None:
    assert lines(b"\n\r\n\na\n\n") == ["WARNING [tunnel 3 SSH] a"]


@pytest.mark.parametrize("size", [1, 7, 100, 8192, 65536])
def test_an_endless_line_is_cut(size: int) -> None:
    got = lines(b"x" * 100_000 + b"\nnext\n", size)
    assert [len(line) for line in got] == [
        8192 + len("WARNING [tunnel 3 SSH] "),
        len("WARNING [tunnel 3 SSH] next"),
    ]


@pytest.mark.parametrize("size", [1, 7, 8192, 65536])
@pytest.mark.parametrize("before", range(8192 - len(SECRET) - 3, 8192 + 3, 9))
def test_no_piece_of_a_secret_at_the_cut(size: int, before: int) -> None:
    for after in (b"\n", b"y" * 9000, b""):
        for line in lines(b"x" * before + SECRET.encode() * 3 + after, size):
            assert "AQ" not in line
            assert "s3cr3t" not in line


@pytest.mark.parametrize("over", range(1, 700, 23))
def test_no_piece_of_a_secret_in_an_endless_line_of_nothing_else(over: int) -> None:
    secret = "AQGA" + "s3cr3t" * 100  # as long as a real one
    secrets = Secrets()
    secrets.add(secret)
    taken = OutputReader(3, "", 6, logging.INFO, secrets)
    records, _ = taken.feed((secret * 20)[: 8192 + len(secret) + over].encode())
    assert not [text for _, text in records if "AQ" in text or "s3cr3t" in text]


@given(
    st.lists(
        st.sampled_from(["\n", "x", "y" * 5000, SECRET, "client-token-0123456789", " ", "é"]), max_size=12
    )
)
def test_no_secret_however_it_arrives(parts: list[str]) -> None:
    text = "".join(parts).encode()
    whole = lines(text)
    for size in (1, 1000, 65536):
        got = lines(text, size)
        assert not [line for line in got if "s3cr3t" in line or "client-token" in line]
        if "y" not in text.decode():
            assert got == whole


@given(st.binary(max_size=2000), st.integers(1, 100))
def test_whatever_the_bytes(data: bytes, size: int) -> None:
    for line in lines(data, size):
        assert "\n" not in line
