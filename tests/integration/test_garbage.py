"""5,000 wrong notifications and hundreds of wrong configurations through the real agent process."""

from __future__ import annotations

import json
import random

from integration.conftest import Start, live
from standins.component import memory
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.mutation import mutate_payload, mutate_value
from tunnel_agent.config import Configuration, ConfigurationError

NOTIFICATIONS = 5000
BURST = 250
CONFIGURATIONS = 200
MEMORY_TOLERANCE = 16.0  # MiB that the second half may add: the play of garbage collection and allocator


def test_notifications(start: Start, fake: FakeLocalproxy) -> None:
    """Each is answered by a line and a status event, none by a localproxy; and it serves as before."""
    rng = random.Random(20261122)
    nucleus, component = start()
    live(nucleus, fake)
    # None of them can become right: a right one would start a localproxy.
    right = {**notification("exit." + "SecretPart" * 50), "clientMode": "source"}
    payloads: list[bytes] = []
    while len(payloads) < NOTIFICATIONS:
        payload = mutate_payload(json.dumps(right).encode(), rng)
        if b"destination" not in payload:
            payloads.append(payload)
    halfway = 0.0
    refused = "^WARNING tunnel refused: the notification cannot be read: "
    for burst in range(0, NOTIFICATIONS, BURST):
        for payload in payloads[burst : burst + BURST]:
            assert nucleus.notify(payload) == 1
        component.wait_line(refused, count=burst + BURST)
        if burst + BURST == NOTIFICATIONS // 2:
            halfway = memory(component.process.pid)
    assert len(component.matching(refused)) == NOTIFICATIONS
    assert len(component.err) == NOTIFICATIONS
    assert not component.matching("dropped|unexpected|SecretPartSecretPartSecretPartSecretPartSecretPart")
    assert memory(component.process.pid) < halfway + MEMORY_TOLERANCE
    assert len(fake.runs()) == 1
    live(nucleus, fake)
    assert component.stop() == 0


def test_configurations(start: Start, fake: FakeLocalproxy) -> None:
    """Whatever is deployed, the agent runs on, with what was right last."""
    rng = random.Random(20261122)
    nucleus, component = start(logLevel="INFO")
    right = {**nucleus.configuration, "services": {"SSH": 22, "WEB": "camera:80"}, "resubscribeSeconds": 3600}
    wrong = 0
    for _ in range(CONFIGURATIONS):
        changed = mutate_value(right, rng)
        if not isinstance(changed, dict):
            continue  # a nucleus keeps a map
        # What it would search for, and how much it says, are to stay.
        changed.update({key: right[key] for key in ("localproxyPath", "logLevel")})
        try:
            Configuration.parse(changed)
        except ConfigurationError:
            wrong += 1
        nucleus.configure(changed)
    assert wrong > CONFIGURATIONS / 4
    nucleus.configure({**right, "services": {"LAST": 23}})
    component.wait_line("^INFO services: LAST to 127.0.0.1:23$")
    live(nucleus, fake, "LAST")
    assert not component.matching("unexpected|Traceback")
    assert component.stop() == 0


def test_a_configuration_that_is_refused_changes_nothing(start: Start, fake: FakeLocalproxy) -> None:
    rng = random.Random(5)
    nucleus, component = start(services={"SSH": 22})
    right = nucleus.configuration
    for number in range(1, 6):
        while True:
            wrong = {**right, "services": mutate_value({"SSH": 22, "WEB": 80}, rng)}
            try:
                Configuration.parse(wrong)
            except ConfigurationError:
                break
        nucleus.configure(wrong)
        component.wait_line("^ERROR the update is refused, the configuration stays as it was: ", count=number)
    assert "127.0.0.1:22" in live(nucleus, fake)["argv"]
    secret = token("stay")
    nucleus.notify(notification(secret, ("WEB",)))
    nucleus.wait_status("refused", secret)
