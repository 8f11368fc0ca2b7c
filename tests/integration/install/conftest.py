"""Fixtures: an artifact that is quick to install, a work folder, and a system's Python."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from standins.small_component import SmallComponent
from standins.system_python import SystemPython, pip_wheel


@pytest.fixture
def component(tmp_path: Path) -> SmallComponent:
    """An artifact that needs the package tiny."""
    return SmallComponent(tmp_path / "artifact")


@pytest.fixture
def python(tmp_path: Path) -> SystemPython:
    """A Python as minimal as Debian's: no pip, no ensurepip, no venv module."""
    return SystemPython(tmp_path / "usr", without=["ensurepip", "venv"])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty work folder."""
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
