"""How long live tunnels hold back a deployment."""

from __future__ import annotations

from tunnel_agent.deployments import Deferral


def test_without_tunnels_it_goes_on_at_once() -> None:
    assert Deferral().step("d", busy=False, limit=3600, now=0) == 0


def test_zero_never_defers() -> None:
    assert Deferral().step("d", busy=True, limit=0, now=0) == 0


def test_steps_until_the_time_is_used_up() -> None:
    deferral = Deferral()
    now, steps = 100.0, []
    while step := deferral.step("d", busy=True, limit=75, now=now):
        steps.append(step)
        now += step
    assert steps == [30, 30, 15]
    # Another component may hold it back after that: its time stays used up.
    assert deferral.step("d", busy=True, limit=75, now=now + 10) == 0


def test_each_deployment_has_its_own_time() -> None:
    deferral = Deferral()
    assert deferral.step("a", busy=True, limit=20, now=0) == 20
    assert deferral.step("b", busy=True, limit=20, now=19) == 20
    assert deferral.step("a", busy=True, limit=20, now=20) == 0


def test_it_goes_on_when_the_last_tunnel_has_ended() -> None:
    deferral = Deferral()
    assert deferral.step("a", busy=True, limit=3600, now=0)
    assert deferral.step("a", busy=False, limit=3600, now=30) == 0


def test_over() -> None:
    deferral = Deferral()
    deferral.step("a", busy=True, limit=40, now=0)
    deferral.over()
    assert deferral.step("a", busy=True, limit=40, now=39) == 30
