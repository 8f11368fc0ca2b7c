"""A whole device to break: nucleus, tunneling service, local service, the agent with its built-in localproxy.

``Stage`` keeps the books of what was delivered and knows what must hold once a fault is over (`settle`).
What breaks is in the modules ``faults_*``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Optional

from standins.component import Component, alive, descendants, held, memory
from standins.ledger import Ledger
from standins.local_service import MoodyService, exchange
from standins.loop_thread import LoopThread
from standins.nucleus import Nucleus
from standins.source import Source
from standins.tunnel import Tunnel
from standins.tunneling_service import TunnelingService

TIMEOUT = 30.0  # of any one wait: the machine may be busy
MEMORY_TOLERANCE = 6.0  # MiB above what the same agent had once it had served its first tunnel


def until(problem: Callable[[], str], timeout: float = TIMEOUT) -> None:
    """Wait for something that tells nobody (``/proc``) until there is no problem; TimeoutError names it."""
    deadline = time.monotonic() + timeout
    while text := problem():
        if time.monotonic() > deadline:
            raise TimeoutError(text)
        time.sleep(0.02)


class Connected:
    """A tunnel that was served, its source connected."""

    def __init__(self, tunnel: Tunnel, stack: ExitStack, port: int, pid: int) -> None:
        self.tunnel = tunnel
        self.token = tunnel.destination.token.text
        self.stack = stack
        self.port = port
        self.pid = pid  # of its localproxy


class Stage:
    """A context manager. As root the agent runs as another user, as on a device."""

    def __init__(self) -> None:
        self.root = os.geteuid() == 0 and shutil.which("setpriv") is not None
        self.served = 0  # tunnels that carried bytes
        self.lives = 0
        self.delivered = 0
        self.memory = 0.0
        self._user = 60000 + os.getpid() % 5000 if self.root else os.geteuid()
        options = ["--reuid", str(self._user), "--regid", str(self._user), "--clear-groups", "--"]
        self._become = ["setpriv", *options] if self.root else []
        self._ledger = Ledger()
        self._sources: list[ExitStack] = []
        self._at_end: list[Callable[[], object]] = []

    def __enter__(self) -> Stage:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp")))
        folder.chmod(0o755)
        self.work = folder / "work"
        self.work.mkdir()
        if self.root:
            os.chown(self.work, self._user, self._user)
            # The other user may connect to the nucleus's socket.
            self._stack.callback(os.umask, os.umask(0))
        self.loop = self._stack.enter_context(LoopThread())
        self.service = self._stack.enter_context(self.loop.enter(TunnelingService(folder)))
        self.local = MoodyService()
        self._stack.enter_context(self.loop.enter(self.local))
        self.base: dict[str, Any] = {
            "localproxyPath": "builtin",
            "tunnelingEndpoint": self.service.endpoint,
            "caPath": str(self.service.ca_directory),
            "services": {"SSH": self.local.port},
            "resubscribeSeconds": 3600,
            "maxConcurrentTunnels": 20,
            "tunnelTimeoutSeconds": 3600,
            "localproxyVerbosity": 4,
            "logLevel": "INFO",
        }
        self.nucleus = Nucleus(folder, dict(self.base))
        self._stack.callback(self.nucleus.close)
        self.nucleus.open()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.component.__exit__()
        self._close_sources()
        self._stack.close()

    # The agent.

    def start(self, small_disk: bool = False, ready: bool = True) -> None:
        """Start the agent, as the nucleus would; ``small_disk`` gives it a work folder of 64 KiB."""
        become = shlex.join(self._become) + " "
        limits = f'ulimit -c 0; umask 022; exec {become}"$@"'
        if small_disk:
            options = f"size=64k,nr_inodes=8,uid={self._user},gid={self._user}"
            inner = f'mount -t tmpfs -o {options} tmpfs "$0" && cd "$0" && exec {become}"$@"'
            limits = f'exec unshare -m sh -c {shlex.quote(inner)} {self.work} "$@"'
        self._ledger.secrets |= {
            self.nucleus.token,
            self.nucleus.environment()["AWS_CONTAINER_AUTHORIZATION_TOKEN"],
        }
        self.component = Component(self.nucleus, self.work, limits=limits)
        self.component.__enter__()
        self.lives += 1
        self._idle: tuple[int, int] = (0, 0)
        self._memory = 0.0
        if ready:
            self.ready()

    def ready(self) -> None:
        """Wait until the agent serves."""
        self.ready_again()
        self.component.wait_line("^INFO services: ", timeout=TIMEOUT)
        self.settle()

    def ready_again(self) -> None:
        """Wait until an agent that lost its connection has its subscriptions again."""
        for operation in ("SubscribeToIoTCore", "SubscribeToConfigurationUpdate"):
            self.nucleus.wait_subscribed(operation, TIMEOUT)

    def over(self, code: int) -> None:
        """Wait for the agent's end, and look that it left nothing and told the end of all its tunnels."""
        found = self.component.wait(TIMEOUT)
        if found != code:
            raise AssertionError(f"the agent ended with {found}, not {code}")
        until(lambda: "" if not self.processes() else f"left over: {self.processes()}")
        self._books()
        if code >= 0:
            until(self._books)
        self._ledger.close()

    def restart(self, small_disk: bool = False) -> None:
        """Stop the agent as the nucleus does, and start it again."""
        self.component.process.send_signal(signal.SIGTERM)
        self.over(0)
        self.start(small_disk)

    def limit(self, kind: str, soft: str) -> None:
        """Set a soft limit of the running agent, which ``prlimit`` calls so; empty for the hard one."""
        pid = self.component.process.pid
        if not soft:
            names = {"nofile": "Max open files", "nproc": "Max processes", "as": "Max address space"}
            limits = Path(f"/proc/{pid}/limits").read_text()
            soft = limits.partition(names[kind])[2].split()[1]
        command = [*self._become, "prlimit", "--pid", str(pid), f"--{kind}={soft}:"]
        subprocess.run(command, check=True, timeout=TIMEOUT)

    def processes(self) -> list[int]:
        """The processes of this stage's agent, by its other user where there is one, but for the agent."""
        agent = self.component.process.pid
        if not self.root:
            return descendants(agent)
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and entry.stat().st_uid == self._user and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone in the meantime
        return [pid for pid in found if pid != agent]

    def localproxy(self, token: str) -> int:
        """The process id of the localproxy with this access token."""
        for pid in descendants(self.component.process.pid):
            if token.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                return pid
        raise LookupError("no localproxy has this token")

    # Tunnels.

    def deliver(self, notification: dict[str, Any]) -> int:
        """Deliver a valid notification, which from now on must be served or refused."""
        token = notification["clientAccessToken"]
        self._ledger.secrets.add(token)
        sent = self.nucleus.notify(notification)
        if sent:
            self.delivered += 1
            self._ledger.expect(token)
        return sent

    def announce(self, services: Sequence[str] = ("SSH",)) -> Tunnel:
        """Open a tunnel and have the agent told of it."""
        tunnel = self.loop.run(self.service.open_tunnel(services))
        if not self.deliver(tunnel.notification):
            raise AssertionError("no subscription was there to take a notification")
        return tunnel

    def connect(self, tunnel: Tunnel, before: Optional[Connected] = None) -> Connected:
        """Wait until a tunnel's localproxy is connected, and connect its source if it was not ``before``."""
        token = tunnel.destination.token.text
        self.loop.run(tunnel.destination.wait_connected(timeout=TIMEOUT), TIMEOUT + 5)
        self.nucleus.wait_status("connected", token, timeout=TIMEOUT)
        if before is not None:
            return Connected(tunnel, before.stack, before.port, self.localproxy(token))
        stack = ExitStack()
        self._sources.append(stack)
        source = Source(self.service.endpoint, self.service.ca_file, tunnel.source.token.text)
        ports = stack.enter_context(self.loop.enter(source)).ports
        return Connected(tunnel, stack, ports["SSH"], self.localproxy(token))

    def open(self) -> Connected:
        """A tunnel that is served."""
        return self.connect(self.announce())

    def exchange(self, connected: Connected, size: int = 65536) -> None:
        """Have bytes go to the local service and back."""
        exchange(connected.port, size, TIMEOUT)

    def close(self, connected: Connected) -> None:
        """Close a tunnel, and wait until the agent knows."""
        self.loop.run(connected.tunnel.close())
        self.nucleus.wait_until(lambda: self.nucleus.ended(connected.token), TIMEOUT)
        connected.stack.close()

    def configure(self, **changes: Any) -> None:
        """Deploy the base configuration with these changes, and wait until the agent has read it."""
        before = len(self.nucleus.asked("GetConfiguration"))
        wanted = {**self.base, **changes}
        if wanted != self.nucleus.configuration:
            self.nucleus.configure(wanted)
            self.nucleus.wait_until(lambda: len(self.nucleus.asked("GetConfiguration")) > before, TIMEOUT)

    def after_closing(self, call: Callable[[], object]) -> None:
        """Have something called once the tunnels of this fault are closed."""
        self._at_end.append(call)

    # What must hold.

    def settle(self) -> None:
        """A tunnel is served, and then nothing is left of anything; TimeoutError says what is not so."""
        for call in self._at_end:
            call()
        self._at_end.clear()
        proof = self.open()
        self.exchange(proof)
        self.close(proof)
        self.served += 1
        until(self._problem)
        self._ledger.close()
        self._close_sources()
        for tunnel in list(self.service.tunnels):
            self.loop.run(tunnel.close())
        self.service.tunnels.clear()
        self.service.handshakes.clear()

    def _close_sources(self) -> None:
        for source in self._sources:
            source.close()
        self._sources.clear()

    def _problem(self) -> str:
        if problem := self._books() or self._ledger.unanswered():
            return problem
        pid = self.component.process.pid
        if len(processes := self.processes()) > 1:  # the watchdog
            return f"processes are left: {processes}"
        now = held(pid)
        self._idle = self._idle if any(self._idle) else now
        # The SDK's last connection before this one: its thread and two descriptors go with the next.
        if now[0] > self._idle[0] + 1 or now[1] > self._idle[1] + 2:
            return f"threads and descriptors are {now}, were {self._idle}"
        if len(folders := self._folders()) > 1:  # the next tunnel's
            return f"folders are left: {folders}"
        private = memory(pid)
        self._memory = self._memory or private
        self.memory = max(self.memory, private)
        if private > self._memory + MEMORY_TOLERANCE:
            return f"memory is {private:.1f} MiB, was {self._memory:.1f}"
        return ""

    def _folders(self) -> list[str]:
        inside = Path(f"/proc/{self.component.process.pid}/root{self.work}/tunnels")
        found = list(inside.iterdir()) if inside.exists() else []
        if self.root:
            shared = [*Path("/dev/shm").iterdir(), *Path("/tmp").glob("tmp*")]
            found += [path for path in shared if path.exists() and path.stat().st_uid == self._user]
        return [str(path) for path in found]

    def _books(self) -> str:
        """What the agent has said so far, and what is missing in it."""
        self._ledger.secrets |= {
            value for shake in list(self.service.handshakes) for value in shake.header("client-token")
        }
        known = len(self.nucleus.requests)
        self._ledger.enter(self.component.take(), self.nucleus.status_events())
        del self.nucleus.requests[:known]  # a long run has many
        return self._ledger.open_ends()


def mounts_work() -> bool:
    """Whether this user may mount a small disk."""
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
        == 0
    )
