"""Configuration of the real agent process: where it comes from, when it applies, what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from integration.conftest import Start, live
from standins.component import alive
from standins.fake_localproxy import FakeLocalproxy, notification, token


def destination(run: dict[str, Any]) -> str:
    return str(run["argv"][run["argv"].index("-d") + 1])


def test_numbers_and_truth_values_may_be_strings(start: Start, fake: FakeLocalproxy, folder: Path) -> None:
    nucleus, _ = start(
        services={"SSH": "2022", "WEB": 8080.0},
        localproxyVerbosity="6",
        maxConcurrentTunnels="2",
        tunnelTimeoutSeconds="3600",
        reconnectWithClientToken="false",
        deferUpdatesSeconds="0",
        resubscribeSeconds="7200",
        ipcRetrySeconds="60",
        tunnelingEndpoint="localhost:8443",
        caPath=str(folder),
    )
    run = live(nucleus, fake)
    assert run["argv"] == [
        *("-e", "localhost:8443", "-d", "127.0.0.1:2022", "-v", "6", "-c", str(folder), "-y", "V1")
    ]
    assert "AWSIOT_TUNNEL_CLIENT_TOKEN" not in run["environment"]
    assert destination(live(nucleus, fake, "WEB")) == "127.0.0.1:8080"
    nucleus.notify(notification(token("stay")))
    assert "2 tunnels are open" in nucleus.wait_status("refused")["reason"]


def test_destinations(start: Start, fake: FakeLocalproxy) -> None:
    forms = {
        "A:B": (22, "127.0.0.1:22"),
        "HOST": ("db.local:5432", "db.local:5432"),
        "V6": ("[fe80::1]:22", "[fe80::1]:22"),
        "SOCKET": ("/run/ssh.socket", "/run/ssh.socket"),
    }
    nucleus, _ = start(services={service: given for service, (given, _) in forms.items()})
    for service, (_, expected) in forms.items():
        assert destination(live(nucleus, fake, service)) == expected
    # Several at once: with ids, and V3.
    run = live(nucleus, fake, "V6", "SOCKET", "HOST")
    together = "V6=[fe80::1]:22,SOCKET=/run/ssh.socket,HOST=db.local:5432"
    assert run["argv"] == ["-r", "eu-central-1", "-d", together, "-v", "4"]


def test_a_tunnel_is_refused_whole(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"A:B": 1, "SSH": 22, "OFF": "", "NULL": None})
    for services, words in [
        (("SSH", "WEB"), "no destination for WEB; the configuration key services has: A:B, SSH$"),
        (
            ("SSH", "OFF", "NULL"),
            "no destination for OFF, NULL; .* key services has: A:B, SSH$",
        ),
        (("A:B", "SSH"), "service id A:B has a colon, .* key services$"),
    ]:
        nucleus.notify(notification(token("stay"), services))
        component.wait_line(f"^WARNING tunnel for {','.join(services)} refused: {words}")
    assert fake.runs() == []


def test_updates_as_a_deployment_sends_them(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22, "VNC": 5900})
    first = live(nucleus, fake)

    nucleus.merge({"accessControl": {"aws.greengrass.ipc.mqttproxy": {"policy:1": {"operations": ["*"]}}}})
    component.wait_line("^INFO services: SSH to 127.0.0.1:22, VNC to 127.0.0.1:5900", count=2)
    assert component.err == []

    nucleus.merge({"services": {"WEB": "localhost:80", "SSH": 2022}})
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022, VNC to 127.0.0.1:5900, WEB to localhost:80")
    assert destination(live(nucleus, fake, "WEB")) == "localhost:80"
    assert destination(live(nucleus, fake)) == "127.0.0.1:2022"

    nucleus.merge({"services": {"WEB": "", "VNC": None}})
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022$")
    nucleus.notify(notification(token("stay"), ("WEB",)))
    assert nucleus.wait_status("refused")["services"] == ["WEB"]

    assert alive(first["pid"])
    assert len(fake.runs()) == 3


def test_a_notification_right_after_an_update_is_served_by_it(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start(services={"SSH": 22})
    nucleus.merge({"services": {"SSH": 2022}})
    assert destination(live(nucleus, fake)) == "127.0.0.1:2022"


def test_a_burst_is_read_once(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start()
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) == 2)  # also after it began to watch
    for attempt in range(5):
        before = len(nucleus.asked("GetConfiguration"))
        began = time.monotonic()
        nucleus.merge({"services": {f"S{attempt}{number}": number for number in range(1, 50)}})
        time.sleep(0.05)
        nucleus.merge({"services": {f"LAST{attempt}": 1}})
        spread = time.monotonic() - began
        live(nucleus, fake, f"LAST{attempt}", f"S{attempt}49")
        if spread < 0.15:  # else this was no burst, on a busy machine
            break
    assert len(nucleus.asked("GetConfiguration")) == before + 1


def test_an_invalid_update_is_refused_whole(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22})
    nucleus.merge({"services": {"SSH": 2022}, "maxConcurrentTunnels": 21})
    line = component.wait_line("^ERROR")
    assert line == (
        "ERROR the update is refused, the configuration stays as it was: configuration key "
        "maxConcurrentTunnels: 21 is not allowed; give a whole number from 1 to 20"
    )
    assert destination(live(nucleus, fake)) == "127.0.0.1:22"
    assert component.err == [line]
    # Mended, all of it applies.
    nucleus.merge({"maxConcurrentTunnels": 2})
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022")
    assert destination(live(nucleus, fake)) == "127.0.0.1:2022"


def test_an_unusable_localproxy_in_an_update_is_refused_whole(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22})
    nucleus.merge({"services": {"SSH": 2022}, "localproxyPath": "/nowhere/localproxy"})
    line = component.wait_line("^ERROR the update is refused")
    assert "localproxyPath" in line
    assert "/nowhere/localproxy: cannot be started: No such file or directory" in line
    assert destination(live(nucleus, fake)) == "127.0.0.1:22"


def test_an_invalid_configuration_at_start(start: Start) -> None:
    _, component = start(prepare=lambda nucleus: nucleus.merge({"services": {"SSH": 70000}}))
    assert component.wait() == 1
    assert component.err == [
        "ERROR configuration key services.SSH: 70000 is not allowed; give a port (1-65535), host:port, "
        "[IPv6]:port or the path of a Unix socket"
    ]


def test_what_has_no_effect_is_a_warning(start: Start, folder: Path) -> None:
    _, component = start(sshPort=22, caPath="/nowhere", accessControl={})
    component.wait_line("^WARNING configuration key sshPort is not known and has no effect")
    component.wait_line("^WARNING configuration key caPath: /nowhere is not a directory")
    assert len(component.err) == 2


def test_no_configuration_gives_the_defaults(start: Start, fake: FakeLocalproxy, folder: Path) -> None:
    nucleus, component = start(
        prepare=lambda nucleus: nucleus.configure(None),
        component_options={"extra": {"PATH": f"{folder}:/usr/bin:/bin"}},
    )
    component.wait_line("^INFO services: SSH to 127.0.0.1:22, VNC to 127.0.0.1:5900, PG to 127.0.0.1:9876$")
    nucleus.wait_subscribed()
    run = live(nucleus, fake, "PG")
    assert run["argv"] == ["-r", "eu-central-1", "-d", "127.0.0.1:9876", "-v", "4", "-y", "V1"]
    assert nucleus.wait_status("connected")["topic"] == "iot-tunnel-agent/status"


def test_a_configuration_that_cannot_be_read_at_start_is_waited_for(
    start: Start, fake: FakeLocalproxy
) -> None:
    """Never replaced by the defaults: they would reopen a service that was switched off."""
    nucleus, component = start(
        services={"SSH": None, "WEB": 80}, prepare=lambda nucleus: nucleus.refuse("GetConfiguration")
    )
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) >= 2)
    assert nucleus.subscriptions() == []
    assert component.err == ["WARNING cannot read the configuration now, trying again: ServiceError refused"]
    nucleus.refuse("GetConfiguration", None)
    component.wait_line("^INFO services: WEB to 127.0.0.1:80$")
    nucleus.wait_subscribed()
    assert destination(live(nucleus, fake, "WEB")) == "127.0.0.1:80"


def test_an_update_that_cannot_be_read_is_tried_again(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start(services={"SSH": 22})
    component.wait_line("^INFO subscribed")
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) == 2)
    nucleus.refuse("GetConfiguration")
    nucleus.merge({"services": {"SSH": 2022}})
    component.wait_line("^WARNING cannot read the configuration now")
    # Somebody who needs a tunnel now is served by what applies.
    assert destination(live(nucleus, fake)) == "127.0.0.1:22"
    nucleus.refuse("GetConfiguration", None)
    component.wait_line("^INFO services: SSH to 127.0.0.1:2022")
    assert destination(live(nucleus, fake)) == "127.0.0.1:2022"
