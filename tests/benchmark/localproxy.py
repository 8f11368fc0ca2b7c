"""The built-in localproxy against the C++ one, interleaved in one run; prints a Markdown table.

    tests/.venv/3.11/bin/python tests/benchmark/localproxy.py [--rounds 5] [--mebibytes 256]

LOCALPROXY names the C++ binary; without it the built-in is measured alone. The service is the stand-in
(TLS, V3) with the source inside it, so that no second connection costs anything; the local service is a
process of its own. Throughput is what arrived at the far end; CPU is the localproxy process's own. Where
there are several cores, one is left to the localproxy: who shares one with whom would change the figures
more than anything else does.
Towards the device the C++ one may die unless it is throttled, so both are measured with at most WINDOW
bytes under way, and again without a limit. WINDOW is as much as the C++ one survives, so that neither waits
for the source all the time: the faster of two would pay for each time that it falls asleep.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

_TESTS = Path(__file__).resolve().parent.parent
_SOURCES = _TESTS.parent / "src"
sys.path.insert(0, str(_TESTS))

from standins.component import memory, peak  # noqa: E402
from standins.tunnel import Tunnel  # noqa: E402
from standins.tunnel_message import (  # noqa: E402
    MAX_FRAME,
    MAX_PAYLOAD,
    MessageSplitter,
    TunnelMessage,
    Type,
    bodies,
)
from standins.tunneling_service import TunnelingService  # noqa: E402

_MIB = 1 << 20
WINDOW = 4 * _MIB
CORES = sorted(os.sched_getaffinity(0))
_IDLE = 20


def local_service(ready: multiprocessing.connection.Connection) -> None:
    """Serves one connection after another; its first byte says what to do.

    E echoes; S sends as many bytes as the following 8 bytes say; R receives as many and answers each
    half window with one byte.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready.send(listener.getsockname()[1])
        block = os.urandom(_MIB)
        buffer = bytearray(_MIB)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    order = connection.recv(9, socket.MSG_WAITALL)
                    count = int.from_bytes(order[1:], "big")
                    if order[:1] == b"S":
                        for _ in range(count // _MIB):
                            connection.sendall(block)
                        connection.recv(1)
                    elif order[:1] == b"R":
                        received = answered = 0
                        while received < count:
                            received += connection.recv_into(buffer)
                            while answered < received // (WINDOW // 2):
                                connection.sendall(b"+")
                                answered += 1
                        connection.recv(1)
                    else:
                        while data := connection.recv(1 << 16):
                            connection.sendall(data)
                except ConnectionError:
                    pass


class Candidate:
    """A localproxy to measure, and what was measured of it."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str]) -> None:
        self.name = name
        self.command = command
        self.environ = environ
        self.results: dict[str, list[float]] = {}

    def add(self, measure: str, value: float) -> None:
        self.results.setdefault(measure, []).append(value)

    def median(self, measure: str) -> Optional[float]:
        values = self.results.get(measure)
        return statistics.median(values) if values else None


class Proxy:
    """One running localproxy; an asynchronous context manager."""

    def __init__(self, candidate: Candidate, service: TunnelingService, port: int, folder: Path) -> None:
        self._candidate = candidate
        self._service = service
        self._port = port
        self._folder = folder
        self.tunnel: Tunnel
        self.started = 0.0

    async def __aenter__(self) -> Proxy:
        self.tunnel = await self._service.open_tunnel(["SSH"])
        token = self.tunnel.destination.token.text
        environ = {**self._candidate.environ, "AWSIOT_TUNNEL_ACCESS_TOKEN": token}
        arguments = ["-e", self._service.endpoint, "-c", str(self._service.ca_directory), "-v", "1"]
        arguments += ["-d", f"SSH=127.0.0.1:{self._port}"]
        started = time.perf_counter()
        self.process = await asyncio.create_subprocess_exec(
            *self._candidate.command,
            *arguments,
            env=environ,
            cwd=self._folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.sched_setaffinity(self.process.pid, CORES[:1])
        await self.tunnel.destination.wait_connected()
        self.started = time.perf_counter() - started
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self.tunnel.destination.wait_gone()

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system, from the scheduler's own count."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9


class Stream:
    """A source inside the service: one V3 stream, whose bytes go to a callback."""

    def __init__(self, tunnel: Tunnel, stream_id: int) -> None:
        self._tunnel = tunnel
        self._stream_id = stream_id
        self._splitter = MessageSplitter()
        self.received = 0
        self.wanted = 0
        self.arrived = asyncio.Event()
        self.failed = False

    async def start(self, order: bytes, count: int = 0) -> None:
        self._tunnel.destination.sink = None
        self._tunnel.source.sink = self._take
        await self._tunnel.destination.send(TunnelMessage(Type.STREAM_START, self._stream_id, "SSH", 1))
        if order:
            await self.send(order + count.to_bytes(8, "big"))

    def data(self, payload: bytes) -> bytes:
        return TunnelMessage(Type.DATA, self._stream_id, "SSH", 1, payload).encode()

    async def send(self, payload: bytes) -> None:
        await self._tunnel.destination.send_frame(self.data(payload))

    async def until(self, received: int, timeout: float) -> None:
        self.wanted = received
        self.arrived.clear()
        if self.received < received:
            await asyncio.wait_for(self.arrived.wait(), timeout)

    async def _take(self, whole: bytes) -> None:
        # Big messages are all DATA here; counting them by their length saves parsing each.
        for body in bodies(whole):
            if len(body) > 64:
                self.received += len(body) - _OVERHEAD
            else:
                message = TunnelMessage.parse(body)
                self.received += len(message.payload)
                self.failed = self.failed or message.type != Type.DATA
        if self.received >= self.wanted:
            self.arrived.set()


_OVERHEAD = len(TunnelMessage(Type.DATA, 1, "SSH", 1, bytes(MAX_PAYLOAD)).encode()) - 2 - MAX_PAYLOAD


async def to_source(proxy: Proxy, candidate: Candidate, size: int) -> None:
    stream = Stream(proxy.tunnel, 1)
    await stream.start(b"S", size)
    cpu, begun = proxy.cpu(), time.perf_counter()
    # Payloads that are smaller than the header's estimate shift the count by a few bytes each.
    await stream.until(size - size // 1000, 120)
    seconds = time.perf_counter() - begun
    candidate.add("device to source, MiB/s", size / _MIB / seconds)
    candidate.add("device to source, CPU ms per MiB", (proxy.cpu() - cpu) * 1000 / (size / _MIB))


async def to_device(proxy: Proxy, candidate: Candidate, size: int, limited: bool) -> None:
    stream = Stream(proxy.tunnel, 1)
    await stream.start(b"R", size)
    payload = os.urandom(MAX_PAYLOAD)
    message = stream.data(payload)
    per_frame = MAX_FRAME // len(message)
    frame = message * per_frame
    name = f"source to device, {WINDOW // _MIB} MiB under way" if limited else "source to device, unthrottled"

    async def push() -> None:
        sent = 0
        while sent < size:
            if limited and sent - stream.received * (WINDOW // 2) > WINDOW - len(frame):
                await stream.until(stream.received + 1, 20)
            await proxy.tunnel.destination.send_frame(frame)
            sent += per_frame * MAX_PAYLOAD
            await asyncio.sleep(0)  # a send to a dead peer lets nobody else run
        await stream.until(size // (WINDOW // 2), 60)

    cpu, begun = proxy.cpu(), time.perf_counter()
    pushed = asyncio.ensure_future(push())
    died = asyncio.ensure_future(proxy.process.wait())
    await asyncio.wait({pushed, died}, return_when=asyncio.FIRST_COMPLETED)
    if not pushed.done() or pushed.exception():
        await asyncio.wait_for(died, 10)
        pushed.cancel()
        candidate.add(f"{name}, MiB/s", 0.0)
        return
    died.cancel()
    seconds = time.perf_counter() - begun
    candidate.add(f"{name}, MiB/s", size / _MIB / seconds)
    candidate.add(f"{name}, CPU ms per MiB", (proxy.cpu() - cpu) * 1000 / (size / _MIB))


async def round_trip(proxy: Proxy, candidate: Candidate, count: int = 2000) -> None:
    stream = Stream(proxy.tunnel, 1)
    await stream.start(b"E")
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await stream.send(b"x")
        await stream.until(stream.received + 1, 10)
        times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    candidate.add("1-byte round trip, median ms", times[count // 2])
    candidate.add("1-byte round trip, p99 ms", times[count * 99 // 100])


async def measure(
    candidate: Candidate, service: TunnelingService, port: int, folder: Path, size: int
) -> None:
    """One round of everything."""
    async with Proxy(candidate, service, port, folder) as proxy:
        candidate.add("start to connected, ms", proxy.started * 1000)
        await asyncio.sleep(0.5)  # let it come to rest
        candidate.add("idle, private MiB", memory(proxy.process.pid))
        candidate.add("idle, PSS MiB", memory(proxy.process.pid, "Pss:"))
        await round_trip(proxy, candidate)
    async with Proxy(candidate, service, port, folder) as proxy:
        await to_source(proxy, candidate, size)
        candidate.add("device to source, peak resident MiB", peak(proxy.process.pid))
    async with Proxy(candidate, service, port, folder) as proxy:
        await to_device(proxy, candidate, size, limited=True)
    async with Proxy(candidate, service, port, folder) as proxy:
        await to_device(proxy, candidate, size, limited=False)
        if proxy.process.returncode is None:
            candidate.add("source to device, peak resident MiB", peak(proxy.process.pid))


async def many(candidate: Candidate, service: TunnelingService, port: int, folder: Path) -> None:
    """What `_IDLE` of them take together."""
    proxies = [Proxy(candidate, service, port, folder) for _ in range(_IDLE)]
    try:
        for proxy in proxies:
            await proxy.__aenter__()
        await asyncio.sleep(0.5)
        together = sum(memory(proxy.process.pid, "Pss:") for proxy in proxies)
        candidate.add(f"{_IDLE} idle ones together, PSS MiB", together)
    finally:
        for proxy in proxies:
            await proxy.__aexit__()


def table(candidates: list[Candidate]) -> str:
    """Medians side by side, and the first divided by the second."""
    heads = ["", *(candidate.name for candidate in candidates)]
    if len(candidates) == 2:
        heads.append("ratio")
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for name in candidates[0].results:
        values = [candidate.median(name) for candidate in candidates]
        cells = ["-" if value is None else f"{value:.2f}" if value else "died" for value in values]
        if len(values) == 2:
            first, second = values
            cells.append(f"{first / second:.2f}" if first and second else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def run(candidates: list[Candidate], rounds: int, size: int, port: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "work")
        folder.mkdir()
        async with TunnelingService(Path(name)) as service:
            for number in range(rounds):
                for candidate in candidates if number % 2 == 0 else reversed(candidates):
                    await measure(candidate, service, port, folder, size)
            for candidate in candidates:
                await many(candidate, service, port, folder)


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description="Compare the built-in localproxy with the C++ one.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=256, help="how much to move each way")
    options = parser.parse_args()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(_SOURCES)}
    candidates = [Candidate("built-in", [sys.executable, "-u", "-m", "localproxy"], environ)]
    binary = os.environ.get("LOCALPROXY")
    if binary:
        candidates.append(Candidate("C++", [binary], environ))
    else:
        say("LOCALPROXY names no C++ localproxy: the built-in is measured alone.\n")
    os.sched_setaffinity(0, CORES[1:] or CORES)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=local_service, args=(theirs,), daemon=True)
    process.start()
    try:
        asyncio.run(run(candidates, options.rounds, options.mebibytes * _MIB, ours.recv()))
    finally:
        process.kill()
    say(table(candidates))


if __name__ == "__main__":
    main()
