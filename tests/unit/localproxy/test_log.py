"""Log lines: their shape, what never is in one, and that nobody waits for them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from collections.abc import Iterator

import pytest

from localproxy.log import DEBUG, INFO, TRACE, Log

LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] \(0x[0-9a-f]{8,}\) \[(\w+)\] (.*)\n")


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def lines(self) -> list[tuple[str, str]]:
        """What is in the pipe now."""
        text = ""
        while select.select([self.read_end], [], [], 0)[0]:
            text += os.read(self.read_end, 65536).decode()
        found = LINE.findall(text)
        assert "".join(LINE.sub("", text)) == ""
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for end in (made.read_end, made.write_end):
        with contextlib.suppress(OSError):
            os.close(end)


def test_shape_and_levels(pipe: Pipe) -> None:
    for level in range(7):
        log = Log(level, pipe.write_end)
        for name in ("fatal", "error", "warning", "info", "debug", "trace"):
            getattr(log, name)(f"at {name}")
        names = ["fatal", "error", "warning", "info", "debug", "trace"][:level]
        assert pipe.lines() == [(name, f"at {name}") for name in names]


def test_no_secret_no_control_character_no_second_line(pipe: Pipe) -> None:
    log = Log(TRACE, pipe.write_end)
    log.hide("s3cret")
    log.hide("")
    log.info("the s3cret token\n[2026-01-01] \x1b[31mred\x00 \u00e9\u200b\ud800")
    ((_, text),) = pipe.lines()
    assert text == "the *** token\\n[2026-01-01] \\x1b[31mred\\x00 \u00e9\u200b\\ud800"


def test_a_long_line_is_cut(pipe: Pipe) -> None:
    Log(INFO, pipe.write_end).info("x" * 100_000)
    ((_, text),) = pipe.lines()
    assert 4000 < len(text) < 4096


def test_a_full_pipe_is_not_waited_for(pipe: Pipe) -> None:
    log = Log(INFO, pipe.write_end)
    begun = time.monotonic()
    for number in range(5000):
        log.info(f"line {number} " + "x" * 100)
    assert time.monotonic() - begun < 5
    first = pipe.lines()
    assert 100 < len(first) < 5000
    log.info("again")
    assert pipe.lines() == [
        ("warning", f"{5000 - len(first)} log lines were dropped: stderr was full"),
        ("info", "again"),
    ]


def test_nobody_reads(pipe: Pipe) -> None:
    log = Log(DEBUG, pipe.write_end)
    os.close(pipe.read_end)
    log.info("into the void")
    os.close(pipe.write_end)
    log.info("into nothing")
