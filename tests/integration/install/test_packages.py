"""Where install.sh gets the packages from: wheels/, the package index, or the system, which may have them."""

from __future__ import annotations

import shutil
import time
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
from standins.system_python import SystemPython, pip_wheel

READY = "INFO virtual environment ready after"
NOTHING_LEFT = ["install.lock", "pycache", "venv", "venv-a"]


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
