"""An artifact with the real installation scripts around next to nothing: it installs in a second.

Its one requirement is the package ``tiny``, of which wheels are made here. Where nothing else is said, the
scripts run without HOME, without package index and without any variable but PATH.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from standins.deployment import PROJECT
from standins.system_python import SystemPython

_TIMEOUT = 60.0


class SmallComponent:
    """The unpacked artifact in ``folder``, which needs ``tiny>=1,<2``."""

    def __init__(self, folder: Path, requirement: str = "tiny>=1,<2") -> None:
        self.folder = folder
        self.script = folder / "src/install.sh"
        self.wheels = folder / "wheels"
        for package in ("tunnel_agent", "localproxy"):
            (folder / "src" / package).mkdir(parents=True)
        for name in ("install.sh", "install.py", "installed.py"):
            shutil.copy(PROJECT / "src" / name, folder / "src" / name)
        for module in ("tunnel_agent/agent", "tunnel_agent/nucleus", "localproxy/__main__"):
            (folder / "src" / f"{module}.py").write_text("import tiny\n")
        (folder / "requirements.txt").write_text(f"{requirement}  # and no more\n")

    def add_wheel(self, version: str = "1.0", tag: str = "py3-none-any", size: int = 0) -> Path:
        """Put a wheel of ``tiny`` into wheels/."""
        return tiny_wheel(self.wheels, version, tag, size)


def tiny_wheel(folder: Path, version: str = "1.0", tag: str = "py3-none-any", size: int = 0) -> Path:
    """Make a wheel of ``tiny``, a package of one module and ``size`` bytes that cannot be compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"tiny-{version}-{tag}.whl"
    metadata = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f'version = "{version}"\n',
        "tiny.dat": secrets.token_hex(size),
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{metadata}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{metadata}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{metadata}/RECORD"])
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def index_of(folder: Path, wheel: Path) -> str:
    """The address of a package index, in ``folder``, that has this wheel of ``tiny`` and nothing else."""
    page = folder / "simple/tiny"
    page.mkdir(parents=True)
    shutil.copy(wheel, page)
    (page / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>\n')
    return (folder / "simple").as_uri()


def environment(python: SystemPython, **more: str) -> dict[str, str]:
    """The variables of a device that has this Python."""
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
        timeout=_TIMEOUT,
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
    """What is in the work folder."""
    return sorted(path.name for path in work.iterdir())
