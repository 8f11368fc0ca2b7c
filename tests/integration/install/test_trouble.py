"""What install.sh does when things go wrong on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from standins.namespaces import namespace
from standins.small_component import (
    SmallComponent,
    content,
    environment,
    index_of,
    install,
    tiny_wheel,
    version_in,
)
from standins.system_python import SystemPython

TIMEOUT = 60.0
READY = "INFO virtual environment ready after"
NOTHING_LEFT = ["install.lock", "pycache", "venv", "venv-a"]


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    """A package index that lets itself be asked and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        yield listener


def start_and_wait_for_pip(
    component: SmallComponent, work: Path, variables: dict[str, str], index: socket.socket
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """An installation whose pip waits for the index: the process, and pip's connection."""
    variables = {**variables, "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple"}
    process = subprocess.Popen(
        ["sh", component.script], cwd=work, env=variables, stdout=subprocess.DEVNULL, start_new_session=True
    )
    connection, _ = index.accept()
    return process, connection


def test_an_interrupted_installation_leaves_the_old_environment_and_the_next_one_works(
    component: SmallComponent,
    python_with_pip: SystemPython,
    work: Path,
    tmp_path: Path,
    silent_index: socket.socket,
) -> None:
    component.add_wheel("1.0")
    install(component, work, environment(python_with_pip))
    newer = SmallComponent(tmp_path / "newer", "tiny>=1.1")
    process, connection = start_and_wait_for_pip(newer, work, environment(python_with_pip), silent_index)
    with connection:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)
    assert version_in(work) == "1.0"
    newer.add_wheel("1.1")
    assert READY in install(newer, work, environment(python_with_pip)).stdout
    assert version_in(work) == "1.1"
    assert content(work) == ["install.lock", "pycache", "venv", "venv-b"]


def test_a_pip_that_outlives_its_installation_is_waited_for(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, silent_index: socket.socket
) -> None:
    first, connection = start_and_wait_for_pip(component, work, environment(python_with_pip), silent_index)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(TIMEOUT)
    component.add_wheel()
    second = subprocess.Popen(
        ["sh", component.script],
        cwd=work,
        env=environment(python_with_pip),
        stdout=subprocess.PIPE,
        text=True,
    )
    with second:
        assert second.stdout is not None
        assert "waiting for another installation" in second.stdout.readline()
        silent_index.close()
        connection.close()
        assert second.wait(TIMEOUT) == 0
    assert version_in(work) == "1.0"


def test_two_launches_at_once_make_one_environment(
    component: SmallComponent, python_with_pip: SystemPython, work: Path
) -> None:
    component.add_wheel()
    launches = [
        subprocess.Popen(
            ["sh", component.script],
            cwd=work,
            env=environment(python_with_pip),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [launch.communicate(timeout=TIMEOUT)[0] for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0]
    assert "".join(outputs).count(READY) == 1
    assert content(work) == NOTHING_LEFT


def test_an_environment_of_another_kind_is_replaced(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    python.add(tiny_wheel(tmp_path))
    (work / "venv/bin").mkdir(parents=True)
    (work / "venv/bin/python3").write_text("not a program")
    assert install(component, work, environment(python)).returncode == 0
    assert content(work) == NOTHING_LEFT


def test_a_read_only_artifact(component: SmallComponent, python_with_pip: SystemPython, work: Path) -> None:
    component.add_wheel()
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/x" 2>&- && exec sh "$@"'
    shell = [*namespace("--mount"), "sh", "-c", mount, str(component.folder)]
    assert install(component, work, environment(python_with_pip), shell).returncode == 0
    assert version_in(work) == "1.0"


def test_a_full_disk_is_one_line_and_leaves_room_and_the_old_environment(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    component.add_wheel("1.0")
    big = SmallComponent(tmp_path / "big", "tiny>=1.1")
    big.add_wheel("1.1", size=4 << 20)
    commands = """
        mount -t tmpfs -o size=4m none . && cd "$PWD" && sh "$0" > /dev/null || exit 9
        sh "$1"
        echo "INFO exit code $?, left:" * "$(venv/bin/python3 -c 'import tiny; print(tiny.version)')"
        exit 1"""
    shell = [*namespace("--mount"), "sh", "-c", commands, str(component.script)]
    done = install(big, work, environment(python_with_pip), shell)
    _, error, after = done.stdout.splitlines()
    assert "pip: Could not install packages due to an OSError: [Errno 28] No space left on device" in error
    assert "50 MB free" in error
    assert after == "INFO exit code 1, left: install.lock pycache venv venv-a 1.0"


def test_a_small_folder_for_temporary_files_is_not_used(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    index_of(tmp_path, tiny_wheel(tmp_path, size=1 << 20))
    small = tmp_path / "tmp"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=64k none "$TMPDIR" && exec sh "$0"'
    shell = [*namespace("--mount"), "sh", "-c", mount]
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), handler
    ) as server:  # what comes by HTTP is kept in a file first
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/simple"
        variables = environment(python_with_pip, TMPDIR=str(small), PIP_INDEX_URL=index)
        done = install(component, work, variables, shell)
        server.shutdown()
    assert done.returncode == 0, done.stdout


def test_a_work_folder_that_cannot_be_written_to_is_one_line(
    component: SmallComponent, python: SystemPython, work: Path
) -> None:
    mount = 'mount --bind . . && mount -o remount,bind,ro "$PWD" && cd "$PWD" && exec sh "$0"'
    done = install(component, work, environment(python), [*namespace("--mount"), "sh", "-c", mount])
    assert done.returncode == 1
    assert f"cannot be made in {work}: [Errno 30] Read-only file system" in done.stdout
