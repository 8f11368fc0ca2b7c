"""The component log: records to stdout and stderr, secrets taken out on the way.

A record is one line, ``LEVEL text``; the nucleus adds the time. DEBUG and INFO go to stdout, WARNING and
above to stderr, as the nuclei give the two different levels.

Whoever logs must not be held up by whoever reads: each of the two streams has a thread that writes, and a
queue with an upper bound before it. When the reader is too slow for that, lines are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import Counter, deque

WHAT_A_SECRET_BECOMES = b"<token>"

# How much may wait to be written (bytes): of one localproxy's pipe, so that one that floods neither costs nor
# delays anybody else's lines; of all of them; of the agent's own records.
_ROOM_FOR_PIPE = 64 * 1024
_ROOM_FOR_OUTPUT = 4 * 1024 * 1024
_ROOM_FOR_RECORDS = 512 * 1024
# How long a pump waits for room before its lines are dropped (seconds). While it waits localproxy's own
# output backs up, so this must stay short.
_PATIENCE = 0.25


class Secrets:
    """What must never appear in a log. One thread adds and discards, every thread redacts.

    Readers see a tuple that is replaced as a whole, so they need no lock.
    """

    def __init__(self) -> None:
        self._secrets: tuple[bytes, ...] = ()

    def add(self, *secrets: str) -> None:
        """Redact these from now on."""
        self._secrets += tuple(secret.encode() for secret in secrets if secret)

    def discard(self, *secrets: str) -> None:
        """Stop redacting these."""
        gone = {secret.encode() for secret in secrets}
        self._secrets = tuple(secret for secret in self._secrets if secret not in gone)

    @property
    def longest(self) -> int:
        """The length in bytes of the longest one: how much of a cut text may hold a piece of a secret."""
        return max(map(len, self._secrets), default=0)

    def redact(self, data: bytes) -> bytes:
        """``data`` with every secret replaced."""
        for secret in self._secrets:
            data = data.replace(secret, WHAT_A_SECRET_BECOMES)
        return data


class _Stream:
    """One of the two output streams: a bounded queue and the thread that writes it out."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: deque[tuple[object, bytes]] = deque()
        # Of each sender (None for the agent), in the queue and in the write under way.
        self._sizes: Counter[object] = Counter()
        self._dropped = 0  # lines
        self._changed = threading.Condition()
        threading.Thread(target=self._write_out, name=f"log-{descriptor}", daemon=True).start()

    def put_record(self, data: bytes) -> None:
        with self._changed:
            if self._sizes[None] > _ROOM_FOR_RECORDS:
                self._dropped += 1
            else:
                self._append(None, data)

    def put_output(self, sender: object, data: bytes, lines: int) -> None:
        with self._changed:
            # A stalled reader must not cost the patience again and again.
            if not self._dropped:
                self._changed.wait_for(lambda: self._has_room(sender), _PATIENCE)
            if self._has_room(sender):
                self._append(sender, data)
            else:
                self._dropped += lines

    def _has_room(self, sender: object) -> bool:
        return self._sizes[sender] <= _ROOM_FOR_PIPE and sum(self._sizes.values()) <= _ROOM_FOR_OUTPUT

    def _append(self, sender: object, data: bytes) -> None:
        self._queue.append((sender, data))
        self._sizes[sender] += len(data)
        self._changed.notify_all()

    def flush(self, deadline: float) -> None:
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: not any(self._sizes.values()), left)

    def _write_out(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
                data = b"".join(data for _, data in self._queue)
                self._queue.clear()
                if self._dropped:
                    data += b"WARNING %d log lines were dropped: their reader is too slow\n" % self._dropped
                    self._dropped = 0
            self._write(data)
            with self._changed:
                self._sizes.clear()
                for sender, data in self._queue:
                    self._sizes[sender] += len(data)
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody who shares the pipe made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return  # nobody reads any more; the tunnels go on all the same


class ComponentLog(logging.Handler):
    """The two streams, as the handler of Python's logging and for the output of localproxy."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self.secrets = secrets
        self._out = _Stream(1)
        self._err = _Stream(2)

    def install(self) -> None:
        """Take over the root logger; what the SDK logs is left out, as it quotes payloads."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.INFO)
        logging.getLogger("awsiot").disabled = True
        logging.getLogger("awsiot.eventstreamrpc").disabled = True

    def emit(self, record: logging.LogRecord) -> None:
        """Put the agent's own record on its stream; never waits."""
        text = f"{record.levelname} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        line = self.secrets.redact(" | ".join(text.splitlines()).encode(errors="backslashreplace")) + b"\n"
        self._stream(record.levelno).put_record(line)

    def write_output(self, sender: object, level: int, records: list[str]) -> None:
        """Put lines of localproxy's output, redacted already, on a stream; waits a little for room.

        Args:
            sender: whose output it is: each has a room of its own.
        """
        data = ("\n".join(records) + "\n").encode(errors="replace")
        self._stream(level).put_output(sender, data, len(records))

    def drain(self, timeout: float) -> None:
        """Wait until all is written out, at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._out.flush(deadline)
        self._err.flush(deadline)

    def _stream(self, level: int) -> _Stream:
        return self._err if level >= logging.WARNING else self._out
