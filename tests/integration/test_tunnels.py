"""Tunnels of the real agent process with a fake localproxy: start, outcome, end."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from integration.conftest import Start, gone, live
from standins.component import alive, descendants, held
from standins.fake_localproxy import FakeLocalproxy, notification, token


def test_a_notification_starts_localproxy_in_an_empty_folder(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    run = live(nucleus, fake)
    assert run["argv"] == ["-r", "eu-central-1", "-d", "127.0.0.1:22", "-v", "4", "-y", "V1"]
    assert run["entries"] == []
    assert run["descriptors"] == [0, 1, 2]
    assert run["group"] == run["pid"]
    other = live(nucleus, fake)
    assert other["cwd"] != run["cwd"]
    os.kill(run["pid"], signal.SIGTERM)
    nucleus.wait_status("closed")
    assert not Path(run["cwd"]).exists()
    assert Path(other["cwd"]).exists()
    assert component.stop() == 0
    assert not Path(other["cwd"]).exists()


OUTCOMES = [
    ("exit", "closed", "INFO", "localproxy ended"),
    ("levels", "closed", "INFO", "localproxy ended before it connected"),
    ("reject", "rejected", "WARNING", '(HTTP/1.1 403 Forbidden) "bad token"'),
    ("exit:3", "failed", "ERROR", "localproxy ended with exit code 3"),
    ("die:15", "closed", "INFO", "localproxy was ended with SIGTERM"),
    ("die:9", "failed", "ERROR", "localproxy ended with signal SIGKILL"),
    (
        "fail",
        "failed",
        "ERROR",
        "localproxy ended with exit code 1; something went wrong; and this is not a record",
    ),
]


def test_outcomes(start: Start) -> None:
    nucleus, component = start()
    for number, (behaviour, event, level, reason) in enumerate(OUTCOMES, 1):
        secret = token(behaviour)
        nucleus.notify(notification(secret))
        status = nucleus.wait_status(event, secret)
        assert (status["tunnel"], status["reason"]) == (number, reason)
        line = component.wait_line(rf"\[tunnel {number} SSH\] {event} after ")
        assert line == f"{level} [tunnel {number} SSH] {event} after 0 s: {reason}"
        connected = ["connected"] if behaviour.startswith(("exit", "die")) else []
        assert [status["event"] for status in nucleus.status_events(secret)] == ["opened", *connected, event]
        # The agent's word of a tunnel comes before localproxy's own lines.
        assert "] opened to " in component.matching(rf"^INFO \[tunnel {number} SSH\]")[0]


def test_a_duplicate_is_ignored(start: Start, fake: FakeLocalproxy) -> None:
    """While its tunnel is open and afterwards; a token that was refused gets another chance."""
    nucleus, component = start(services={"SSH": 22}, maxConcurrentTunnels=1)
    secret = token("stay")
    nucleus.notify(notification(secret))
    nucleus.wait_status("connected")
    nucleus.notify(notification(secret))
    component.wait_line("^INFO a notification for SSH came once more; ignored")
    other = token("stay")
    nucleus.notify(notification(other))
    assert nucleus.wait_status("refused", other)["reason"] == (
        "1 tunnels are open, as many as maxConcurrentTunnels allows"
    )
    os.kill(fake.run_of(secret)["pid"], signal.SIGKILL)
    nucleus.wait_status("failed", secret)
    nucleus.notify(notification(secret))
    component.wait_line("came once more", count=2)
    nucleus.notify(notification(other))
    nucleus.wait_status("connected", other)
    assert len(fake.runs()) == 2
    unknown = token("stay")
    nucleus.notify(notification(unknown, ("WEB",)))
    nucleus.wait_status("refused", unknown)
    nucleus.merge({"services": {"WEB": 80}, "maxConcurrentTunnels": 2})
    component.wait_line("^INFO services: SSH to .*WEB")
    nucleus.notify(notification(unknown, ("WEB",)))
    nucleus.wait_status("connected", unknown)


def test_twenty_notifications_at_once(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    secrets = [token("stay") for _ in range(20)]
    for secret in secrets:
        nucleus.notify(notification(secret))
    nucleus.wait_status("connected", count=20)
    runs = fake.runs()
    assert {run["environment"]["AWSIOT_TUNNEL_ACCESS_TOKEN"] for run in runs} == set(secrets)
    assert len({run["cwd"] for run in runs}) == 20
    assert all(alive(run["pid"]) for run in runs)
    nucleus.notify(notification(token("stay")))
    nucleus.wait_status("refused")
    began = time.monotonic()
    assert component.stop() == 0
    assert time.monotonic() - began < 4
    assert not [run for run in runs if alive(run["pid"])]
    # Each of them was told about before the agent ended.
    nucleus.wait_status("closed", count=20)


def test_many_short_tunnels_end_promptly(start: Start) -> None:
    """None of their ends goes unnoticed, and nothing is left of them."""
    nucleus, component = start(maxConcurrentTunnels=5)
    children = len(descendants(component.process.pid))
    held_before = held(component.process.pid)
    for _ in range(15):
        secrets = [token("exit"), token("fail"), token("orphan")]
        for secret in secrets:
            nucleus.notify(notification(secret))
        for secret, event in zip(secrets, ("closed", "failed", "closed")):
            nucleus.wait_status(event, secret, timeout=3)
    assert held(component.process.pid) == held_before
    assert len(descendants(component.process.pid)) == children


def test_the_deadline(start: Start, fake: FakeLocalproxy) -> None:
    """SIGTERM, two seconds of grace, SIGKILL; also for one that is stopped and cannot take a signal."""
    nucleus, component = start(tunnelTimeoutSeconds=1)
    runs = [live(nucleus, fake, behaviour=behaviour) for behaviour in ("stay", "stubborn", "stay")]
    os.kill(runs[2]["pid"], signal.SIGSTOP)
    opened = time.monotonic()
    status = nucleus.wait_status("timedOut")
    assert status["tunnel"] == 1
    assert status["reason"] == "it was open for as long as tunnelTimeoutSeconds allows"
    assert time.monotonic() - opened < 2
    assert alive(runs[1]["pid"])
    nucleus.wait_status("timedOut", count=3)
    assert 2.5 < time.monotonic() - opened < 4
    assert gone(*(run["pid"] for run in runs), timeout=1)
    component.wait_line(r"^WARNING \[tunnel 2 SSH\] timedOut after 3 s: ")


def test_what_localproxy_started_goes_with_it(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()

    def child(count: int) -> int:
        return int(component.wait_line(r"\] child \d+", count=count).rpartition(" ")[2])

    secret = token("family")
    nucleus.notify(notification(secret))
    first = child(1)
    os.kill(fake.run_of(secret)["pid"], signal.SIGTERM)
    nucleus.wait_status("closed")
    assert gone(first, timeout=1)

    nucleus.notify(notification(token("orphan")))
    second = child(2)
    nucleus.wait_status("closed", count=2)
    assert gone(second, timeout=1)

    # One that left the process group is beyond reach, but the tunnel ends all the same.
    nucleus.notify(notification(token("daemon")))
    third = child(3)
    try:
        nucleus.wait_status("closed", count=3, timeout=3)
        component.wait_line(r"^WARNING \[tunnel 3 SSH\] something that localproxy started is still there")
        live(nucleus, fake)
        assert component.stop() == 0
    finally:
        os.kill(third, signal.SIGKILL)


def test_token_rotation(start: Start, fake: FakeLocalproxy) -> None:
    """AWS cuts the old tunnel off and sends an ordinary second notification."""
    nucleus, component = start()
    old, new = token("rotated"), token("stay")
    nucleus.notify(notification(old))
    nucleus.wait_status("connected", old)
    nucleus.notify(notification(new))
    nucleus.wait_status("connected", new)
    os.kill(fake.run_of(old)["pid"], signal.SIGUSR1)
    assert nucleus.wait_status("rejected", old)["reason"].startswith("(HTTP/1.1 403 Forbidden)")
    assert alive(fake.run_of(new)["pid"])
    assert not component.matching(r"^ERROR (?!\[tunnel 1 SSH\] Proxy server rejected)")


def test_a_device_that_is_short_of_something(start: Start, fake: FakeLocalproxy) -> None:
    """What cannot be started now is tried again, and is no duplicate of itself."""
    nucleus, component = start(component_options={"limits": "ulimit -n 40"})
    secrets = [token("stay") for _ in range(20)]
    for secret in secrets:
        nucleus.notify(notification(secret))
    short = (
        "^WARNING a tunnel cannot be started, trying again in .* s: this component has too many files open"
    )
    component.wait_line(f"opened to|{short}", count=20)
    nucleus.wait_status("connected", count=len(component.matching("opened to")))
    opened = [run["environment"]["AWSIOT_TUNNEL_ACCESS_TOKEN"] for run in fake.runs()]
    waiting = [secret for secret in secrets if secret not in opened]
    assert opened
    nucleus.notify(notification(waiting[0]))
    component.wait_line("came once more")
    for run in fake.runs():
        os.kill(run["pid"], signal.SIGKILL)
    for secret in waiting:
        nucleus.wait_status("connected", secret)
    assert len(fake.runs()) == 20
    assert component.stop() == 0


def test_a_work_folder_that_was_tidied_up(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start()
    folders = Path(live(nucleus, fake)["cwd"]).parent
    shutil.rmtree(folders)
    secret = token("stay")
    nucleus.notify(notification(secret))
    nucleus.wait_status("connected", secret)
    assert len(list(folders.iterdir())) == 2


def test_what_is_no_notification(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    wrong = [b"", b"\xff\xfe", b"[]", b"{}", b"[" * 10000, b'{"clientAccessToken": 1}']
    for payload in wrong:
        nucleus.notify(payload)
    nucleus.notify({**notification(token("stay")), "clientMode": "source"})
    nucleus.notify({**notification(token("stay")), "region": "-h"})
    nucleus.wait_status("refused", count=len(wrong) + 2)
    component.wait_line("^WARNING tunnel refused: the notification cannot be read: ", count=len(wrong) + 2)
    assert fake.runs() == []
    nucleus.notify({**notification(token("stay")), "somethingNew": {}})
    nucleus.wait_status("connected")
