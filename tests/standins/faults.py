"""The faults of the schedule: each breaks something of a `Stage`, sees that it matters, and mends it.

What must hold afterwards is the same for all, and is in ``Stage.settle``. Here are those of the tunnel: the
service, localproxy, the local service. Those of the nucleus and of the device are in ``faults_device``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from standins.component import alive
from standins.local_service import exchange, receive
from standins.stage import TIMEOUT, Connected, Stage, until

Fault = Callable[[Stage, random.Random], None]


@contextmanager
def transfer(stage: Stage, connected: Connected) -> Iterator[None]:
    """Bytes are on their way for as long as this lasts; what becomes of them is left open."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            try:
                exchange(connected.port, 1 << 20, TIMEOUT)
            except OSError:
                ended.wait(0.05)  # cut, as planned; the next one may have to wait for the reconnection

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A stopped localproxy answers nothing: whoever ends it ends this.
        stage.after_closing(lambda: thread.join(TIMEOUT))


def service_refuses(stage: Stage, rng: random.Random) -> None:
    """The service answers the handshake with 403: the tunnel ends, and says why."""
    stage.loop.run(stage.service.refuse_next(1, 403, "no " * rng.randint(1, 20)))
    tunnel = stage.announce()
    status = stage.nucleus.wait_status("rejected", tunnel.destination.token.text, timeout=TIMEOUT)
    assert "403" in status["reason"], status


def service_fails(stage: Stage, rng: random.Random) -> None:
    """The service is in trouble: localproxy tries again, and comes through."""
    stage.loop.run(stage.service.refuse_next(rng.randint(1, 2), rng.choice([500, 502, 503])))
    connected = stage.open()
    stage.exchange(connected)
    stage.close(connected)


def websocket_cut(stage: Stage, rng: random.Random) -> None:
    """The WebSocket is cut mid-transfer: localproxy reconnects with its client token."""
    connected = stage.open()
    with transfer(stage, connected):
        for times in range(2, 2 + rng.randint(1, 2)):
            threading.Event().wait(rng.uniform(0, 0.1))  # anywhere in the transfer
            stage.loop.run(connected.tunnel.destination.cut())
            destination = connected.tunnel.destination
            stage.loop.run(destination.wait_connected(times, TIMEOUT), TIMEOUT + 5)
    until(lambda: attempt(stage, connected))
    stage.close(connected)


def attempt(stage: Stage, connected: Connected) -> str:
    """Try to exchange bytes; what went wrong, or nothing."""
    try:
        stage.exchange(connected)
    except OSError as error:
        return f"nothing comes through: {error}"
    return ""


def token_rotated(stage: Stage, rng: random.Random) -> None:
    """The old tunnel ends, an ordinary second notification brings the new one."""
    connected = stage.open()
    stage.loop.run(connected.tunnel.rotate())
    if rng.random() < 0.5:
        stage.nucleus.wait_until(lambda: stage.nucleus.ended(connected.token), TIMEOUT)
    stage.deliver(connected.tunnel.notification)
    second = stage.connect(connected.tunnel, connected)  # the source stays where it is
    stage.exchange(second)
    stage.nucleus.wait_until(lambda: stage.nucleus.ended(connected.token), TIMEOUT)
    stage.close(second)


def _killed(number: signal.Signals, outcome: str) -> Fault:
    def fault(stage: Stage, rng: random.Random) -> None:
        connected = stage.open()
        if rng.random() < 0.5:
            with transfer(stage, connected):
                os.kill(connected.pid, number)
        else:
            os.kill(connected.pid, number)
        status = stage.nucleus.wait_status(outcome, connected.token, timeout=TIMEOUT)
        assert number is signal.SIGTERM or number.name in status["reason"], status
        assert not alive(connected.pid)
        stage.close(connected)

    return fault


def localproxy_stopped(stage: Stage, rng: random.Random) -> None:
    """SIGSTOP: it goes on where it was, or its deadline ends it all the same."""
    for_good = rng.random() < 0.5
    if for_good:
        stage.configure(tunnelTimeoutSeconds=1)
    connected = stage.open()
    os.kill(connected.pid, signal.SIGSTOP)
    if for_good:
        stage.nucleus.wait_status("timedOut", connected.token, timeout=TIMEOUT)
        assert not alive(connected.pid)
        stage.configure()
    else:
        # Another tunnel is not held up.
        other = stage.open()
        stage.exchange(other)
        stage.close(other)
        os.kill(connected.pid, signal.SIGCONT)
        stage.exchange(connected)
    stage.close(connected)


def local_service_down(stage: Stage, rng: random.Random) -> None:
    """It is waited for a little; then the connection ends, but not the tunnel."""
    connected = stage.open()
    if rng.random() < 0.5:
        stage.exchange(connected)
    stage.loop.run(stage.local.down())
    with socket.create_connection(("127.0.0.1", connected.port), TIMEOUT) as peer:
        if rng.random() < 0.3:
            assert receive(peer, 1) == b""
            stage.loop.run(stage.local.up())
        else:
            peer.sendall(b"?")
            stage.loop.run(stage.local.up())
            assert receive(peer, 1) == b"?"
    stage.exchange(connected)
    stage.close(connected)


def local_service_slow(stage: Stage, rng: random.Random) -> None:
    """It is waited for, and every byte arrives."""
    stage.local.mode = "slow"
    connected = stage.open()
    stage.exchange(connected, rng.randint(1 << 19, 1 << 20))
    stage.local.mode = "echo"
    stage.close(connected)


def local_service_half_closes(stage: Stage, rng: random.Random) -> None:
    """What it said before it ended its direction arrives in full."""
    stage.local.mode = "half-close"
    connected = stage.open()
    for _ in range(rng.randint(1, 3)):
        with socket.create_connection(("127.0.0.1", connected.port), TIMEOUT) as peer:
            peer.sendall(b"?")
            assert len(receive(peer, 65537)) == 65536
    stage.local.mode = "echo"
    stage.exchange(connected)
    stage.close(connected)


OF_TUNNELS: dict[str, Fault] = {
    "service refuses (403)": service_refuses,
    "service fails (5xx)": service_fails,
    "WebSocket cut": websocket_cut,
    "token rotated": token_rotated,
    "localproxy SIGTERM": _killed(signal.SIGTERM, "closed"),
    "localproxy SIGKILL": _killed(signal.SIGKILL, "failed"),
    "localproxy SIGSEGV": _killed(signal.SIGSEGV, "failed"),
    "localproxy SIGSTOP": localproxy_stopped,
    "local service down": local_service_down,
    "local service slow": local_service_slow,
    "local service half-closes": local_service_half_closes,
}
