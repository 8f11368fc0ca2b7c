"""Measures the agent beside the article's way, in one run, and prints Markdown tables.

    tests/.venv/3.11/bin/python tests/benchmark/agent.py

The article's way is what people write by hand: subscribe with the SDK, and in the callback, on its one
thread, parse the JSON, start localproxy with Popen and a thread for each pipe. It is given the benefit
of a callback that then returns, as otherwise it would serve one tunnel only.

The time from a notification to localproxy's main is taken by a stand-in localproxy, a shell script of one
line that writes into a FIFO: its own start counts alike on both sides.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

from standins.component import ROOT, memory  # noqa: E402
from standins.fake_localproxy import notification, token  # noqa: E402
from standins.nucleus import Nucleus  # noqa: E402

ARTICLE = """
import json, os, subprocess, sys, threading
import awsiot.greengrasscoreipc
from awsiot.greengrasscoreipc.model import QOS, SubscribeToIoTCoreRequest

class Handler:
    def on_stream_event(self, event):
        tunnel = json.loads(event.message.payload)
        environment = {**os.environ, "AWSIOT_TUNNEL_ACCESS_TOKEN": tunnel["clientAccessToken"]}
        process = subprocess.Popen(
            [sys.argv[1], "-r", tunnel["region"], "-d", "127.0.0.1:22", "-v", "4"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for pipe in (process.stdout, process.stderr):
            threading.Thread(target=self.pump, args=(process, pipe), daemon=True).start()
    def pump(self, process, pipe):
        for line in pipe:
            print(line, end="", flush=True)
        process.wait()
    def on_stream_error(self, error):
        return True
    def on_stream_closed(self):
        pass

client = awsiot.greengrasscoreipc.connect()
operation = client.new_subscribe_to_iot_core(Handler())
topic = f"$aws/things/{os.environ['AWS_IOT_THING_NAME']}/tunnels/notify"
operation.activate(SubscribeToIoTCoreRequest(topic_name=topic, qos=QOS.AT_LEAST_ONCE))
operation.get_response().result(10)
threading.Event().wait()
"""

ROUNDS = 300
BURSTS = 15
BURST = 20
FLOOD_LINES = 200_000


class Contestant:
    """One of the two, running between a nucleus of its own and a localproxy that reports its start."""

    def __init__(
        self, folder: Path, command: Callable[[Path], list[str]], configuration: dict[str, Any]
    ) -> None:
        folder.mkdir()
        self._fifo = folder / "started"
        os.mkfifo(self._fifo)
        self._started, self._clock = _clock(self._fifo)
        self.localproxy = folder / "localproxy"
        self.behave("exit 0")
        configuration["localproxyPath"] = str(self.localproxy)
        self.nucleus = Nucleus(folder, configuration).__enter__()
        self.output = folder / "output"
        self._start(command)
        # The second start counts, as the installation leaves everything compiled.
        self.process.kill()
        self.process.wait()
        self.to_subscribed = self._start(command)

    def _start(self, command: Callable[[Path], list[str]]) -> float:
        """Start the process; how long it takes until it is subscribed, in seconds."""
        self.nucleus.wait_until(lambda: not self.nucleus.subscriptions())
        start = time.perf_counter()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command(self.localproxy),
                cwd=self.localproxy.parent,
                env={"PATH": os.environ["PATH"], **self.nucleus.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.nucleus.wait_subscribed()
        return time.perf_counter() - start

    def behave(self, last: str) -> None:
        """Make a localproxy that reports its start and then does this."""
        self.localproxy.write_text(
            f'#!/bin/sh\n[ "$1" = --help ] && echo --destination-app && exit\necho >{self._fifo}\n{last}\n'
        )
        self.localproxy.chmod(0o755)

    def notify(self, count: int = 1) -> list[float]:
        """Deliver notifications at once; the times until each of their localproxys ran, in milliseconds."""
        notifications = [notification(token("x")) for _ in range(count)]
        start = time.monotonic_ns()
        for each in notifications:
            self.nucleus.notify(each)
        taken: list[float] = []
        while len(taken) < count:
            if not select.select([self._started], [], [], 10)[0]:
                raise TimeoutError(f"{len(taken)} of {count} started")
            taken.append((int.from_bytes(os.read(self._started, 8), "big") - start) / 1e6)
        return taken

    def memory_per_tunnel(self) -> float:
        """What a live tunnel adds to this process's private memory (KiB), its localproxy not counted."""
        before = memory(self.process.pid)
        self.behave("exec sleep 20")  # ends by itself, as the article's way ends nothing
        self.notify(BURST)
        return (memory(self.process.pid) - before) * 1024 / BURST

    def wakeups(self, seconds: float) -> float:
        """How often its threads woke up in a second."""

        def count() -> int:
            status = "".join(
                path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/status")
            )
            return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)

        before = count()
        time.sleep(seconds)  # the measurement itself
        return (count() - before) / seconds

    def flood(self, lines: int) -> tuple[float, float]:
        """Lines and MiB that go through from one localproxy to the log in a second."""
        line = "[2026-11-22 00:14:27.395683] (0x00007f54) [info] Some line of about the usual length, number"
        # All of one level: what goes to the other stream may overtake.
        self.behave(f"(seq -f '{line} %.0f' {lines}; echo '{line} the end') >&2")
        before = self.output.stat().st_size
        self.notify()
        start = time.perf_counter()
        while b"the end" not in _tail(self.output):
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        return lines / seconds, (self.output.stat().st_size - before) / seconds / 2**20

    def close(self) -> None:
        """End everything."""
        self.process.kill()
        self.process.wait()
        self.nucleus.__exit__()
        os.close(self._started)
        os.kill(self._clock, signal.SIGKILL)
        os.waitpid(self._clock, 0)


def _clock(fifo: Path) -> tuple[int, int]:
    """A process that reads a FIFO, and a pipe with the times at which it did (monotonic ns, 8 bytes).

    It is a process of its own as in this one the reading thread would wait for those of the nucleus.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        source = os.open(fifo, os.O_RDWR)
        while True:
            count = len(os.read(source, 4096))
            os.write(writing, time.monotonic_ns().to_bytes(8, "big") * count)
    os.close(writing)
    return reading, pid


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read()


@contextmanager
def contestants() -> Iterator[dict[str, Contestant]]:
    """Both, started."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        script = folder / "article.py"
        script.write_text(ARTICLE)
        running = {
            "this agent": Contestant(
                folder / "agent", lambda _: [sys.executable, "-u", f"{ROOT}/src/main.py"], {}
            ),
            "the article's way": Contestant(
                folder / "article",
                lambda localproxy: [sys.executable, "-u", str(script), str(localproxy)],
                {},
            ),
        }
        try:
            yield running
        finally:
            for contestant in running.values():
                contestant.close()


def percentile(values: list[float], percent: int) -> float:
    """By the nearest rank."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def main() -> None:
    """Run everything, the two in turn."""
    with contestants() as both:
        idle_memory = {name: memory(contestant.process.pid) for name, contestant in both.items()}
        wakeups = {name: contestant.wakeups(5) for name, contestant in both.items()}
        single: dict[str, list[float]] = {name: [] for name in both}
        burst: dict[str, list[float]] = {name: [] for name in both}
        for turn in range(ROUNDS):
            for name, contestant in both.items() if turn % 2 else reversed(both.items()):
                single[name] += contestant.notify()
                time.sleep(0.03)  # tunnels are not opened while the one before is still being reported
        for _ in range(BURSTS):
            for name, contestant in both.items():
                burst[name] += contestant.notify(BURST)
        floods = {name: contestant.flood(FLOOD_LINES) for name, contestant in both.items()}
        tunnel_memory = {name: contestant.memory_per_tunnel() for name, contestant in both.items()}

        rows = {
            "start to subscribed": [f"{c.to_subscribed * 1000:.0f} ms" for c in both.values()],
            "idle private memory": [f"{value:.1f} MiB" for value in idle_memory.values()],
            "the same, a live tunnel more": [f"{value:.0f} KiB" for value in tunnel_memory.values()],
            "idle wake-ups per second": [f"{value:.1f}" for value in wakeups.values()],
            f"notification to localproxy's main, median of {ROUNDS}": [
                f"{statistics.median(values):.2f} ms" for values in single.values()
            ],
            "the same, 99th percentile": [f"{percentile(values, 99):.2f} ms" for values in single.values()],
            f"{BURST} notifications at once, the last one, median of {BURSTS}": [
                f"{statistics.median(values[BURST - 1 :: BURST]):.1f} ms" for values in burst.values()
            ],
            "log lines per second": [f"{lines:,.0f}" for lines, _ in floods.values()],
            "log MiB per second": [f"{size:.1f}" for _, size in floods.values()],
        }
        print("| | " + " | ".join(both) + " |")
        print("| --- |" + " --- |" * len(both))
        for row, values in rows.items():
            print(f"| {row} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()
