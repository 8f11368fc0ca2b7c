"""The end of the real agent process, asked for or not: what is left, and when; and that it sleeps before."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from integration.conftest import Start, gone, live
from standins.component import Component, alive, descendants
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import TIMEOUT, Nucleus
from standins.stage import until
from tunnel_agent import watchdog

SHELLS = [["sh"], ["dash"], ["bash"], ["busybox", "sh"]]


def four_tunnels(nucleus: Nucleus, component: Component, fake: FakeLocalproxy) -> list[int]:
    """One that obeys, one that does not, one that is stopped, one with a child; all their processes."""
    before = set(descendants(component.process.pid))
    runs = [live(nucleus, fake, behaviour=behaviour) for behaviour in ("stay", "stubborn", "stay", "family")]
    os.kill(runs[2]["pid"], signal.SIGSTOP)
    started = [pid for pid in descendants(component.process.pid) if pid not in before]
    assert len(started) == 5
    return started


def the_watchdog(component: Component) -> int:
    """Its process id, once it is there."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        for pid in descendants(component.process.pid):
            if b"iot-tunnel-agent-watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise TimeoutError


def test_asked_to_end(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    started = [*four_tunnels(nucleus, component, fake), the_watchdog(component)]
    folders = [Path(run["cwd"]) for run in fake.runs()]
    began = time.monotonic()
    assert component.stop() == 0
    assert time.monotonic() - began < 4
    assert gone(*started, timeout=0.2)
    assert not [folder for folder in folders if folder.exists()]
    nucleus.wait_status("closed", count=4)
    assert [status["reason"] for status in nucleus.status_events()[-4:]] == ["the component stops"] * 4
    component.wait_line("^INFO stopping on SIGTERM$")
    assert component.err == []


def test_asked_to_end_when_idle(start: Start) -> None:
    _, component = start()
    began = time.monotonic()
    assert component.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 1
    component.wait_line("^INFO stopping on SIGINT$")


def test_the_nucleus_asks_every_process_at_once(start: Start, fake: FakeLocalproxy) -> None:
    """As classic does; the localproxy may be gone before the agent knows why."""
    nucleus, component = start()
    run = live(nucleus, fake)
    for pid in descendants(component.process.pid):
        os.kill(pid, signal.SIGTERM)
    nucleus.wait_status("closed")
    assert component.stop() == 0
    assert not alive(run["pid"])
    assert component.err == []


def test_a_notification_while_it_ends(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    live(nucleus, fake, behaviour="stubborn")
    component.process.send_signal(signal.SIGTERM)
    component.wait_line("^INFO stopping")
    nucleus.notify(notification(token("stay")))
    assert nucleus.wait_status("refused")["reason"] == "the component stops"
    assert component.wait() == 0
    assert len(fake.runs()) == 1


def test_killed(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    started = [*four_tunnels(nucleus, component, fake), the_watchdog(component)]
    os.kill(component.process.pid, signal.SIGKILL)
    assert gone(*started, timeout=2)


def test_a_watchdog_that_ends_is_replaced(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    run = live(nucleus, fake)
    time.sleep(1.1)  # so that it is at least a second old, and is replaced at once
    os.kill(the_watchdog(component), signal.SIGKILL)
    component.wait_line("^WARNING the watchdog ended with -9; another starts now")
    # One that ends at once is no good, and not started in a circle.
    os.kill(the_watchdog(component), signal.SIGKILL)
    component.wait_line("^WARNING the watchdog ended with -9; another starts with the next tunnel")
    assert descendants(component.process.pid) == [run["pid"]]
    other = live(nucleus, fake)
    third = the_watchdog(component)
    os.kill(component.process.pid, signal.SIGKILL)
    assert gone(run["pid"], other["pid"], third, timeout=2)


def test_the_watchdog_in_every_shell() -> None:
    """Devices have dash, bash or BusyBox as /bin/sh."""
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    commands = [["sleep", "1000"], ["sleep", "1000"], [sys.executable, "-c", stubborn]]
    with ExitStack() as stack:

        def process(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            started = subprocess.Popen(command, **options)
            stack.callback(started.communicate)
            stack.callback(started.kill)
            return started

        tried = []
        for shell in (shell for shell in SHELLS if shutil.which(shell[0])):
            groups = [
                process(command, start_new_session=True, stdout=subprocess.PIPE) for command in commands
            ]
            environment = {"PATH": os.environ["PATH"]}
            dog = process([*shell, "-c", watchdog._SCRIPT], stdin=subprocess.PIPE, env=environment)
            tried.append((dog, groups))
        for dog, groups in tried:
            assert dog.stdin is not None
            assert groups[2].stdout is not None
            groups[2].stdout.readline()
            first, second, third = (group.pid for group in groups)
            wait_ignored(dog.pid, signal.SIGTERM)
            dog.stdin.write(f"+ {first}\n+ {second}\n- {first}\n- 1\n+ {third}\n".encode())
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                dog.send_signal(number)
            dog.stdin.close()
            dog.stdin = None
        end = time.monotonic() + 2
        for dog, groups in tried:
            assert groups[1].wait(end - time.monotonic()) == -signal.SIGTERM
            assert groups[2].wait(end - time.monotonic()) == -signal.SIGKILL
            assert groups[0].poll() is None
            dog.wait(2)


def wait_ignored(pid: int, number: signal.Signals) -> None:
    """Wait until a process ignores a signal."""

    def problem() -> str:
        (mask,) = re.findall(r"SigIgn:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
        return "" if int(mask, 16) >> (number - 1) & 1 else f"it ignores {mask} only"

    until(problem)


def switches(pid: int) -> int:
    """How often the threads of a process woke up, in all."""
    status = [task.joinpath("status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in status)


def test_it_sleeps(start: Start, fake: FakeLocalproxy) -> None:
    """With a live tunnel, too, the agent wakes up less than once a second; the watchdog not at all."""
    nucleus, component = start()
    live(nucleus, fake)
    pids = [component.process.pid, the_watchdog(component)]
    time.sleep(0.5)  # for what the start brought
    before: list[Any] = [switches(pid) for pid in pids]
    seconds = 4
    time.sleep(seconds)
    after = [switches(pid) for pid in pids]
    assert after[0] - before[0] < seconds
    assert after[1] == before[1]
