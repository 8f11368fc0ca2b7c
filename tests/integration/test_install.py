"""install.sh in the environments that devices have. Most run the real scripts for a package of a few bytes.

Unless a test says otherwise there is no package index, no HOME and no variable but PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from standins.small_component import SmallComponent, index_of, tiny_wheel
from standins.system_python import SystemPython, interpreters, pip_wheel

TIMEOUT = 60.0
NOTHING_LEFT = ["install.lock", "pycache", "venv", "venv-a"]
SUPPORTED = [f"3.{minor}" for minor in range(9, 14)]
READY = "INFO virtual environment ready after"


@pytest.fixture
def component(tmp_path: Path) -> SmallComponent:
    return SmallComponent(tmp_path / "artifact")


@pytest.fixture
def python(tmp_path: Path) -> SystemPython:
    """A Python as minimal as Debian's: no pip, no ensurepip, no venv module."""
    return SystemPython(tmp_path / "usr", without=["ensurepip", "venv"])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work folder"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pip in it."""
    folder = tmp_path_factory.mktemp("pip")
    wheel = pip_wheel(folder)
    if wheel is None:
        pytest.skip("this Python has no ensurepip with a wheel of pip: apt-get install python3-venv")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")
    return folder / "package"


@pytest.fixture
def python_with_pip(python: SystemPython, pip: Path) -> SystemPython:
    """The same with pip."""
    for entry in pip.iterdir():  # links, so that it is compiled once for all tests
        (python.site_packages / entry.name).symlink_to(entry)
    return python


def environment(python: SystemPython, **more: str) -> dict[str, str]:
    return {
        "PATH": f"{python.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
        # No pip.conf of this machine, and no index but one that a test names.
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        **more,
    }


def install(
    component: SmallComponent,
    work: Path,
    variables: dict[str, str],
    shell: Sequence[str] = ("sh",),
) -> subprocess.CompletedProcess[str]:
    """Run install.sh and hold it to its manners: few lines, each with its level, no traceback."""
    done = subprocess.run(
        [*shell, str(component.script)],
        cwd=work,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    lines = done.stdout.splitlines()
    assert all(line.startswith(("INFO ", "ERROR ")) for line in lines), done.stdout
    assert len([line for line in lines if line.startswith("ERROR ")]) == (done.returncode != 0), done.stdout
    assert len(lines) <= 3, done.stdout
    return done


def version_in(work: Path) -> str:
    """The version of tiny that the environment has."""
    return subprocess.run(
        [work / "venv/bin/python3", "-c", "import tiny; print(tiny.version)"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()


def content(work: Path) -> list[str]:
    return sorted(path.name for path in work.iterdir())


def namespace(*flags: str) -> tuple[str, ...]:
    command = ("unshare", "--map-root-user", *flags)
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces")
    return command


# From wheels/.


@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_wheels_are_enough_without_pip_venv_module_network_and_home(
    shell: str, component: SmallComponent, python: SystemPython, work: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}: apt-get install {shell}")
    component.add_wheel("1.2")
    if pip_wheel(component.wheels) is None:
        pytest.skip("no wheel of pip: apt-get install python3-venv")
    command = [*namespace("--net"), *([shell, "sh"] if shell == "busybox" else [shell])]
    done = install(component, work, environment(python), command)
    assert READY in done.stdout
    assert version_in(work) == "1.2"
    assert content(work) == NOTHING_LEFT


def test_a_python_with_pip_and_no_variable_at_all(component: SmallComponent, work: Path) -> None:
    component.add_wheel()
    assert install(component, work, {}).returncode == 0
    assert version_in(work) == "1.0"


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_python(version: str, component: SmallComponent, work: Path) -> None:
    base = interpreters().get(version)
    if base is None:
        pytest.skip(f"no Python {version} on this machine")
    component.add_wheel()
    variables = {"PATH": f"{base.parent}:/usr/bin:/bin", "PIP_NO_INDEX": "1"}
    done = install(component, work, variables)
    assert f"for Python {version}" in done.stdout
    assert version_in(work) == "1.0"


def test_nothing_changed_takes_no_time_and_no_network(
    component: SmallComponent, python: SystemPython, work: Path
) -> None:
    python.add(component.add_wheel())
    assert install(component, work, environment(python)).returncode == 0
    offline = namespace("--net")
    taken = []
    for _ in range(5):
        started = time.monotonic()
        assert install(component, work, environment(python), (*offline, "sh")).stdout == ""
        taken.append(time.monotonic() - started)
    assert min(taken) < 0.3


def test_other_wheels_make_another_environment(
    component: SmallComponent, python_with_pip: SystemPython, work: Path
) -> None:
    component.add_wheel("1.0")
    install(component, work, environment(python_with_pip))
    component.add_wheel("1.1")
    install(component, work, environment(python_with_pip))
    assert version_in(work) == "1.1"
    # A later version of the component that carries no wheels is content with what there is.
    shutil.rmtree(component.wheels)
    assert install(component, work, environment(python_with_pip)).stdout == ""


# From the index.


def test_the_index_is_asked_where_the_wheels_do_not_fit(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    component.add_wheel("1.0", tag="cp27-cp27m-win32")
    index = index_of(tmp_path, tiny_wheel(tmp_path, "1.3"))
    done = install(component, work, environment(python_with_pip, PIP_INDEX_URL=index))
    assert "wheels/ is not enough" in done.stdout
    assert version_in(work) == "1.3"


def test_ensurepip_serves_where_there_is_no_pip(
    component: SmallComponent, work: Path, tmp_path: Path
) -> None:
    python = SystemPython(tmp_path / "usr", without=["venv"])
    if not (python.library / "ensurepip").exists():
        pytest.skip("this Python has no ensurepip: apt-get install python3-venv")
    index = index_of(tmp_path, tiny_wheel(tmp_path))
    assert install(component, work, environment(python, PIP_INDEX_URL=index)).returncode == 0
    assert version_in(work) == "1.0"


def test_a_pip_that_crashes_is_one_line(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    (python.site_packages / "pip").mkdir()
    (python.site_packages / "pip/__main__.py").write_text("print('ERROR: Exception:', flush=True)\n1 / 0\n")
    done = install(component, work, environment(python))
    assert "ERROR ZeroDivisionError: division by zero; let the device reach" in done.stdout


def test_an_externally_managed_python_and_a_pip_that_is_told_to_install_for_the_user(
    component: SmallComponent, python_with_pip: SystemPython, work: Path
) -> None:
    (python_with_pip.library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=use apt\n")
    component.add_wheel()
    assert (
        install(component, work, environment(python_with_pip, PIP_USER="1", HOME=str(work))).returncode == 0
    )
    assert version_in(work) == "1.0"


def test_no_index_and_no_wheels_is_one_line(
    component: SmallComponent, python_with_pip: SystemPython, work: Path
) -> None:
    done = install(component, work, environment(python_with_pip))
    assert done.returncode == 1
    assert "No matching distribution found for tiny" in done.stdout
    assert "ship wheels/ for Python 3." in done.stdout
    assert content(work) == ["install.lock"]


# What the system has.


def test_a_package_of_the_system_is_used_without_any_pip(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    python.add(tiny_wheel(tmp_path, "1.5"))
    assert install(component, work, environment(python)).returncode == 0
    assert version_in(work) == "1.5"
    assert install(component, work, environment(python)).stdout == ""
    # The system's package manager takes it away: noticed, and said what to do.
    shutil.rmtree(python.site_packages / "tiny-1.5.dist-info")
    assert "apt-get install python3-pip" in install(component, work, environment(python)).stdout


def test_a_package_of_the_system_that_is_too_old_or_too_new_is_not_used(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    python_with_pip.add(tiny_wheel(tmp_path, "2.0"))
    component.add_wheel("1.1")
    assert install(component, work, environment(python_with_pip)).returncode == 0
    assert version_in(work) == "1.1"


def test_a_package_that_cannot_be_imported_is_one_line(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    python.add(tiny_wheel(tmp_path))
    (python.site_packages / "tiny.py").write_text("raise ImportError('GLIBC_2.38 not found')\n")
    done = install(component, work, environment(python))
    assert "the packages do not work with Python" in done.stdout
    assert "ImportError: GLIBC_2.38 not found" in done.stdout


# Which Python.


def test_no_python_is_one_line(component: SmallComponent, work: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dirname").symlink_to(shutil.which("dirname") or "")
    # The system's default would not do: it may have a Python.
    done = install(component, work, {"PATH": str(tools)}, [shutil.which("sh") or ""])
    assert done.returncode == 1
    assert "no Python 3.9 or newer" in done.stdout
    assert "apt-get install python3" in done.stdout


def test_an_older_python3_is_passed_over(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    old = [path for version, path in interpreters().items() if version not in SUPPORTED]
    if not old:
        pytest.skip("this machine has no Python older than 3.9")
    python.add(tiny_wheel(tmp_path))
    # Under the newest name, as the machine's own would otherwise come first.
    name = (python.bin / "python3").resolve().name
    with contextlib.suppress(FileExistsError):
        (python.bin / "python3.13").symlink_to(name)
    (python.bin / "python3").unlink()
    (python.bin / "python3").symlink_to(old[0])
    assert install(component, work, environment(python)).returncode == 0
    assert (work / "venv/bin/python3").resolve().name == name


def test_a_python_with_half_a_standard_library_is_one_line(
    component: SmallComponent, work: Path, tmp_path: Path
) -> None:
    python = SystemPython(tmp_path / "usr", without=["subprocess.py"])
    done = install(component, work, environment(python))
    assert "lacks a part of its standard library (No module named 'subprocess')" in done.stdout
    assert "apt-get install python3" in done.stdout


def test_a_python_that_was_removed_is_replaced_by_another(
    component: SmallComponent, python: SystemPython, work: Path, tmp_path: Path
) -> None:
    wheel = tiny_wheel(tmp_path)
    python.add(wheel)
    install(component, work, environment(python))
    python.remove()
    another = SystemPython(tmp_path / "local")
    another.add(wheel)
    assert READY in install(component, work, environment(another)).stdout
    assert version_in(work) == "1.0"


def test_a_python_that_was_upgraded_in_its_place(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    python = python_with_pip
    others = [
        path
        for version, path in interpreters().items()
        if version in SUPPORTED and python.library.name != f"python{version}"
    ]
    if not others:
        pytest.skip("this machine has one version of Python only")
    component.add_wheel()
    install(component, work, environment(python))
    name = (python.bin / "python3").resolve().name
    python.remove()
    upgraded = SystemPython(tmp_path / "usr", others[0])
    upgraded.add(tiny_wheel(tmp_path))
    # Even where the name of the interpreter stays the same.
    (upgraded.bin / name).symlink_to("python3")
    assert READY in install(component, work, environment(upgraded)).stdout
    assert version_in(work) == "1.0"


# When things go wrong on the way.


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
    big.add_wheel("1.1", size=8 << 20)
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


def test_a_full_folder_for_temporary_files_does_not_matter(
    component: SmallComponent, python_with_pip: SystemPython, work: Path, tmp_path: Path
) -> None:
    index_of(tmp_path, tiny_wheel(tmp_path))
    full = tmp_path / "tmp"
    full.mkdir()
    mount = 'mount -t tmpfs -o size=4k,nr_inodes=2 none "$TMPDIR" && touch "$TMPDIR/x" && exec sh "$0"'
    shell = [*namespace("--mount"), "sh", "-c", mount]
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), handler
    ) as server:  # what comes by HTTP is kept in a file first
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/simple"
        variables = environment(python_with_pip, TMPDIR=str(full), PIP_INDEX_URL=index)
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
