"""The real agent process and a nucleus that refuses, is down, forgets, restarts, or never answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import Start, live
from standins.component import Component, alive
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import COMPONENT, Nucleus


@pytest.fixture
def stopped(folder: Path) -> Iterator[Nucleus]:
    """A nucleus that does not listen yet."""
    with ExitStack() as stack:
        nucleus = Nucleus(folder, {})
        stack.callback(nucleus.close)
        yield nucleus


def test_what_it_asks_for(start: Start) -> None:
    nucleus, component = start()
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) == 2)
    assert nucleus.subscriptions() == [{"topicName": "$aws/things/test-thing/tunnels/notify", "qos": "1"}]
    # Nucleus lite takes a missing component name for every component's.
    assert nucleus.subscriptions("SubscribeToConfigurationUpdate") == [{"componentName": COMPONENT}]
    assert len(nucleus.subscriptions("SubscribeToComponentUpdates")) == 1
    assert component.err == []


@pytest.mark.parametrize("variable", ["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "SVCUID"])
def test_not_started_by_a_nucleus(stopped: Nucleus, folder: Path, variable: str) -> None:
    with Component(stopped, folder, extra={variable: ""}) as component:
        assert component.wait() == 1
    assert component.lines == [
        f"ERROR {variable} is not set: this program is to be started by a Greengrass nucleus"
    ]


def test_no_nucleus_at_start(stopped: Nucleus, folder: Path) -> None:
    with Component(stopped, folder) as component:
        assert component.wait() == 1
    (line,) = component.lines
    assert line.startswith(f"ERROR the nucleus cannot be reached at {stopped.socket_path} ")
    assert "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT" in line


REFUSED = {
    False: "ERROR the nucleus refuses this component's token (the variable SVCUID)",
    True: "ERROR the nucleus hangs up, as lite does on a token (the variable SVCUID) that it does not know",
}


@pytest.mark.parametrize("lite", [False, True])
def test_a_token_that_is_refused_at_start(start: Start, lite: bool) -> None:
    _, component = start(
        {"lite": lite}, {"extra": {"SVCUID": "another-token-0123456789"}}, prepare=lambda _: None
    )
    assert component.wait() == 1
    assert component.lines == [REFUSED[lite]]


@pytest.mark.parametrize("lite", [False, True])
def test_a_subscription_that_is_not_allowed(start: Start, lite: bool) -> None:
    _, component = start(
        nucleus_options={"lite": lite},
        prepare=lambda nucleus: nucleus.refuse("SubscribeToIoTCore", "UnauthorizedError", None),
    )
    assert component.wait() == 1
    assert component.err == [
        "ERROR the nucleus does not allow to subscribe to $aws/things/test-thing/tunnels/notify: "
        "aws.greengrass.ipc.mqttproxy in the configuration key accessControl must allow "
        "aws.greengrass#SubscribeToIoTCore on it"
    ]


def test_a_device_that_is_offline_at_start(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(prepare=lambda nucleus: nucleus.refuse("SubscribeToIoTCore", message=None))
    nucleus.wait_until(lambda: len(nucleus.asked("SubscribeToIoTCore")) == 2)
    assert component.err == [
        "WARNING cannot subscribe to $aws/things/test-thing/tunnels/notify now, trying again: ServiceError"
    ]
    nucleus.refuse("SubscribeToIoTCore", None)
    nucleus.wait_subscribed()
    component.wait_line("^INFO subscribed to ")
    live(nucleus, fake)


def test_streams_that_end_are_opened_again(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22})
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) == 2)
    # What changes while nobody watches is found out.
    nucleus.configure({**nucleus.configuration, "services": {"WEB": 80}}, announce=False)
    for operation in ("SubscribeToIoTCore", "SubscribeToConfigurationUpdate", "SubscribeToComponentUpdates"):
        assert nucleus.end_streams(operation) == 1
        nucleus.wait_subscribed(operation)
    component.wait_line("^WARNING the nucleus ended a subscription; trying again to", count=3)
    component.wait_line("^INFO services: WEB to")
    live(nucleus, fake, "WEB")


def test_what_cannot_be_read_costs_no_subscription(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    assert nucleus.send_unreadable() == 1
    line = component.wait_line("^WARNING the nucleus sent something that cannot be read")
    assert "in-the-payload" not in line
    live(nucleus, fake)
    assert len(nucleus.asked("SubscribeToIoTCore")) == 1


def test_renewal_heals_forgotten_subscriptions_and_makes_before_it_breaks(
    start: Start, fake: FakeLocalproxy
) -> None:
    nucleus, component = start(nucleus_options={"lite": True}, resubscribeSeconds=1)
    nucleus.wait_until(lambda: len(nucleus.asked("SubscribeToIoTCore")) == 3)
    nucleus.wait_until(lambda: len(nucleus.subscriptions()) == 1)
    assert set(nucleus.counts[nucleus.counts.index(1) :]) == {1, 2}
    # The configuration is watched anew in the same way, and read, as it may have changed unseen.
    assert len(nucleus.subscriptions("SubscribeToConfigurationUpdate")) == 1
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) >= 3)
    live(nucleus, fake)

    assert nucleus.forget_subscriptions() == 1
    assert nucleus.notify(notification(token("stay"))) == 0
    nucleus.wait_subscribed(timeout=2)
    live(nucleus, fake)

    # One that is refused for now leaves the old one in place.
    nucleus.refuse("SubscribeToIoTCore")
    component.wait_line("^WARNING cannot subscribe to")
    live(nucleus, fake)
    nucleus.refuse("SubscribeToIoTCore", None)
    assert component.stop() == 0


def test_a_lost_connection(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22})
    run = live(nucleus, fake)
    nucleus.close()
    component.wait_line(r"^WARNING the connection to the nucleus is lost \(.*\); live tunnels go on")
    component.wait_line("^WARNING cannot connect to the nucleus now, trying again: ")
    # What happens meanwhile is published later.
    other = FakeLocalproxy(fake.path.parent, "other")
    nucleus.configure({"services": {"SSH": 2022}, "localproxyPath": str(other.path)}, announce=False)
    nucleus.open()
    nucleus.wait_subscribed()
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022")
    assert "127.0.0.1:2022" in live(nucleus, other)["argv"]
    assert alive(run["pid"])
    assert len(component.matching("^WARNING cannot connect")) == 1


def test_what_happens_while_the_connection_is_lost_is_published_later(
    start: Start, fake: FakeLocalproxy
) -> None:
    nucleus, component = start(tunnelTimeoutSeconds=1)
    live(nucleus, fake)
    nucleus.close()
    component.wait_line("timedOut after 1 s")
    nucleus.open()
    nucleus.wait_status("timedOut")


@pytest.mark.parametrize("lite", [False, True])
def test_a_restarted_nucleus_that_refuses_the_old_token(
    start: Start, fake: FakeLocalproxy, lite: bool
) -> None:
    """Only a fresh start of the component helps; the tunnels end with it. Lite is asked for some seconds."""
    nucleus, component = start({"lite": lite})
    run = live(nucleus, fake)
    nucleus.token = "another-token-0123456789"
    nucleus.drop_connections()
    assert component.wait(15) == 1
    assert component.lines[-1] == REFUSED[lite]
    assert not alive(run["pid"])


def test_a_nucleus_that_hangs_up_now_and_then(start: Start, fake: FakeLocalproxy) -> None:
    """While it starts it may; that alone ends nothing."""
    nucleus, component = start({"lite": True})
    known, nucleus.token = nucleus.token, "another-token-0123456789"
    connects = nucleus.connects
    nucleus.drop_connections()
    nucleus.wait_until(lambda: nucleus.connects >= connects + 3)
    nucleus.token = known
    nucleus.wait_subscribed()
    live(nucleus, fake)
    assert component.stop() == 0


def test_a_nucleus_that_stays_away(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(ipcRetrySeconds=1)
    run = live(nucleus, fake)
    lost = time.monotonic()
    nucleus.close()
    assert component.wait() == 1
    assert 1 < time.monotonic() - lost < 4
    component.wait_line("^ERROR the nucleus cannot be reached at ")
    assert not alive(run["pid"])


def test_a_nucleus_that_never_answers(start: Start, fake: FakeLocalproxy) -> None:
    """It stops neither tunnels nor the end of the component."""
    nucleus, component = start()
    live(nucleus, fake)
    for operation in ("PublishToTopic", "GetConfiguration", "Connect"):
        nucleus.stall(operation)
    secret = token("stubborn")
    nucleus.notify(notification(secret))
    component.wait_line("^INFO .tunnel 2 SSH. Successfully established")
    began = time.monotonic()
    assert component.stop() == 0
    assert time.monotonic() - began < 4


def test_a_nucleus_that_does_not_even_let_it_connect(start: Start) -> None:
    nucleus, component = start(prepare=lambda nucleus: nucleus.stall("Connect"))
    nucleus.wait_until(lambda: nucleus.connects == 1)
    began = time.monotonic()
    assert component.stop() == 0
    assert time.monotonic() - began < 1


def test_a_policy_that_is_taken_away(start: Start, fake: FakeLocalproxy) -> None:
    """Live tunnels go on, and the next deployment may mend it."""
    nucleus, component = start(resubscribeSeconds=1)
    run = live(nucleus, fake)
    nucleus.refuse("SubscribeToIoTCore", "UnauthorizedError")
    nucleus.end_streams("SubscribeToIoTCore")
    component.wait_line("^ERROR the nucleus does not allow to subscribe to .* accessControl")
    nucleus.refuse("SubscribeToIoTCore", None)
    nucleus.wait_subscribed()
    live(nucleus, fake)
    assert alive(run["pid"])


def test_nucleus_lite(start: Start, fake: FakeLocalproxy) -> None:
    """Numbers as strings, no word before deployments, and errors without a message."""
    nucleus, component = start(
        nucleus_options={"lite": True},
        services={"SSH": 22, "WEB": 8080},
        maxConcurrentTunnels=3,
        reconnectWithClientToken=False,
        logLevel="DEBUG",
    )
    component.wait_line("^DEBUG this nucleus does not ask before deployments: ServiceError$")
    run = live(nucleus, fake, "SSH", "WEB")
    assert "SSH=127.0.0.1:22,WEB=127.0.0.1:8080" in run["argv"]
    nucleus.merge({"services": {"WEB": None}})
    component.wait_line("^INFO services: SSH to 127.0.0.1:22$")
    live(nucleus, fake)
    assert component.stop() == 0
    nucleus.wait_status("closed", count=2)
    assert component.err == []
