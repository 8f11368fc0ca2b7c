"""Deployments and the real agent process: live tunnels hold them back, but not for ever."""

from __future__ import annotations

import os
import signal
import time

import pytest

from integration.conftest import Start, live
from standins.fake_localproxy import FakeLocalproxy
from standins.nucleus import Nucleus


def answer(nucleus: Nucleus, deployment: str) -> float:
    """Announce a deployment; returns for how many seconds it is put off."""
    count = len(nucleus.asked("DeferComponentUpdate"))
    nucleus.wait_subscribed("SubscribeToComponentUpdates")
    assert nucleus.announce_update(deployment) == 1
    nucleus.wait_until(lambda: len(nucleus.asked("DeferComponentUpdate")) > count)
    request = nucleus.asked("DeferComponentUpdate")[-1].content
    assert request["deploymentId"] == deployment
    return float(request["recheckAfterMs"]) / 1000


def test_without_tunnels_it_goes_on_at_once(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    assert answer(nucleus, "first") == 0
    run = live(nucleus, fake)
    assert answer(nucleus, "second") == 30
    os.kill(run["pid"], signal.SIGTERM)
    nucleus.wait_status("closed")
    assert answer(nucleus, "second") == 0
    assert component.err == []


def test_it_is_put_off_in_steps_until_the_time_is_used_up(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(deferUpdatesSeconds=32)
    live(nucleus, fake)
    asked = time.monotonic()
    assert answer(nucleus, "first") == 30
    component.wait_line("^INFO deployment first is put off by 30 s: tunnels are open")
    # The rest of the time, which the operator has shortened meanwhile.
    nucleus.merge({"deferUpdatesSeconds": 2})
    component.wait_line("^INFO services: ", count=2)
    left = answer(nucleus, "first")
    assert 0 < left < 2 - (time.monotonic() - asked) + 0.2
    time.sleep(left)
    assert answer(nucleus, "first") == 0
    component.wait_line(
        r"^WARNING deployment first goes on although tunnels are open \(deferUpdatesSeconds\)"
    )
    # Another component may have put it off: asked once more, its time is still used up.
    assert answer(nucleus, "first") == 0
    assert 1 < answer(nucleus, "second") <= 2


def test_when_it_is_over_its_time_is_forgotten(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start(deferUpdatesSeconds=1)
    live(nucleus, fake)
    assert 0 < answer(nucleus, "first") <= 1
    time.sleep(1)
    assert answer(nucleus, "first") == 0
    assert nucleus.announce_update_over("first") == 1
    assert 0 < answer(nucleus, "first") <= 1


@pytest.mark.parametrize("seconds", [0, "0"])
def test_zero_never_defers(start: Start, fake: FakeLocalproxy, seconds: object) -> None:
    nucleus, _ = start(deferUpdatesSeconds=seconds)
    live(nucleus, fake)
    assert answer(nucleus, "first") == 0


def test_an_answer_that_the_nucleus_does_not_take(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    live(nucleus, fake)
    nucleus.refuse("DeferComponentUpdate", "InvalidArgumentsError", "no such deployment")
    assert answer(nucleus, "first") == 30
    component.wait_line(
        "^WARNING the nucleus did not take the answer about a deployment: .*no such deployment"
    )
    nucleus.refuse("DeferComponentUpdate", None)
    assert answer(nucleus, "second") == 30
