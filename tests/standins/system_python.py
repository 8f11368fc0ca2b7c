"""Systems' Pythons as devices have them: complete, or with parts left out, or changed under our feet.

A ``SystemPython`` is a copy of a real interpreter's binary in a prefix of its own, whose standard library is
links to the real one, but for what is left out. Its site-packages are its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Optional

_DESCRIBE = (
    "import json, os, sys, sysconfig; print(json.dumps([os.path.realpath(sys.executable),"
    " sysconfig.get_path('stdlib'), '%d.%d' % sys.version_info[:2], sys.base_prefix]))"
)


@cache
def interpreters() -> dict[str, Path]:
    """The interpreters of this machine by minor version, unsupported ones too: on PATH, or made by pyenv."""
    versions = [f"3.{minor}" for minor in range(6, 14)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {}
    for version in versions:
        installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
        # On PATH there may be pyenv's shims, which fail for versions that are not switched on.
        on_path = shutil.which(f"python{version}")
        candidates = [*installed, *([Path(on_path)] if on_path else [])]
        for path in candidates:
            if subprocess.run([path, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
                found[version] = path
                break
    return found


def pip_wheel(into: Path) -> Optional[Path]:
    """A copy of the wheel of pip that this interpreter's ensurepip has; None where it has none."""
    folders = [Path(json.__file__).parents[1] / "ensurepip/_bundled", Path("/usr/share/python-wheels")]
    for wheel in (wheel for folder in folders for wheel in folder.glob("pip-*.whl")):
        into.mkdir(exist_ok=True)
        return Path(shutil.copy(wheel, into))
    return None


class SystemPython:
    """An interpreter installed in ``prefix``.

    Args:
        base: the interpreter that it is made from; None for the one that runs this.
        without: the names of what its standard library lacks, such as ``ensurepip``.
    """

    def __init__(self, prefix: Path, base: Optional[Path] = None, without: Collection[str] = ()) -> None:
        self.prefix = prefix
        described = subprocess.run(
            [base or sys.executable, "-I", "-c", _DESCRIBE], stdout=subprocess.PIPE, check=True
        )
        executable, stdlib, version, base_prefix = json.loads(described.stdout)
        self.bin = prefix / "bin"
        self.library = prefix / "lib" / f"python{version}"
        self.site_packages = self.library / "site-packages"
        self.bin.mkdir(parents=True)
        self.site_packages.mkdir(parents=True)
        # A copy, not a link: an interpreter looks for its library beside where it really is.
        shutil.copy2(executable, self.bin / f"python{version}")
        (self.bin / "python3").symlink_to(f"python{version}")
        for shared in Path(base_prefix, "lib").glob("libpython*"):
            (prefix / "lib" / shared.name).symlink_to(shared)
        left_out = {"site-packages", "dist-packages", "EXTERNALLY-MANAGED", *without}
        for entry in Path(stdlib).iterdir():
            if entry.name not in left_out:
                (self.library / entry.name).symlink_to(entry)

    def add(self, wheel: Path) -> None:
        """Install a wheel, as a package of the system."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site_packages)

    def remove(self) -> None:
        """Uninstall the interpreter."""
        shutil.rmtree(self.prefix)
