"""The claims of the security review, one test each: who can read what, and what reaches whom."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Start, live
from standins.component import ROOT, Component, descendants
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import Nucleus
from standins.stage import Stage

SECRETS = ("SVCUID-", "CREDENTIALS-TOKEN-", "SecretPart")
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be somebody else"
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A device with the built-in localproxy; as root the agent runs as another user."""
    with Stage() as stage:
        yield stage


def environment_of(pid: int) -> dict[str, str]:
    items = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(item.split("=", 1) for item in items if item)


def test_the_environment_of_localproxy_is_exactly_this(start: Start, fake: FakeLocalproxy) -> None:
    """Neither the way to the IPC nor the one to the device's AWS credentials is in it."""
    extra = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "LD_PRELOAD": "",
        "AWS_SECRET_ACCESS_KEY": "SecretPart",
        "PYTHONSTARTUP": "/x",
    }
    nucleus, _ = start(component_options={"extra": extra})
    environment = live(nucleus, fake)["environment"]
    assert sorted(environment) == [
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "AWSIOT_TUNNEL_CLIENT_TOKEN",
        "HOME",
        "LANG",
        "PATH",
    ]
    theirs = [value for name, value in nucleus.environment().items() if name != "AWS_REGION"]
    assert not set(environment.values()) & set(theirs)


def test_the_environment_of_the_builtin_localproxy_is_exactly_this(stage: Stage) -> None:
    connected = stage.open()
    assert sorted(environment_of(connected.pid)) == [
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "AWSIOT_TUNNEL_CLIENT_TOKEN",
        "PATH",
        "PYTHONPATH",
        "PYTHONPYCACHEPREFIX",
    ]
    stage.close(connected)


def test_a_localproxy_has_no_descriptor_of_the_agent(stage: Stage) -> None:
    """Standard input is /dev/null, the outputs are pipes, and the rest it has opened itself."""
    connected = [stage.open() for _ in range(3)]

    def descriptors(pid: int) -> dict[int, str]:
        return {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}

    agent = {
        name for name in descriptors(stage.component.process.pid).values() if name.startswith(("pipe", "soc"))
    }
    for tunnel in connected:
        its = descriptors(tunnel.pid)
        assert its[0] == os.devnull
        shared = {number for number, name in its.items() if name in agent}
        assert shared == {1, 2}
    for tunnel in connected:
        stage.close(tunnel)


def test_a_trial_of_a_localproxy_is_told_no_secret(start: Start, folder: Path) -> None:
    """A candidate that was just found is started with ``--help`` before it is trusted with anything."""
    candidate, note = folder / "candidate", folder / "note"
    candidate.write_text(f"#!/bin/sh\ntr '\\0' '\\n' </proc/$$/environ >{note}\necho --destination-app\n")
    candidate.chmod(0o755)
    start(localproxyPath=str(candidate))
    assert [line.partition("=")[0] for line in note.read_text().splitlines()] == ["PATH"]


def test_the_watchdog_is_told_no_secret(start: Start, fake: FakeLocalproxy) -> None:
    nucleus, component = start()
    run = live(nucleus, fake)
    (watchdog,) = [pid for pid in descendants(component.process.pid) if pid != run["pid"]]
    assert list(environment_of(watchdog)) == ["PATH"]


def test_no_secret_in_any_command_line(stage: Stage) -> None:
    """Those are for every user of the device to read."""
    connected = stage.open()
    environment = environment_of(connected.pid)
    secrets = [
        stage.nucleus.token,
        environment["AWSIOT_TUNNEL_ACCESS_TOKEN"],
        environment["AWSIOT_TUNNEL_CLIENT_TOKEN"],
    ]
    pids = [stage.component.process.pid, *descendants(stage.component.process.pid)]
    assert connected.pid in pids
    for pid in pids:
        command = Path(f"/proc/{pid}/cmdline").read_text()
        assert command
        assert not [secret for secret in secrets if secret in command]
    stage.close(connected)


@as_root
def test_no_other_user_can_read_the_environment_of_localproxy(stage: Stage) -> None:
    connected = stage.open()
    other = ["setpriv", "--reuid", "59999", "--regid", "59999", "--clear-groups", "--"]
    for pid in (connected.pid, stage.component.process.pid):
        assert stat.S_IMODE(Path(f"/proc/{pid}/environ").stat().st_mode) == 0o400
        for file in ("environ", "mem", "fd/1"):
            command = [*other, "head", "-c1", f"/proc/{pid}/{file}"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
            assert "Permission denied" in result.stderr
    stage.close(connected)


def everything_in(folder: Path) -> list[Path]:
    found = [folder / name for name in os.listdir(folder)]  # noqa: PTH208 - a list that stays
    return [*found, *(below for path in found if path.is_dir() for below in everything_in(path))]


def test_what_is_in_the_work_folder_is_for_the_agent_alone(folder: Path) -> None:
    """Folders of tunnels, a copied localproxy, compiled code: even if the nucleus has set no umask."""
    artifact, work = folder / "artifact", folder / "work"
    shutil.copytree(ROOT / "src", artifact / "src", ignore=shutil.ignore_patterns("__pycache__"))
    bundled = FakeLocalproxy(artifact / "bin" / platform.machine())
    bundled.path.chmod(0o644)
    work.mkdir()
    options: dict[str, Any] = {"artifact": artifact, "limits": "umask 000"}
    with Nucleus(folder, {}) as nucleus, Component(nucleus, work, **options) as component:
        nucleus.wait_subscribed()
        component.wait_line("^INFO localproxy: .*/work/bin/")
        live(nucleus, bundled)
        nucleus.merge({"localproxyPath": "builtin"})
        component.wait_line("^INFO localproxy: built-in")
        paths = everything_in(work)
        assert {"tunnels", "bin", "pycache"} <= {path.name for path in paths}
        assert [f"{path.stat().st_mode:o} {path}" for path in paths if path.stat().st_mode & 0o077] == []
        copy = work / "bin" / platform.machine() / "localproxy"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o700
        assert component.stop() == 0


def test_no_secret_is_written_to_a_file(stage: Stage) -> None:
    """Neither while tunnels are open nor afterwards."""
    connected = stage.open()
    stage.exchange(connected)
    secrets = [value for name, value in environment_of(connected.pid).items() if "TOKEN" in name]
    secrets.append(stage.nucleus.token)
    assert len(secrets) == 3

    def holding() -> list[Path]:
        files = [path for path in everything_in(stage.work) if path.is_file()]
        return [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]

    assert everything_in(stage.work)
    assert holding() == []
    stage.close(connected)
    assert holding() == []


HOSTILE: list[dict[str, Any]] = [
    {"region": "-h"},
    {"region": "--config=/etc/passwd"},
    {"region": "evil.example.com/"},
    {"region": "eu-central-1.evil.com"},
    {"region": "eu-central-1\n"},
    {"services": ["-d"]},
    {"services": ["--help"]},
    {"services": ["SSH=evil.example.com:22"]},
    {"services": ["SSH,X=1.2.3.4:5"]},
    {"services": ["SSH", "/etc/passwd"]},
    {"services": ["$(reboot)"]},
    {"clientAccessToken": "x\r\naccess-token: y"},
    {"clientAccessToken": "x\0LD_PRELOAD=/tmp/evil.so"},
    {"clientAccessToken": ""},
    {"clientMode": "source"},
]


def test_a_hostile_notification_starts_nothing(start: Start, fake: FakeLocalproxy) -> None:
    """Nothing in it becomes an option, a host, a header, a variable."""
    nucleus, component = start()
    for count, change in enumerate(HOSTILE, 1):
        nucleus.notify(json.dumps({**notification(token("stay")), **change}).encode())
        nucleus.wait_status("refused", count=count)
    assert fake.runs() == []
    run = live(nucleus, fake)
    assert run["argv"] == ["-r", "eu-central-1", "-d", "127.0.0.1:22", "-v", "4", "-y", "V1"]
    assert not [line for line in component.lines if any(secret in line for secret in SECRETS)]
