"""Status events of the real agent process, as a subscriber on the device reads them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

from integration.conftest import Start, live
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import Nucleus

MEMBERS = ["event", "region", "services", "time", "token", "topic", "tunnel"]


def test_every_event(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start(services={"SSH": 22, "VNC": 5900}, tunnelTimeoutSeconds=1)

    def serve(behaviour: str, last: str, *services: str) -> list[dict[str, Any]]:
        """The events of one tunnel."""
        secret = token(behaviour)
        nucleus.notify(notification(secret, services or ("SSH",), region="eu-west-1"))
        nucleus.wait_status(last, secret)
        events = nucleus.status_events(secret)
        assert events[0]["token"] == hashlib.sha256(secret.encode()).hexdigest()[:12]
        for event in events:
            assert event["topic"] == "iot-tunnel-agent/status"
            assert event["services"] == list(services or ("SSH",))
            assert event["region"] == "eu-west-1"
            age = datetime.now(timezone.utc) - datetime.fromisoformat(event["time"])
            assert timedelta() <= age < timedelta(seconds=30)
            assert secret not in json.dumps(event)
        for event in events[:-1]:
            assert sorted(event) == MEMBERS
        assert sorted(events[-1]) == sorted([*MEMBERS, "reason"])
        return events

    def names(events: list[dict[str, Any]]) -> list[str]:
        return [event["event"] for event in events]

    closed = serve("exit", "closed", "SSH", "VNC")
    assert names(closed) == ["opened", "connected", "closed"]
    assert {event["tunnel"] for event in closed} == {1}
    assert names(serve("reject", "rejected")) == ["opened", "rejected"]
    assert names(serve("fail", "failed")) == ["opened", "failed"]
    timed_out = serve("stay", "timedOut")
    assert names(timed_out) == ["opened", "connected", "timedOut"]
    assert {event["tunnel"] for event in timed_out} == {4}
    (refused,) = serve("stay", "refused", "WEB")
    assert refused["tunnel"] is None
    assert "no destination for WEB" in refused["reason"]
    nucleus.notify(b"{")
    unreadable = nucleus.wait_status("refused", count=2)
    assert [unreadable[member] for member in ("tunnel", "services", "region", "token")] == [
        None,
        [],
        None,
        None,
    ]


def test_another_topic_and_none(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(statusTopic="plant/7/tunnels")
    run = live(nucleus, fake)
    assert {event["topic"] for event in nucleus.status_events()} == {"plant/7/tunnels"}
    nucleus.merge({"statusTopic": ""})
    component.wait_line("^INFO services: ", count=2)
    os.kill(run["pid"], signal.SIGTERM)
    component.wait_line(r"^INFO \[tunnel 1 SSH\] closed")
    nucleus.notify(notification(token("exit")))
    component.wait_line(r"^INFO \[tunnel 2 SSH\] closed")
    # Whatever else was published would be here before this one.
    nucleus.merge({"statusTopic": "plant/7/tunnels"})
    component.wait_line("^INFO services: ", count=3)
    live(nucleus, fake)
    assert [event["event"] for event in nucleus.status_events()] == ["opened", "connected"] * 2


def test_publishing_that_is_not_allowed_is_one_warning(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(
        prepare=lambda nucleus: nucleus.refuse("PublishToTopic", "UnauthorizedError", None)
    )
    nucleus.wait_subscribed()
    live(nucleus, fake)
    live(nucleus, fake)
    assert component.stop() == 0
    assert component.err == [
        "WARNING no status events: aws.greengrass.ipc.pubsub in the configuration key accessControl must "
        "allow aws.greengrass#PublishToTopic on iot-tunnel-agent/status"
    ]


def test_a_nucleus_that_does_not_answer_a_publication_holds_up_nothing_else(
    start: Start, fake: FakeLocalproxy
) -> None:
    nucleus, component = start(services={"SSH": 22}, deferUpdatesSeconds=100)
    nucleus.wait_subscribed("SubscribeToComponentUpdates")
    nucleus.stall("PublishToTopic")
    live(nucleus, fake)
    # The configuration is read, deployments are answered, and notifications served.
    nucleus.merge({"services": {"SSH": 2022}})
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022", timeout=2)
    nucleus.announce_update("first")
    nucleus.wait_until(lambda: len(nucleus.asked("DeferComponentUpdate")) == 1, timeout=2)
    live(nucleus, fake)


def test_a_flood_of_events_is_published_in_order(start: Start) -> None:
    nucleus, _ = start(maxConcurrentTunnels=20)
    secrets = [token("exit") for _ in range(20)]
    for secret in secrets:
        nucleus.notify(notification(secret))
    for secret in secrets:
        nucleus.wait_status("closed", secret)
    assert order(nucleus) == {number: ["opened", "connected", "closed"] for number in range(1, 21)}


def order(nucleus: Nucleus) -> dict[int, list[str]]:
    events: dict[int, list[str]] = {}
    for event in nucleus.status_events():
        events.setdefault(event["tunnel"], []).append(event["event"])
    return events
