"""An artifact with the real installation scripts around next to nothing: it installs in a second.

Its one requirement is the package ``tiny``, of which wheels are made here.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from standins.deployment import PROJECT


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
    """Make a wheel of ``tiny``, a package with one module and ``size`` bytes of ballast."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"tiny-{version}-{tag}.whl"
    metadata = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f'version = "{version}"\n',
        "tiny.dat": "-" * size,
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
