"""What GDK would build from this project, and that a device can install and run it without any network."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from standins.deployment import PROJECT, Build, Deployment, build, stop
from standins.namespaces import namespace
from standins.nucleus import Nucleus
from standins.stage import until

TIMEOUT = 120.0
GROUNDS = ["gdk-config.json", "recipe.yaml", "requirements.txt", "README.md", "LICENSE", "src"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """This project, built."""
    return build(tmp_path_factory.mktemp("build"))


def entries(built: Build) -> set[str]:
    with zipfile.ZipFile(built.archive) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def copy_of_project(into: Path) -> Path:
    into.mkdir()
    for name in GROUNDS:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, into)
    return into


def test_the_archive_has_what_a_device_needs_and_nothing_else(built: Build) -> None:
    sources = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # The rest is the user's: see the next test.
    bundled = ("wheels/", "bin/")
    found = {name for name in entries(built) if not name.startswith(bundled)}
    assert found == sources - {"src/fetch_wheels.sh"} | {"requirements.txt", "LICENSE"}


def test_what_the_user_adds_travels_and_what_tools_leave_does_not(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    before = entries(build(tmp_path / "before", project))
    wanted = ["wheels/awscrt-1.whl", "bin/ubuntu-x86_64/localproxy", "bin/aarch64/localproxy"]
    unwanted = [
        ".git/config",
        ".gitignore",
        ".venv/bin/python3",
        "venv/bin/python3",
        "env/bin/python3",
        "src/__pycache__/main.cpython-311.pyc",
        "src/tunnel_agent/__pycache__/agent.cpython-311.pyc",
        "src/.mypy_cache/x",
        "src/tunnel_agent/test_agent.py",
        "tests/run.sh",
        "tests/.venv/made-from",
        "node_modules/x/index.js",
        "greengrass-build/recipes/recipe.yaml",
        "zip-build/x/main.py",
        "build/x",
        "dist/x",
    ]
    for name in wanted + unwanted:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    assert entries(build(tmp_path / "after", project)) == before | set(wanted)


def test_the_archive_is_small(tmp_path: Path) -> None:
    built = build(tmp_path / "build", copy_of_project(tmp_path / "project"))
    assert built.archive.stat().st_size < 100 * 1024


def test_the_recipe_is_filled_in(built: Build) -> None:
    recipe = yaml.safe_load(built.recipe_file.read_text())
    assert recipe["ComponentName"] == "com.javatask.iot-tunnel-agent"
    assert recipe["ComponentVersion"] == "2.0.0"
    assert recipe["ComponentPublisher"] == "javatask"
    [artifact] = recipe["Manifests"][0]["Artifacts"]
    assert artifact["Uri"].endswith(f"/{built.archive.name}")
    assert built.archive.name == "iot-tunnel-agent.zip"


def test_gdk_takes_both_files(built: Build) -> None:
    folder = os.environ.get("GDK_SCHEMAS")
    if folder is None:
        pytest.skip("GDK_SCHEMAS names no folder with GDK's schemas")

    def lower(node: Any) -> Any:
        """What GDK does to the recipe's keys before it looks."""
        if isinstance(node, dict):
            return {key.lower(): lower(value) for key, value in node.items()}
        return [lower(value) for value in node] if isinstance(node, list) else node

    [config_schema] = Path(folder).glob("gdk-*-config-schema.json")
    [recipe_schema] = Path(folder).glob("gdk-*-recipe-schema.json")
    config = json.loads((PROJECT / "gdk-config.json").read_text())
    jsonschema.validate(config, json.loads(config_schema.read_text()))
    schema = json.loads(recipe_schema.read_text())
    jsonschema.validate(lower(built.recipe), schema)


def test_everything_unpacked_can_be_read_and_a_bundled_binary_run(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    (project / "bin/x86_64").mkdir(parents=True)
    (project / "bin/x86_64/localproxy").write_text("#!/bin/sh\n")
    deployment = Deployment(build(tmp_path / "build", project), tmp_path / "greengrass")
    modes = {oct(path.stat().st_mode & 0o777) for path in deployment.artifact.rglob("*") if path.is_file()}
    assert modes == {"0o555"}
    subprocess.run([deployment.artifact / "bin/x86_64/localproxy"], check=True)


def test_a_device_without_network_installs_and_runs_the_archive(folder: Path) -> None:
    isolated = namespace("--net", "--mount")
    project = copy_of_project(folder / "project")
    fetch(project)
    root = folder / "green grass"
    read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec sh "$@"'
    deployment = Deployment(build(folder / "build", project), root, lite=True)
    deployment.shell = (*isolated, "sh", "-c", read_only, str(deployment.artifact))
    variables = {"PATH": f"{sys.base_prefix}/bin:{os.environ['PATH']}", "HOME": "/nonexistent"}

    started = time.monotonic()
    installed = deployment.install(variables, TIMEOUT)
    assert installed.returncode == 0, installed.stdout
    assert time.monotonic() - started < 30
    with Nucleus(folder, deployment.configuration, lite=True) as nucleus:
        variables.update(nucleus.environment())
        assert min(start_to_subscribed(deployment, nucleus, variables) for _ in range(2)) < 1.0
    assert sorted(path.name for path in deployment.work.glob("venv*")) == ["venv", "venv-a"]


def start_to_subscribed(deployment: Deployment, nucleus: Nucleus, variables: dict[str, str]) -> float:
    """Run the component until it is subscribed; returns the seconds that took."""
    log = deployment.root / "log"
    started = time.monotonic()
    with log.open("wb") as output:
        component = deployment.start(variables, output)
    try:
        nucleus.wait_subscribed()
        taken = time.monotonic() - started
        # The trial of a localproxy goes on; the watchdog would end it, but after the component's end.
        until(lambda: "" if b"INFO services: " in log.read_bytes() else "no localproxy was chosen", TIMEOUT)
    finally:
        code = stop(component)
    assert code == 0
    nucleus.wait_until(lambda: not nucleus.subscriptions())
    return taken


def fetch(project: Path) -> None:
    """Run the documented command that fills wheels/, for this machine and this Python."""
    variables = {
        **os.environ,
        "MACHINES": platform.machine(),
        "LIBCS": "glibc" if platform.libc_ver()[0] == "glibc" else "musl",
        "PYTHONS": "{}.{}".format(*sys.version_info),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(["sh", project / "src/fetch_wheels.sh"], env=variables, check=True, timeout=TIMEOUT)
