"""The faults of the schedule that befall the agent: the nucleus, what it sends, what a device lacks."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from standins.component import alive
from standins.faults import Fault
from standins.mutation import mutate_payload
from standins.stage import TIMEOUT, Stage, mounts_work, until


def connection_cut(stage: Stage, rng: random.Random) -> None:
    """Live tunnels go on; the agent comes back."""
    connected = stage.open()
    before = stage.nucleus.connects
    if rng.random() < 0.5:
        stage.nucleus.drop_connections()
    else:
        stage.nucleus.close()
        threading.Event().wait(rng.uniform(0, 0.5))  # the nucleus restarts
        stage.exchange(connected)
        stage.nucleus.open()
    stage.exchange(connected)
    stage.nucleus.wait_until(lambda: stage.nucleus.connects > before, TIMEOUT)
    stage.ready_again()
    stage.close(connected)


def subscription_ended(stage: Stage, rng: random.Random) -> None:
    """It is opened again."""
    operation = rng.choice(["SubscribeToIoTCore", "SubscribeToConfigurationUpdate"])
    assert stage.nucleus.end_streams(operation) == 1
    stage.nucleus.wait_subscribed(operation, 90)  # the third time in a minute it waits longer


def subscription_dead(stage: Stage, rng: random.Random) -> None:
    """Nobody is told; the renewal heals it."""
    stage.configure(resubscribeSeconds=rng.randint(1, 2))
    stage.component.wait_line("^INFO services: ", timeout=TIMEOUT)
    stage.nucleus.forget_subscriptions()
    tunnel = stage.loop.run(stage.service.open_tunnel(["SSH"]))
    assert not stage.deliver(tunnel.notification)
    stage.nucleus.wait_subscribed(timeout=TIMEOUT)
    stage.deliver(tunnel.notification)
    stage.close(stage.connect(tunnel))
    stage.configure()
    # An old subscription may still be about to be closed.
    stage.nucleus.wait_until(lambda: len(stage.nucleus.subscriptions()) == 1, TIMEOUT)


def token_refused(stage: Stage, rng: random.Random) -> None:
    """A restarted nucleus knows no old token: the agent ends with 1, its tunnels with it."""
    connected = [stage.open() for _ in range(rng.randint(0, 2))]
    stage.nucleus.token = f"SVCUID-{rng.getrandbits(64):016X}-another"
    stage.nucleus.drop_connections()
    stage.over(1)
    assert not [tunnel for tunnel in connected if alive(tunnel.pid)]
    for tunnel in connected:
        tunnel.stack.close()
    stage.start()


def cloud_down_at_start(stage: Stage, rng: random.Random) -> None:
    """The subscription is tried until it is there."""
    stage.component.process.send_signal(signal.SIGTERM)
    stage.over(0)
    operation = rng.choice(["SubscribeToIoTCore", "GetConfiguration"])
    stage.nucleus.refuse(operation, message=None)
    stage.start(ready=False)
    stage.component.wait_line(
        "^WARNING cannot (subscribe|read) .*trying again: ServiceError", timeout=TIMEOUT
    )
    stage.nucleus.refuse(operation, None)
    stage.ready()


def agent_killed(stage: Stage, rng: random.Random) -> None:
    """Nothing outlives it, and the next one starts as if nothing had been."""
    for _ in range(rng.randint(1, 2)):
        stage.open().stack.close()
    os.kill(stage.component.process.pid, signal.SIGKILL)
    killed = time.monotonic()
    stage.over(-signal.SIGKILL)
    assert time.monotonic() - killed < 4
    stage.start()


def status_unanswered(stage: Stage, rng: random.Random) -> None:
    """Status events that the nucleus does not answer hold up nothing."""
    stage.nucleus.stall("PublishToTopic")
    connected = [stage.open() for _ in range(rng.randint(1, 3))]
    stage.nucleus.stall("PublishToTopic", False)
    for tunnel in connected:
        stage.exchange(tunnel)
        stage.close(tunnel)


def configuration_churn(stage: Stage, rng: random.Random) -> None:
    """A burst of changes, some of them wrong; a live tunnel goes on, and the last right one applies."""
    connected = stage.open()
    for _ in range(rng.randint(5, 20)):
        change: dict[str, Any] = rng.choice(
            [
                {"localproxyVerbosity": rng.randint(0, 6)},
                {"logLevel": rng.choice(["DEBUG", "INFO"])},
                {"maxConcurrentTunnels": rng.choice([1, 7, "20", 0, "x"])},
                {"services": {"SSH": stage.local.port, "WEB": rng.choice([80, 0, None, "h:1"])}},
                {"OS_DIST_INFO": rng.choice(["ubuntu", "auto", "windows"])},
                {"localproxyPath": rng.choice(["builtin", "/nonexistent/localproxy"])},
                {"resubscribeSeconds": rng.choice([0, 3600, -1])},
                {"unknownKey": rng.random()},
            ]
        )
        stage.nucleus.merge(change)
        if rng.random() < 0.2:
            threading.Event().wait(rng.uniform(0, 0.3))  # longer or shorter than a burst is waited out
    stage.exchange(connected)
    stage.configure()
    stage.close(connected)


def duplicates(stage: Stage, rng: random.Random) -> None:
    """One tunnel each, whatever comes twice."""
    tunnels = [stage.loop.run(stage.service.open_tunnel(["SSH"])) for _ in range(rng.randint(1, 3))]
    burst = [tunnel for tunnel in tunnels for _ in range(rng.randint(2, 4))]
    rng.shuffle(burst)
    for tunnel in burst:
        stage.deliver(tunnel.notification)
    count = len(burst) - len(tunnels)
    stage.component.wait_line("^INFO a notification for SSH came once more; ignored", count, TIMEOUT)
    for tunnel in tunnels:
        connected = stage.connect(tunnel)
        stage.exchange(connected)
        stage.close(connected)


def too_many(stage: Stage, rng: random.Random) -> None:
    """More than may be open, and some for a service that is not there: refused, with the reason."""
    limit = rng.randint(1, 4)
    stage.configure(maxConcurrentTunnels=limit)
    unknown = stage.announce(["WEB"])
    tunnels = [stage.announce() for _ in range(limit + rng.randint(1, 4))]
    for tunnel in [unknown, *tunnels[limit:]]:
        stage.nucleus.wait_status("refused", tunnel.destination.token.text, timeout=TIMEOUT)
    for tunnel in tunnels[:limit]:
        stage.close(stage.connect(tunnel))
    stage.configure()


def garbage(stage: Stage, rng: random.Random) -> None:
    """Notifications that are none: a line each."""
    valid = {"clientAccessToken": "x" * 99, "clientMode": "source", "region": "r", "services": ["SSH"]}
    wrong = [mutate_payload(json.dumps(valid).encode(), rng) for _ in range(rng.randint(20, 100))]
    for payload in wrong:
        stage.nucleus.notify(payload)
    stage.component.wait_line("^WARNING tunnel refused: the notification", len(wrong), TIMEOUT)


def disk_full(stage: Stage, rng: random.Random) -> None:
    """A work folder without room: a folder in memory does as well."""
    stage.restart(small_disk=True)
    folder = f"/proc/{stage.component.process.pid}/root{stage.work}"
    if rng.random() < 0.5:
        stage.settle()
    for number in range(100):
        try:
            with open(f"{folder}/{number}", "wb") as file:  # noqa: PTH123
                file.write(b"x" * 16384)
        except OSError:
            break
    else:
        raise AssertionError("the small disk takes everything")
    connected = [stage.open() for _ in range(2)]
    for tunnel in connected:
        stage.exchange(tunnel)
        stage.close(tunnel)
    stage.restart()


@contextmanager
def limited(stage: Stage, kind: str, limit: int) -> Iterator[None]:
    """The running agent, and what it starts, may have no more of something."""
    stage.limit(kind, str(limit))
    try:
        yield
    finally:
        stage.limit(kind, "")


def files_exhausted(stage: Stage, rng: random.Random) -> None:
    """No descriptor is left: the tunnel is opened once there is one; the connection, too."""
    pid = stage.component.process.pid
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    with limited(stage, "nofile", next(number for number in itertools.count() if number not in taken)):
        tunnels = [stage.announce() for _ in range(rng.randint(1, 3))]
        stage.component.wait_line("^WARNING a tunnel cannot be started.*too many files open", timeout=TIMEOUT)
        if rng.random() < 0.5:
            stage.nucleus.drop_connections()
            stage.component.wait_line("^WARNING cannot connect to the nucleus now", timeout=TIMEOUT)
    stage.ready_again()
    for tunnel in tunnels:
        stage.close(stage.connect(tunnel))


def processes_exhausted(stage: Stage, rng: random.Random) -> None:
    """No process may be started: the tunnel is opened once one may."""
    with limited(stage, "nproc", 1):
        tunnels = [stage.announce() for _ in range(rng.randint(1, 3))]
        stage.component.wait_line("^WARNING a tunnel cannot be started.*no more processes", timeout=TIMEOUT)
    for tunnel in tunnels:
        stage.close(stage.connect(tunnel))


def memory_exhausted(stage: Stage, rng: random.Random) -> None:
    """Next to no memory is left: tunnels wait, fail or are served, and all is told."""
    pid = stage.component.process.pid
    with open(f"/proc/{pid}/statm") as statm:  # noqa: PTH123
        size = int(statm.read().split()[0]) * resource.getpagesize()
    with limited(stage, "as", size + rng.choice([0, 1, 4, 9]) * (1 << 20)):
        tunnels = [stage.announce() for _ in range(rng.randint(1, 3))]
        pattern = r"^WARNING a tunnel cannot be started|\] opened to |^MemoryError"
        stage.component.wait_line(pattern, timeout=TIMEOUT)
    for tunnel in tunnels:
        token = tunnel.destination.token.text
        if stage.component.matching("^MemoryError"):
            # The SDK had no memory to hand a notification over, and said so: it has to come once more.
            stage.deliver(tunnel.notification)
        until(lambda token=token: _told(stage, token))  # type: ignore[misc]
        stage.loop.run(tunnel.close())


def _told(stage: Stage, token: str) -> str:
    events = {event["event"] for event in stage.nucleus.status_events(token)}
    known = events & {"connected", "refused"} or stage.nucleus.ended(token)
    return "" if known else f"of a tunnel only {events} was told"


OF_DEVICES: dict[str, Fault] = {
    "nucleus connection cut": connection_cut,
    "subscription ended": subscription_ended,
    "subscription dead": subscription_dead,
    "token refused": token_refused,
    "cloud down at start": cloud_down_at_start,
    "agent killed": agent_killed,
    "status events unanswered": status_unanswered,
    "configuration churn": configuration_churn,
    "duplicates": duplicates,
    "too many, unknown service": too_many,
    "garbage": garbage,
    "descriptors exhausted": files_exhausted,
    "memory exhausted": memory_exhausted,
    **({"disk full": disk_full} if mounts_work() else {}),
    # Only root can make the agent another user, to whom the limit applies.
    **({"processes exhausted": processes_exhausted} if os.geteuid() == 0 else {}),
}
