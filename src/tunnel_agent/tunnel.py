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
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional

from tunnel_agent.berth import Berth, StartError
from tunnel_agent.events import Event
from tunnel_agent.logs import ComponentLog
from tunnel_agent.notification import Notification
from tunnel_agent.output import OutputReader, pump
from tunnel_agent.watchdog import Watchdog

logger = logging.getLogger(__name__)

GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
_DRAIN_SECONDS = 1.0  # for the last lines of a process that is gone


class State(enum.Enum):
    """Where in its life a tunnel is."""

    RUNNING = enum.auto()
    ENDING = enum.auto()
    KILLED = enum.auto()
    DRAINING = enum.auto()
    ENDED = enum.auto()


@dataclass
class Launch:
    """How a localproxy is started.

    Attributes:
        command: the program and its arguments.
        environment: all of it.
        timeout: how long the tunnel may be open, in seconds.
        verbosity: the ``-v`` number up to which localproxy's lines go to the log.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    timeout: float
    verbosity: int


class Tunnel:
    """A tunnel, whose localproxy is started by its making. Main thread only.

    Args:
        number: counts the tunnels of this agent; a number is never used twice.
        notification: what it is started for.
        launch: how.
        berth: its folder and its pipes, which the tunnel takes care of from now on.
        client_token: the other secret that it is started with; empty for none.
        watchdog: is told of the process.

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
        berth: Berth,
        client_token: str,
        watchdog: Watchdog,
    ) -> None:
        try:
            self._pid = berth.start(launch.command, launch.environment)
        except OSError as error:
            berth.clear()
            raise StartError(f"{launch.command[0]} cannot be started", error) from error
        except ValueError as error:  # an argument that cannot be written in this system's locale
            berth.clear()
            raise StartError(f"{launch.command[0]} cannot be started: {error}") from error
        watchdog.add(self._pid)
        self.number = number
        self.notification = notification
        self.client_token = client_token
        self.prefix = f"[tunnel {number} {','.join(notification.services)}]"
        self.state = State.RUNNING
        self._verbosity = launch.verbosity
        self._opened = time.monotonic()
        self._deadline = self._opened + launch.timeout
        self._watchdog = watchdog
        self._exit_code = 0  # as subprocess counts: below zero for a signal
        self._open_pipes = 2
        self._connected = False
        self._rejection = ""
        self._stopped: Optional[tuple[str, str]] = None
        self._last_lines: list[str] = []
        self._berth = berth

    def read_output(self, log: ComponentLog, post: Callable[[Event], None]) -> None:
        """Begin to read what localproxy prints; to be called once, soon.

        Args:
            log: gets the output.
            post: gets the events that the output brings.

        Raises:
            StartError: it cannot be read, so localproxy was ended.
        """
        try:
            for pipe, unformatted in ((self._berth.out, logging.INFO), (self._berth.err, logging.WARNING)):
                pipe.close_writing()
                reader = OutputReader(self.number, self.prefix, self._verbosity, unformatted, log.secrets)
                threading.Thread(target=pump, args=(pipe.reading, reader, log, post), daemon=True).start()
                pipe.reading = None  # the pump's to close
        except RuntimeError as error:  # what threading makes of EAGAIN
            if self.state is not State.DRAINING:
                self._signal(signal.SIGKILL)
                self._reap()
            self._berth.clear()
            raise StartError("no thread", OSError(errno.EAGAIN, "")) from error

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
        if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._signal(signal.SIGKILL)  # what it left behind in its group
        self._reap()
        self._berth.remove_folder()
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
        code = self._exit_code
        if self._stopped is not None:
            return self._stopped
        if self._rejection:
            # The C++ localproxy exits 0 then, as it does after a tunnel that was closed.
            return "rejected", self._rejection
        if code == 0:
            return "closed", "localproxy ended" if self._connected else "localproxy ended before it connected"
        if code == -signal.SIGTERM:
            # A nucleus sends it to all processes of a component that it stops, perhaps to the agent last.
            return "closed", "localproxy was ended with SIGTERM"
        how = f"exit code {code}" if code > 0 else f"signal {_signal_name(-code)}"
        return "failed", "; ".join([f"localproxy ended with {how}", *self._last_lines])

    def _signal(self, number: int) -> None:
        # Gone already, or a set-user-id program that is not ours to signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _reap(self) -> None:
        self._watchdog.remove(self._pid)
        _, status = os.waitpid(self._pid, 0)
        self._exit_code = os.waitstatus_to_exitcode(status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
