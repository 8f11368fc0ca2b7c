"""The component's process, run as a nucleus runs it but straight from the source tree, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Optional

from standins.nucleus import TIMEOUT, Nucleus

ROOT = Path(__file__).resolve().parents[2]


class Line(str):
    """A line of the component's output, and when it came (monotonic seconds)."""

    at: float


class Component:
    """A context manager: the running agent, its output line by line, its children.

    Args:
        nucleus: what it connects to.
        work: its work folder.
        extra: variables on top of those of the nucleus.
        limits: what a shell is to do before it becomes the component, such as ``ulimit -n 30``.
        artifact: the folder that has ``src``.

    Attributes:
        reading: whether the output is read at all; a component must live with a reader that stalls.
    """

    def __init__(
        self,
        nucleus: Nucleus,
        work: Path,
        extra: Optional[Mapping[str, str]] = None,
        limits: str = ":",
        python: str = sys.executable,
        artifact: Path = ROOT,
    ) -> None:
        self._nucleus = nucleus
        self._work = work
        self._environment = {"PATH": os.environ["PATH"], **nucleus.environment(), **(extra or {})}
        self._command = [
            "/bin/sh",
            "-c",
            f'{limits}; exec "$@"',
            "sh",
            python,
            "-u",
            f"{artifact}/src/main.py",
        ]
        self._changed = threading.Condition()
        self.out: list[Line] = []
        self.err: list[Line] = []
        self.reading = threading.Event()
        self.reading.set()
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Component:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self._command,
            cwd=self._work,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        for pipe, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            reader = threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        self.reading.set()
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    @property
    def lines(self) -> list[Line]:
        """Both streams' lines so far, those of stdout first."""
        with self._changed:
            return [*self.out, *self.err]

    def take(self) -> list[Line]:
        """The lines so far, which are then forgotten: a long run has many."""
        with self._changed:
            lines = [*self.out, *self.err]
            self.out.clear()
            self.err.clear()
            return lines

    def matching(self, pattern: str) -> list[Line]:
        """The lines so far in which the regular expression is found."""
        return [line for line in self.lines if re.search(pattern, line)]

    def wait_line(self, pattern: str, count: int = 1, timeout: float = TIMEOUT) -> Line:
        """Wait for the ``count``-th line in which the regular expression is found, and return it.

        Raises:
            TimeoutError: it did not come; the message has the whole log.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.matching(pattern)) >= count, timeout):
                raise TimeoutError(f"no line {pattern!r} ({count}) in:\n" + "\n".join(self.lines))
            return self.matching(pattern)[count - 1]

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = TIMEOUT) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the end of the process and of its output; returns the exit code."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    def _read(self, pipe: IO[bytes], lines: list[Line]) -> None:
        # Many lines at once: a reader slower than the component would be what a test measures.
        rest = b""
        with pipe:
            while self.reading.wait() and (data := pipe.read(65536)):
                at = time.monotonic()
                *whole, rest = (rest + data).split(b"\n")
                self._add(lines, whole, at)
        if rest:
            self._add(lines, [rest], time.monotonic())

    def _add(self, lines: list[Line], whole: list[bytes], at: float) -> None:
        read = []
        for text in whole:
            line = Line(text.decode(errors="replace"))
            line.at = at
            read.append(line)
        with self._changed:
            lines += read
            self._changed.notify_all()


def descendants(pid: int) -> list[int]:
    """The process ids of all live children of a process, and of theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # gone in the meantime
            if stat[0] != "Z":
                parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def held(pid: int) -> tuple[int, int]:
    """The threads and the descriptors of a process."""
    process = Path(f"/proc/{pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def memory(pid: int, kind: str = "Private") -> float:
    """MiB of a process by smaps_rollup, such as ``Pss:``; without ``kind`` what it has to itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(kind)) / 1024


def peak(pid: int) -> float:
    """MiB that a process had resident at most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
