"""What a localproxy prints: cut into lines, redacted, given a level, read for what it tells about the tunnel.

``OutputReader`` is pure: bytes in, records and events out. ``pump`` is the thread around it, one for each
pipe of each tunnel.

The C++ localproxy and the built-in one print one line a record::

    [2026-11-22 00:14:27.395683] (0x00007f54) [info] text

and the C++ one before 3.1, which still is what old systems can run::

    [2026-11-22T00:14:27.395683]{32596}[info]    text
"""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import IO, Callable

from tunnel_agent.events import Event, OutputEnded, TunnelConnected, TunnelRejected
from tunnel_agent.logs import ComponentLog, Secrets

logger = logging.getLogger(__name__)

_RECORD = re.compile(r"\[\d{4}-\d\d-\d\d[ T][\d:.]+\](?: \(0x[0-9a-f]+\) |\{\d+\})\[([a-z]+)\] +(.*)")
_CONNECTED = "Successfully established websocket connection"
_REJECTED = "Proxy server rejected web socket upgrade request: "

# localproxy's severities: their number as its -v counts them, and the level that they have in our log.
_SEVERITIES = {
    "fatal": (1, logging.ERROR),
    "error": (2, logging.ERROR),
    "warning": (3, logging.WARNING),
    "info": (4, logging.INFO),
    "debug": (5, logging.DEBUG),
    "trace": (6, logging.DEBUG),
}
# Control characters would let a line pretend to be several, or command a terminal.
_CONTROL = {**dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "?"), 13: None}

_MAX_LINE = 8192  # bytes
_CHUNK = 65536  # bytes
_LAST_LINES = 3

Record = tuple[int, str]


class OutputReader:
    """One pipe of one localproxy.

    Args:
        number: the tunnel's.
        prefix: what every record starts with, such as ``[tunnel 3 SSH]``.
        verbosity: the ``-v`` number up to which localproxy's records are wanted.
        unformatted: the level of lines that are no records of localproxy's.
        secrets: what must not pass.
    """

    def __init__(self, number: int, prefix: str, verbosity: int, unformatted: int, secrets: Secrets) -> None:
        self.number = number
        self._prefix = prefix
        self._verbosity = verbosity
        self._unformatted = unformatted
        self._secrets = secrets
        self._rest = b""
        self._skipping = False  # in a line that was cut, until its end
        self._complaints: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of level WARNING and above, without prefix."""
        return tuple(self._complaints)

    def feed(self, data: bytes) -> tuple[list[Record], list[Event]]:
        """Take bytes as they come; give the records of the lines that they complete, and what those tell."""
        if self._skipping:
            _, newline, data = data.partition(b"\n")
            self._skipping = not newline
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        whole, self._rest = self._secrets.redact(data[:end]), data[end:]
        # The rest is kept until a secret that starts within the limit is there in full.
        longest = self._secrets.longest
        if len(self._rest) > _MAX_LINE + longest:
            # What stands at its very end may be the beginning of a secret: that is dropped with what follows.
            redacted = self._secrets.redact(self._rest)
            whole += redacted[: max(0, min(_MAX_LINE, len(redacted) - longest))] + b"\n"
            self._rest = b""
            self._skipping = True
        return self._read(whole)

    def finish(self) -> tuple[list[Record], list[Event]]:
        """The pipe is closed: what is left is a line, too."""
        rest, self._rest = self._rest, b""
        return self._read(self._secrets.redact(rest) + b"\n" if rest else b"")

    def _read(self, whole: bytes) -> tuple[list[Record], list[Event]]:
        records: list[Record] = []
        events: list[Event] = []
        text = whole.decode(errors="replace").translate(_CONTROL)
        for line in text.split("\n"):
            if not line:
                continue
            match = _RECORD.match(line)
            level = self._unformatted
            if match is not None:
                severity, line = match.groups()
                rank, level = _SEVERITIES.get(severity, (0, level))
                if line.startswith(_CONNECTED):
                    events.append(TunnelConnected(self.number))
                elif line.startswith(_REJECTED):
                    events.append(TunnelRejected(self.number, line[len(_REJECTED) :]))
                if rank > self._verbosity:
                    continue
            if level >= logging.WARNING:
                self._complaints.append(line[:_MAX_LINE])
            records.append((level, f"{logging.getLevelName(level)} {self._prefix} {line[:_MAX_LINE]}"))
        return records, events


def pump(
    pipe: IO[bytes],
    reader: OutputReader,
    log: ComponentLog,
    post: Callable[[Event], None],
) -> None:
    """Carry a localproxy's output into the component log until the (unbuffered) pipe is closed; closes it.

    Whatever happens the pipe is read to its end, as a localproxy whose pipe is full stands still.
    """
    with pipe:
        while chunk := pipe.read(_CHUNK):
            try:
                _deliver(reader, *reader.feed(chunk), log, post)
            except Exception:
                logger.exception("output of tunnel %d was lost", reader.number)
        _deliver(reader, *reader.finish(), log, post)
    post(OutputEnded(reader.number, reader.last_lines))


def _deliver(
    sender: OutputReader,
    records: list[Record],
    events: list[Event],
    log: ComponentLog,
    post: Callable[[Event], None],
) -> None:
    for event in events:
        post(event)
    start = 0
    for index in range(1, len(records) + 1):
        # Neighbours of one stream go out as one piece.
        if index == len(records) or _is_complaint(records[index]) != _is_complaint(records[start]):
            log.write_output(sender, records[start][0], [text for _, text in records[start:index]])
            start = index


def _is_complaint(record: Record) -> bool:
    return record[0] >= logging.WARNING
