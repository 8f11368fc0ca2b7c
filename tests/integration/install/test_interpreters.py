"""Which Python install.sh takes, and what it does when that Python changes."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from standins.small_component import SmallComponent, environment, install, tiny_wheel, version_in
from standins.system_python import SystemPython, interpreters, pip_wheel

SUPPORTED = [f"3.{minor}" for minor in range(9, 14)]
READY = "INFO virtual environment ready after"


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


def test_wheels_are_enough_without_distutils(component: SmallComponent, work: Path, tmp_path: Path) -> None:
    """Debian 11 has it in a package of its own, which nothing else needs."""
    base = interpreters().get("3.9")
    if base is None:
        pytest.skip("no Python 3.9 on this machine")
    component.add_wheel()
    if pip_wheel(component.wheels) is None:
        pytest.skip("no wheel of pip: apt-get install python3-venv")
    python = SystemPython(tmp_path / "usr", base, without=["distutils", "ensurepip", "venv"])
    assert READY in install(component, work, environment(python)).stdout
    assert version_in(work) == "1.0"


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
