"""No localproxy outlives the agent, not even one that was killed.

A parent-death signal has to be set in the child, between fork and exec: with a ``preexec_fn`` that can
deadlock in a process with threads, with setpriv it costs a third program's start and is missing on many
devices. So a shell of its own holds the reading end of a pipe whose writing end only the agent has. It is
told of every process group that starts and ends; when the pipe closes, the agent is gone, and whatever is
left is ended. That costs a tunnel's start one write, and the device one sleeping shell.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from typing import Optional

logger = logging.getLogger(__name__)

# A shell that ends sooner than this (seconds) is broken, and starting it over and over would not mend it.
_SOON = 1.0

# The nucleus's own SIGTERM to all the component's processes must not take the watchdog first.
_SCRIPT = """
trap '' HUP INT TERM
groups=' '
while read -r change group; do
    case $change in
        +) groups="$groups$group " ;;
        -) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
    esac
done
[ "$groups" = "${groups#*[0-9]}" ] && exit 0
for group in $groups; do kill -TERM "-$group"; done 2>/dev/null
sleep 1
for group in $groups; do kill -KILL "-$group"; done 2>/dev/null
"""


class Watchdog:
    """Ends the process groups that it was told of when this process is gone. Main thread only."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._started = 0.0

    def start(self) -> None:
        """Start the shell; a failure is logged, as tunnels matter more, and the next one brings a new try."""
        self._started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "iot-tunnel-agent-watchdog"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},
                bufsize=0,
                # A session of its own: nothing sent to the agent's process group reaches it.
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("no watchdog, a killed agent may leave a localproxy behind: %s", error)
            return
        assert self._process.stdin is not None
        # Never waits: a watchdog that was stopped must not stop the agent.
        os.set_blocking(self._process.stdin.fileno(), False)
        for group in self._groups:
            self._tell("+", group)

    def add(self, group: int) -> None:
        """A process group has started."""
        self._groups.add(group)
        if self._process is None:
            self.start()
        else:
            self._tell("+", group)

    def remove(self, group: int) -> None:
        """A process group has ended; to be called before its leader is reaped and its number free again."""
        self._groups.discard(group)
        self._tell("-", group)

    def restart_if_ended(self) -> None:
        """After SIGCHLD: replace a watchdog that somebody killed."""
        if self._process is not None and self._process.poll() is not None:
            soon = time.monotonic() - self._started < _SOON
            when = "with the next tunnel" if soon else "now"
            logger.warning("the watchdog ended with %s; another starts %s", self._process.returncode, when)
            self.stop()
            if not soon:
                self.start()

    def stop(self) -> None:
        """Let it go: with no groups left it ends by itself."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process = None

    def _tell(self, change: str, group: int) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            os.write(self._process.stdin.fileno(), f"{change} {group}\n".encode())
        except OSError as error:  # it is dead or stopped: SIGCHLD brings another, which is told of all
            logger.debug("the watchdog does not listen: %s", error)
