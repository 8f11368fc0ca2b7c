"""The component log of the real agent process: what localproxy and the agent say, and what nobody may say."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections.abc import Iterator

import pytest

from integration.conftest import Start, live
from standins.component import Line
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import Nucleus


def served(nucleus: Nucleus, behaviour: str, *services: str) -> str:
    """Have a tunnel opened and wait for its end; returns the access token."""
    secret = token(behaviour)
    nucleus.notify(notification(secret, services or ("SSH",)))
    nucleus.wait_until(lambda: nucleus.ended(secret))
    return secret


def said(lines: list[Line], number: int) -> list[str]:
    """What localproxy said in tunnel ``number``: not what the agent says of it."""
    pattern = rf"(\w+ )\[tunnel {number} [^]]*\] (?!opened|closed|rejected|failed|timedOut|a V3)(.*)"
    return [match[1] + match[2] for line in lines if (match := re.fullmatch(pattern, line))]


def test_levels_and_streams(start: Start) -> None:
    nucleus, component = start(localproxyVerbosity=6, services={"SSH": 22, "VNC": 5900})
    served(nucleus, "levels", "SSH", "VNC")
    component.wait_line("closed after")
    # What comes from its two pipes has no order.
    assert sorted(said(component.out, 1)) == [
        "DEBUG a debug record",
        "DEBUG a trace record",
        "INFO a info record",
        "INFO plain on stdout",
    ]
    assert said(component.err, 1) == [
        "WARNING a warning record",
        "ERROR a error record",
        "ERROR a fatal record",
        "WARNING plain on stderr",
    ]
    assert component.matching(r"^INFO \[tunnel 1 SSH,VNC\] plain on stdout$")
    assert not component.matching(r"2026-11-22|0x00007f54")
    assert not [line for line in component.out if line.startswith(("WARNING", "ERROR"))]
    assert not [line for line in component.err if line.startswith(("DEBUG", "INFO"))]


def test_verbosity(start: Start, fake: FakeLocalproxy) -> None:
    """The agent needs to read more than the operator wants to: the rest stays out of the log."""
    nucleus, component = start(localproxyVerbosity=2)
    served(nucleus, "levels")
    assert said(component.lines, 1) == [
        "INFO plain on stdout",
        "ERROR a error record",
        "ERROR a fatal record",
        "WARNING plain on stderr",
    ]
    run = live(nucleus, fake)
    assert run["argv"][run["argv"].index("-v") + 1] == "4"


def test_the_level_of_the_log(start: Start) -> None:
    nucleus, component = start(logLevel="DEBUG")
    nucleus.merge({"logLevel": "WARNING"})
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) == 3)
    served(nucleus, "exit:1")
    assert not component.matching("^INFO .*opened to")
    component.wait_line(r"^ERROR \[tunnel 1 SSH\] failed after")


def test_what_is_no_text(start: Start) -> None:
    nucleus, component = start()
    served(nucleus, "garbage")
    lines = said(component.lines, 1)
    assert "INFO \ufffd\ufffd broken ?[31m red " in lines
    assert "INFO after the garbage" in lines
    # All bytes but the line end, again and again: cut.
    assert len(max(lines, key=len)) <= 8192 + len("WARNING ")
    for line in component.lines:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)


def test_no_token_whoever_prints_it(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(localproxyVerbosity=6, logLevel="DEBUG")
    secrets = [served(nucleus, behaviour) for behaviour in ("leak", "betray", "levels", "fail")]
    # A duplicate, one that is refused, and wrong ones: the agent's own lines.
    nucleus.notify(notification(secrets[0]))
    secrets.append(token("stay"))
    nucleus.notify(notification(secrets[-1], ("WEB",)))
    nucleus.notify({**notification(secrets[-1]), "region": f"x {secrets[-1]}"})
    nucleus.notify(json.dumps(notification(secrets[-1])).encode()[:-1])
    nucleus.wait_status("refused", count=3)
    # A long line of nothing but the token, which is cut in the midst of one.
    secrets.append(served(nucleus, "tokens:40"))
    component.wait_line(r"\[tunnel 5 SSH\] after the tokens$")

    everything = "\n".join([*component.lines, json.dumps(nucleus.status_events())])
    for secret in secrets:
        # A piece of it is as bad; the numbers at its beginning are this test's own.
        assert secret[-30:] not in everything
        assert secret[: len(secret) - 500] not in everything
    assert "SecretPart" not in everything
    for run in fake.runs():
        assert run["environment"]["AWSIOT_TUNNEL_CLIENT_TOKEN"] not in everything
    assert "INFO tokens <token> and <token>." in said(component.lines, 1)
    assert "INFO after the long line" in said(component.lines, 1)
    assert "INFO last words without end <token>" in said(component.lines, 1)
    assert nucleus.wait_status("rejected")["reason"] == '(HTTP/1.1 403 Forbidden) "<token>"'


def test_no_secret_of_the_component_itself(start: Start) -> None:
    nucleus, component = start()
    secrets = [nucleus.token, nucleus.environment()["AWS_CONTAINER_AUTHORIZATION_TOKEN"]]
    for secret in secrets:
        served(nucleus, f"say:{secret}")
    assert component.matching("<token>")
    assert component.stop() == 0
    assert not [line for line in component.lines if any(secret in line for secret in secrets)]


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """This process has the nucleus and the log's reader: its own pauses would be what a test measures."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_flood_delays_nobody_else(start: Start) -> None:
    """Neither another tunnel's lines, none of which is lost, nor the start of a third tunnel."""
    nucleus, component = start()

    def delays(ticks: int) -> tuple[list[float], list[float]]:
        """Of another tunnel's lines, and from a notification to the word that localproxy was started."""
        ticking = token(f"tick:{ticks}")
        nucleus.notify(notification(ticking))
        starts = []
        for _ in range(10):
            secret = token("exit")
            sent = time.monotonic()
            nucleus.notify(notification(secret))
            nucleus.wait_status("opened", secret)
            starts.append(time.monotonic() - sent)
            nucleus.wait_until(lambda secret=secret: nucleus.ended(secret))  # type: ignore[misc]
        # Not for a line: looking at all of them again and again would be what delays.
        nucleus.wait_until(lambda: nucleus.ended(ticking))
        lines = component.matching(r"\] tick ")[-ticks:]
        assert len(lines) == ticks
        return [line.at - float(line.rpartition(" ")[2]) for line in lines], starts

    # Nobody can hold 100 ms on a machine whose processors others wait for, too.
    limit = 0.1 if os.getloadavg()[0] < (os.cpu_count() or 1) else 0.5
    quiet_lines, quiet_starts = delays(10)
    for _ in range(3):
        flood = token("flood:200000")
        nucleus.notify(notification(flood))
        nucleus.wait_status("connected", flood)
        lines, starts = delays(40)
        nucleus.wait_until(lambda flood=flood: nucleus.ended(flood), timeout=60)  # type: ignore[misc]
        late = max(max(lines) - min(quiet_lines), max(starts) - min(quiet_starts))
        # Another program on a busy machine may be to blame for one delay; the agent would do it every time.
        if late < limit:
            break
    assert late < limit
    assert not component.matching("dropped")


def test_a_reader_that_stalls(start: Start, fake: FakeLocalproxy) -> None:
    """A full pipe costs lines, which are counted, but no tunnel, and not the end in time."""
    nucleus, component = start()
    component.reading.clear()
    served(nucleus, "flood:200000")
    served(nucleus, "tick:20")
    live(nucleus, fake)
    component.reading.set()
    component.wait_line(r"^WARNING \d+ log lines were dropped: their reader is too slow$")
    # The one that floods pays.
    assert component.matching(r"line 0$")
    assert len(component.matching(r"\[tunnel 2 SSH\] tick ")) == 20
    assert len(component.matching(r"opened to|Successfully established")) == 6
    # And now for good.
    component.reading.clear()
    served(nucleus, "flood:200000")
    live(nucleus, fake)
    began = time.monotonic()
    component.process.terminate()
    assert component.process.wait(10) == 0
    assert time.monotonic() - began < 4
