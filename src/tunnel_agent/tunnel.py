"""One tunnel: the localproxy process, its working directory, its deadline, its outcome.

Making a ``Tunnel`` starts it; from then on the main thread calls ``observe`` when a child ended and
``on_time`` when ``next_deadline`` has come, until ``ended``. The states::

    RUNNING --deadline, stop()--> ENDING (SIGTERM sent) --grace--> KILLED (SIGKILL sent)
       any of these --process gone--> DRAINING (output still to be read) --pipes closed--> ENDED
"""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from tunnel_agent.events import Event
from tunnel_agent.logs import ComponentLog
from tunnel_agent.notification import Notification
from tunnel_agent.output import OutputReader, pump
from tunnel_agent.watchdog import Watchdog

logger = logging.getLogger(__name__)

GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
_DRAIN_SECONDS = 1.0  # for the last lines of a process that is gone

# Errors of a device that is short of something now and may not be in a moment.
_TRANSIENT = {
    errno.EAGAIN: "no more processes or threads are allowed now",
    errno.ENOMEM: "there is not enough memory now",
    errno.EMFILE: "this component has too many files open",
    errno.ENFILE: "the device has too many files open",
}


class StartError(Exception):
    """localproxy could not be started: why, in one line.

    Attributes:
        transient: whether the same start may work in a moment.
    """

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


class State(enum.Enum):
    """Where in its life a tunnel is."""

    RUNNING = enum.auto()
    ENDING = enum.auto()
    KILLED = enum.auto()
    DRAINING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True)
class Launch:
    """How a localproxy is started.

    Attributes:
        command: the program and its arguments.
        environment: all of it.
        folder: its working directory, empty and its own; the tunnel removes it.
        timeout: how long the tunnel may be open, in seconds.
        verbosity: the ``-v`` number up to which localproxy's lines go to the log.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    timeout: float
    verbosity: int


class Tunnel:
    """A tunnel, started by its making. Main thread only.

    Args:
        number: counts the tunnels of this agent; a number is never used twice.
        notification: what it is started for.
        launch: how.
        client_token: the other secret that it is started with; empty for none.
        watchdog: is told of the process.
        log: gets the output.
        post: gets the events that the output brings.

    Attributes:
        prefix: what its lines in the log start with.

    Raises:
        StartError: nothing was started, or what was started is gone again.
    """

    def __init__(
        self,
        number: int,
        notification: Notification,
        launch: Launch,
        client_token: str,
        watchdog: Watchdog,
        log: ComponentLog,
        post: Callable[[Event], None],
    ) -> None:
        self.number = number
        self.notification = notification
        self.client_token = client_token
        self.prefix = f"[tunnel {number} {','.join(notification.services)}]"
        self.state = State.RUNNING
        self._opened = time.monotonic()
        self._deadline = self._opened + launch.timeout
        self._watchdog = watchdog
        self._open_pipes = 2
        self._connected = False
        self._rejection = ""
        self._stopped: Optional[tuple[str, str]] = None
        self._last_lines: list[str] = []
        self._folder = launch.folder
        try:
            self._process = _spawn(launch)
        except OSError as error:
            reason = _TRANSIENT.get(error.errno or 0)
            self._remove_folder()
            program = f"{launch.command[0]} cannot be started: {error.strerror}"
            raise StartError(reason or program, reason is not None) from error
        watchdog.add(self._process.pid)
        try:
            self._start_pumps(launch.verbosity, log, post)
        except RuntimeError as error:  # what threading makes of EAGAIN
            self._signal(signal.SIGKILL)
            self._reap()
            self._remove_folder()
            raise StartError(_TRANSIENT[errno.EAGAIN], True) from error

    def _start_pumps(self, verbosity: int, log: ComponentLog, post: Callable[[Event], None]) -> None:
        pipes = ((self._process.stdout, logging.INFO), (self._process.stderr, logging.WARNING))
        for pipe, unformatted in pipes:
            assert pipe is not None
            reader = OutputReader(self.number, self.prefix, verbosity, unformatted, log.secrets)
            threading.Thread(target=pump, args=(pipe, reader, log, post), daemon=True).start()

    @property
    def next_deadline(self) -> float:
        """When ``on_time`` wants to be called (monotonic seconds)."""
        return self._deadline

    @property
    def ended(self) -> bool:
        """Whether the process is gone and its output is read."""
        return self.state is State.ENDED

    @property
    def silent(self) -> bool:
        """Whether nothing more of its output can come."""
        return not self._open_pipes

    @property
    def age(self) -> float:
        """For how long it has been open, in seconds."""
        return time.monotonic() - self._opened

    def on_time(self, now: float) -> None:
        """Do what is due at ``next_deadline``."""
        if now < self._deadline:
            return
        if self.state is State.RUNNING:
            self.stop("timedOut", "it was open for as long as tunnelTimeoutSeconds allows")
        elif self.state is State.ENDING:
            self._signal(signal.SIGKILL)
            self.state = State.KILLED
            self._deadline = float("inf")
        elif self.state is State.DRAINING:
            # A process that localproxy started has left its group and keeps the pipe open.
            logger.warning("%s something that localproxy started is still there", self.prefix)
            self.state = State.ENDED

    def stop(self, event: str, reason: str) -> None:
        """End it: SIGTERM, and SIGKILL after the grace. ``event`` and ``reason`` become its outcome."""
        if self.state is State.RUNNING:
            self._stopped = (event, reason)
            self._signal(signal.SIGTERM)
            self.state = State.ENDING
            self._deadline = time.monotonic() + GRACE_SECONDS

    def observe(self) -> None:
        """Find out whether the process has ended, and clean up after it if so."""
        if self.state in (State.DRAINING, State.ENDED):
            return
        # Left as a zombie at first: as long as its number is taken, the signal can hit no stranger.
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._signal(signal.SIGKILL)  # what it left behind in its group
        self._reap()
        self._remove_folder()
        self.state = State.DRAINING if self._open_pipes else State.ENDED
        self._deadline = time.monotonic() + _DRAIN_SECONDS

    def on_connected(self) -> None:
        """localproxy said that it is connected."""
        self._connected = True
        self._rejection = ""

    def on_rejected(self, reason: str) -> None:
        """localproxy said that the service refused it; with 5xx it will try again."""
        self._rejection = reason

    def on_output_ended(self, last_lines: Sequence[str]) -> None:
        """One of its two pipes is closed."""
        self._open_pipes -= 1
        self._last_lines += last_lines
        if not self._open_pipes and self.state is State.DRAINING:
            self.state = State.ENDED

    @property
    def outcome(self) -> tuple[str, str]:
        """How it ended: the status event's name and the reason."""
        code = self._process.returncode
        if self._stopped is not None:
            return self._stopped
        if self._rejection:
            # The C++ localproxy exits 0 then, as it does after a tunnel that was closed.
            return "rejected", self._rejection
        if code == 0:
            return "closed", "localproxy ended" if self._connected else "localproxy ended before it connected"
        how = f"exit code {code}" if code > 0 else f"signal {_signal_name(-code)}"
        return "failed", "; ".join([f"localproxy ended with {how}", *self._last_lines])

    def _signal(self, number: int) -> None:
        # Gone already, or a set-user-id program that is not ours to signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        self._watchdog.remove(self._process.pid)
        self._process.wait()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _spawn(launch: Launch) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        launch.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=launch.folder,
        env=launch.environment,
        start_new_session=True,  # and with it a process group of its own
        bufsize=0,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
