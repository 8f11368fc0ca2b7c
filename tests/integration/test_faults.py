"""What the component survives: one round of the schedule of faults, and what that once brought to light.

The long schedule is run by hand: ``tests/faults.py --minutes 30``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import faults

from integration.conftest import Start, live
from standins.component import ROOT, Component, held
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import Nucleus
from standins.stage import until


def test_one_round_of_faults() -> None:
    """Its seed is fixed, so that a run of this suite is like the next; chance is for the long schedule."""
    counts = faults.run(seed=1, seconds=0)
    assert len(counts) >= 23
    assert set(counts.values()) == {1}


def test_the_same_seed_gives_the_same_schedule() -> None:
    def first(seed: int) -> list[tuple[str, float]]:
        schedule = faults.schedule(seed)
        return [(name, rng.random()) for name, rng in (next(schedule) for _ in range(100))]

    assert first(5) == first(5)
    assert first(5) != first(6)


def test_a_start_leaves_no_folder_for_the_next(start: Start, fake: FakeLocalproxy, folder: Path) -> None:
    """Neither the one that lay ready when it ended, nor any that a killed agent had no chance to remove."""
    nucleus, component = start()
    tunnels = folder / "work/tunnels"
    live(nucleus, fake)
    assert len(list(tunnels.iterdir())) == 2
    assert component.stop() == 0
    assert list(tunnels.iterdir()) == []
    with Component(nucleus, folder / "work") as killed:
        killed.wait_line("^INFO services: ")
        nucleus.wait_subscribed()
        live(nucleus, fake)
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.wait()
    assert len(list(tunnels.iterdir())) == 2
    nucleus.wait_until(lambda: not nucleus.subscriptions())
    with Component(nucleus, folder / "work") as last:
        last.wait_line("^INFO services: ")
        assert len(list(tunnels.iterdir())) == 1
        assert last.stop() == 0
    assert list(tunnels.iterdir()) == []


def test_reconnections_pile_up_nothing(start: Start) -> None:
    """The SDK has a thread and two descriptors for each connection; one former one may still be there."""
    nucleus, component = start()
    threads, descriptors = held(component.process.pid)
    for _ in range(8):
        before = nucleus.connects
        nucleus.drop_connections()
        nucleus.wait_until(lambda before=before: nucleus.connects > before)  # type: ignore[misc]
        nucleus.wait_subscribed()

    def problem() -> str:
        now = held(component.process.pid)
        more = now[0] > threads + 1 or now[1] > descriptors + 2
        return f"threads and descriptors are {now}, were {(threads, descriptors)}" if more else ""

    until(problem, 5)


def test_a_reconnection_without_descriptors(folder: Path) -> None:
    """With very few left the SDK ends the whole process by a signal, so it is not even asked then."""
    script = """
import os, resource, sys, threading
from tunnel_agent.session import Session
spare, path = int(sys.argv[1]), os.environ["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"]
over = threading.Event()
connected = threading.Event()
session = Session(path, os.environ["SVCUID"], (), connected.set, over.set, lambda reason: over.set())
session.retry_seconds = 60
highest = max(map(int, os.listdir("/proc/self/fd")))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
session.start()
assert not connected.wait(0.3)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert connected.wait(10)
assert not over.is_set()
os._exit(0)
"""
    with Nucleus(folder, {}) as nucleus:
        environment = {**os.environ, **nucleus.environment(), "PYTHONPATH": str(ROOT / "src")}
        for spare in range(6):
            subprocess.run(
                [sys.executable, "-c", script, str(spare)], env=environment, timeout=30, check=True
            )


def test_status_events_that_were_under_way_when_the_connection_was_lost(
    start: Start, fake: FakeLocalproxy
) -> None:
    """They are published once there is a connection again."""
    nucleus, _ = start()
    nucleus.stall("PublishToTopic")
    secret = token("stay")
    nucleus.notify(notification(secret))
    nucleus.wait_status("connected", secret)
    nucleus.stall("PublishToTopic", False)
    nucleus.drop_connections()
    nucleus.wait_status("opened", secret, count=2)
    nucleus.wait_status("connected", secret, count=2)
    nucleus.wait_subscribed()
    live(nucleus, fake)


def test_status_events_that_the_nucleus_refuses(start: Start, fake: FakeLocalproxy) -> None:
    """They are not tried again, with the next connection either."""
    nucleus, component = start()
    nucleus.refuse("PublishToTopic", "ServiceError")
    live(nucleus, fake)
    nucleus.refuse("PublishToTopic", None)
    nucleus.drop_connections()
    component.wait_line("^INFO subscribed to ", count=2)
    other = live(nucleus, fake)
    os.kill(other["pid"], signal.SIGTERM)
    nucleus.wait_status("closed")
    assert [event["event"] for event in nucleus.status_events()] == ["opened", "connected"] * 2 + ["closed"]


def test_an_argument_that_the_locale_cannot_express(start: Start, fake: FakeLocalproxy) -> None:
    """The notification is refused with the reason, and costs no descriptor and no folder."""
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    nucleus, component = start(
        component_options={"extra": ascii_only}, services={"SSH": 22, "WEB": "/run/caf\u00e9"}
    )
    threads, descriptors = held(component.process.pid)
    for _ in range(3):
        secret = token("stay")
        nucleus.notify(notification(secret, ("WEB",)))
        assert "'ascii' codec can't encode" in nucleus.wait_status("refused", secret)["reason"]
    now = held(component.process.pid)
    assert now[0] <= threads
    assert now[1] <= descriptors
    live(nucleus, fake)
