"""Log lines on stderr, in the shape of the C++ localproxy's (so that one reader reads both).

What lives here: the shape of a line, levels, what is kept out of it. What must not: any decision.

A line never holds a secret: whatever `Log.hide` was given is struck out, also where a peer sends it
back. It never holds a line break or another control character. And it never waits: a line that the
reader of stderr has no room for is dropped and counted, because a tunnel must not stop for its log.
"""

from __future__ import annotations

import os
import re
import select
import time

FATAL, ERROR, WARNING, INFO, DEBUG, TRACE = range(1, 7)

_NAMES = {FATAL: "fatal", ERROR: "error", WARNING: "warning", INFO: "info", DEBUG: "debug", TRACE: "trace"}
# A write of up to this much to a pipe with room is all or nothing, and does not wait.
_MAX_LINE = select.PIPE_BUF
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]")


class Log:
    """Lines up to `level` (0 none, 6 all) to the file descriptor."""

    def __init__(self, level: int = INFO, descriptor: int = 2) -> None:
        self.level = level
        self._descriptor = descriptor
        self._secrets: list[str] = []
        self._dropped = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def hide(self, secret: str) -> None:
        """Strike this out of every line from now on."""
        if secret:
            self._secrets.append(secret)

    def fatal(self, text: str) -> None:
        self._line(FATAL, text)

    def error(self, text: str) -> None:
        self._line(ERROR, text)

    def warning(self, text: str) -> None:
        self._line(WARNING, text)

    def info(self, text: str) -> None:
        self._line(INFO, text)

    def debug(self, text: str) -> None:
        self._line(DEBUG, text)

    def trace(self, text: str) -> None:
        self._line(TRACE, text)

    def _line(self, level: int, text: str) -> None:
        if level > self.level:
            return
        if self._dropped and self._write(WARNING, f"{self._dropped} log lines were dropped: stderr was full"):
            self._dropped = 0
        if not self._write(level, text):
            self._dropped += 1

    def _write(self, level: int, text: str) -> bool:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        microseconds = int(now % 1 * 1_000_000)
        line = f"[{stamp}.{microseconds:06}] (0x{os.getpid():08x}) [{_NAMES[level]}] {text}"
        raw = line.encode(errors="backslashreplace")[: _MAX_LINE - 1] + b"\n"
        try:
            if not self._poll.poll(0):
                return False
            os.write(self._descriptor, raw)
        except OSError:
            # Nobody reads it any more; the tunnel goes on.
            return False
        return True
