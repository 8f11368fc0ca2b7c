"""Tunnels of the real agent process with a fake localproxy: start, outcome, end."""

from __future__ import annotations

from integration.conftest import Start
from standins.fake_localproxy import FakeLocalproxy, notification, token


def test_a_notification_starts_localproxy_in_an_empty_folder(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    secret = token("stay")
    nucleus.notify(notification(secret))
    nucleus.wait_status("connected")
    run = fake.run_of(secret)
    assert run["argv"] == ["-r", "eu-central-1", "-d", "127.0.0.1:22", "-v", "4", "-y", "V1"]
    assert run["entries"] == []
    assert run["descriptors"] == [0, 1, 2]
    assert run["group"] == run["pid"]
    assert component.stop() == 0
