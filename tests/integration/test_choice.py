"""Which localproxy the real agent process chooses, and what it gives to it."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Start, gone, live
from standins.component import ROOT, descendants
from standins.fake_localproxy import FakeLocalproxy, notification, token

MACHINE = platform.machine()
OLD_HELP = """  -t [ --access-token ] arg
  -d [ --destination-app ] arg
"""


@pytest.fixture
def artifact(folder: Path) -> Path:
    """A copy of the program, as unpacked by a nucleus."""
    target = folder / "artifact"
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def bundle(artifact: Path, place: str) -> FakeLocalproxy:
    return FakeLocalproxy(artifact / "bin" / place)


def chosen(component_line: str) -> str:
    return component_line.partition("INFO localproxy: ")[2].partition(",")[0]


def test_the_search_order(start: Start, artifact: Path, folder: Path, fake: FakeLocalproxy) -> None:
    """From the last resort up: each new candidate comes before those that were there."""
    nucleus, component = start(
        component_options={"artifact": artifact, "extra": {"PATH": f"{folder}:/usr/bin:/bin"}},
        OS_DIST_INFO="ubuntu",
        localproxyPath="builtin",
    )
    assert chosen(component.wait_line("^INFO localproxy: ")) == "built-in"

    def search(count: int, distribution: str) -> str:
        nucleus.merge({"localproxyPath": "", "OS_DIST_INFO": distribution})
        return chosen(component.wait_line("^INFO localproxy: ", count=count))

    assert search(2, "auto") == str(fake.path)
    machine = bundle(artifact, MACHINE)
    assert search(3, "ubuntu") == str(machine.path)
    amzn2 = bundle(artifact, f"amzn2-{MACHINE}")
    assert search(4, "raspberrypi") == str(machine.path)
    assert search(5, "amzn2") == str(amzn2.path)
    raspberry = bundle(artifact, f"raspberrypi-{MACHINE}")
    assert search(6, "raspberrypi") == str(raspberry.path)
    live(nucleus, raspberry)
    nucleus.merge({"localproxyPath": str(fake.path)})
    assert chosen(component.wait_line("^INFO localproxy: ", count=7)) == str(fake.path)
    assert component.err == []


def test_without_any_binary_the_built_in_is_taken(start: Start, artifact: Path) -> None:
    _, component = start(component_options={"artifact": artifact}, localproxyPath="")
    assert component.wait_line(r"^INFO localproxy: built-in, version \d")


def test_what_cannot_run_is_passed_over_with_the_reason(
    start: Start, artifact: Path, folder: Path, fake: FakeLocalproxy
) -> None:
    """Another architecture, a missing loader, a missing library, another program."""
    places = [artifact / "bin" / f"ubuntu-{MACHINE}", artifact / "bin" / MACHINE]
    complaint = "localproxy: error while loading shared libraries: libssl.so.3"
    contents = [
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100), "Exec format error"),
        (b"#!/lib/no-such-loader.so\n", "No such file or directory"),
        (f"#!/bin/sh\necho '{complaint}' >&2; exit 127\n".encode(), f"ended with 127 and said: {complaint}"),
        (b"#!/bin/sh\necho something else\n", "--help ended with 0 and said: something else"),
    ]
    nucleus, component = start(
        component_options={"artifact": artifact, "extra": {"PATH": f"{folder}:/usr/bin:/bin"}},
    )
    for place in places:
        place.mkdir(parents=True)
    for (first, first_reason), (second, second_reason) in zip(contents, reversed(contents)):
        for place, content in zip(places, (first, second)):
            (place / "localproxy").write_bytes(content)
            (place / "localproxy").chmod(0o755)
        count = len(component.matching("^INFO localproxy: "))
        nucleus.merge({"localproxyPath": "", "OS_DIST_INFO": "ubuntu"})
        assert chosen(component.wait_line("^INFO localproxy: ", count=count + 1)) == str(fake.path)
        for place, reason in zip(places, (first_reason, second_reason)):
            component.wait_line(f"^WARNING passed over as localproxy: {place}/localproxy: .*{reason}")
        # Back to what needs no search over all, for the next round.
        nucleus.merge({"localproxyPath": str(fake.path)})
        component.wait_line("^INFO localproxy: ", count=count + 2)
    live(nucleus, fake)


def test_a_bundled_file_without_the_execute_bit_is_copied(start: Start, artifact: Path, folder: Path) -> None:
    bundled = bundle(artifact, MACHINE)
    bundled.path.chmod(0o644)
    nucleus, component = start(component_options={"artifact": artifact}, localproxyPath="")
    copy = folder / "work" / "bin" / MACHINE / "localproxy"
    assert chosen(component.wait_line("^INFO localproxy: ")) == str(copy)
    assert copy.read_bytes() == bundled.path.read_bytes()
    assert list(copy.parent.iterdir()) == [copy]
    assert stat.S_IMODE(bundled.path.stat().st_mode) == 0o644
    live(nucleus, bundled)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "No such file or directory"),
        (b"#!/bin/sh\necho nothing of the kind\n", 0o755, "said: nothing of the kind"),
        (b"#!/bin/sh\n", 0o644, "Permission denied"),
    ],
)
def test_a_configured_localproxy_that_is_not_usable_ends_the_component(
    start: Start, folder: Path, content: bytes | None, mode: int, reason: str
) -> None:
    path = folder / "mine"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    _, component = start(localproxyPath=str(path), prepare=lambda _: None)
    assert component.wait() == 1
    (line,) = component.err
    assert line.startswith(
        "ERROR the configuration key localproxyPath names a localproxy that cannot be used: "
    )
    assert f"{path}: " in line
    assert reason in line


def test_a_trial_that_hangs(start: Start, folder: Path, fake: FakeLocalproxy) -> None:
    """It holds up neither live tunnels nor the end of the component, and does not outlive it."""
    hanging = folder / "hanging"
    hanging.write_text("#!/bin/sh\nsleep 1000 & exec sleep 1000\n")
    hanging.chmod(0o755)
    nucleus, component = start()
    live(nucleus, fake)
    known = set(descendants(component.process.pid))
    nucleus.merge({"localproxyPath": str(hanging)})
    component_children: list[int] = []
    nucleus.wait_until(lambda: len(nucleus.asked("GetConfiguration")) >= 3)
    while len(component_children) < 2:
        component_children = [pid for pid in descendants(component.process.pid) if pid not in known]
    assert component.stop() == 0
    assert gone(*component_children, timeout=2)


def test_a_trial_has_a_time_limit(start: Start, folder: Path) -> None:
    hanging = folder / "hanging"
    hanging.write_text("#!/bin/sh\nsleep 1000 & exec sleep 1000\n")
    hanging.chmod(0o755)
    _, component = start(localproxyPath=str(hanging), prepare=lambda _: None)
    assert component.wait(20) == 1
    assert component.err[0].endswith(f"{hanging}: --help did not end within 10 s")


def test_a_localproxy_that_is_gone_is_searched_for_again(
    start: Start, artifact: Path, folder: Path, fake: FakeLocalproxy
) -> None:
    bundled = bundle(artifact, MACHINE)
    nucleus, component = start(
        component_options={"artifact": artifact, "extra": {"PATH": f"{folder}:/usr/bin:/bin"}},
        localproxyPath="",
    )
    assert chosen(component.wait_line("^INFO localproxy: ")) == str(bundled.path)
    bundled.path.unlink()
    live(nucleus, fake)
    component.wait_line(f"^WARNING {bundled.path} cannot be started: .*; searching for a localproxy again")
    assert len(component.err) == 1
    live(nucleus, fake)
    assert len(component.err) == 1


def test_a_configured_localproxy_that_is_gone(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, _ = start()
    content = fake.path.read_bytes()
    fake.path.unlink()
    nucleus.notify(notification(token("stay")))
    assert f"{fake.path} cannot be started" in nucleus.wait_status("refused")["reason"]
    # It came back, such as after an upgrade of the package that it is in.
    fake.path.write_bytes(content)
    fake.path.chmod(0o755)
    live(nucleus, fake)


def test_an_old_binary_is_not_given_options_that_it_does_not_know(start: Start, folder: Path) -> None:
    old = FakeLocalproxy(folder, "old", OLD_HELP)
    nucleus, component = start(localproxyPath=str(old.path))
    assert component.wait_line("^INFO localproxy: ").endswith(", version unknown")
    run = live(nucleus, old)
    assert run["argv"] == ["-r", "eu-central-1", "-d", "127.0.0.1:22", "-v", "4"]
    assert "AWSIOT_TUNNEL_CLIENT_TOKEN" not in run["environment"]
    nucleus.merge({"destinationClientType": "V1"})
    component.wait_line("^INFO services: ", count=2)
    nucleus.notify(notification(token("stay")))
    assert "does not know --destination-client-type" in nucleus.wait_status("refused")["reason"]


def test_client_types(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    assert live(nucleus, fake)["argv"][-2:] == ["-y", "V1"]
    component.wait_line(
        "^INFO .tunnel 1 SSH. a V3 localproxy as its source needs --destination-client-type V1"
    )
    for count, (client_type, argv) in enumerate([("V2", ["-y", "V2"]), ("V3", ["-v", "4"])], 2):
        nucleus.merge({"destinationClientType": client_type})
        component.wait_line("^INFO services: ", count=count)
        assert live(nucleus, fake)["argv"][-2:] == argv


def test_the_environment_is_built_up(start: Start, fake: FakeLocalproxy) -> None:
    extra = {
        "LANG": "C.UTF-8",
        "HOME": "/home/ggc",
        "LD_PRELOAD": "",
        "AWS_SECRET_ACCESS_KEY": "x",
        "FOO": "bar",
    }
    nucleus, _ = start(component_options={"extra": extra})
    environment = live(nucleus, fake)["environment"]
    client_token = environment.pop("AWSIOT_TUNNEL_CLIENT_TOKEN")
    assert len(client_token) == 36
    access_token = environment.pop("AWSIOT_TUNNEL_ACCESS_TOKEN")
    assert environment == {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/home/ggc"}
    other = live(nucleus, fake)["environment"]
    assert other["AWSIOT_TUNNEL_CLIENT_TOKEN"] != client_token
    assert other["AWSIOT_TUNNEL_ACCESS_TOKEN"] != access_token


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            {"ALL_PROXY": "http://all:3128", "NO_PROXY": "localhost"},
            {"HTTPS_PROXY": "http://all:3128", "NO_PROXY": "localhost"},
        ),
        (
            {"ALL_PROXY": "http://all:3128", "HTTPS_PROXY": "http://user:pass@https:3128"},
            {"HTTPS_PROXY": "http://user:pass@https:3128"},
        ),
        (
            {"HTTPS_PROXY": "http://https:3128", "NO_PROXY": "localhost,.amazonaws.com"},
            {"NO_PROXY": "localhost,.amazonaws.com"},
        ),
    ],
)
def test_proxies(start: Start, fake: FakeLocalproxy, extra: dict[str, str], expected: dict[str, Any]) -> None:
    nucleus, _ = start(component_options={"extra": extra})
    environment = live(nucleus, fake)["environment"]
    assert {name: value for name, value in environment.items() if name.upper().endswith("_PROXY")} == expected
