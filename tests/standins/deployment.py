"""What lies between the project folder and a running component: GDK's zip build and a nucleus's deployment.

``build`` follows the rules of `gdk component build` with the zip build system. ``Deployment`` unpacks the
archive and runs the recipe's lifecycle scripts as nuclei do, classic or lite. Neither knows what is in it.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
_DEFAULT_EXCLUDES = ("**/test*", "**/.*", "**/node_modules")
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Build:
    """What GDK leaves in greengrass-build: one archive, one recipe."""

    archive: Path
    recipe: dict[str, Any]
    recipe_file: Path


def build(into: Path, project: Path = PROJECT) -> Build:
    """Build the component as GDK does.

    Raises:
        ValueError: GDK would refuse the recipe, or look for the artifact on S3.
    """
    config = json.loads((project / "gdk-config.json").read_text())["component"]
    [(name, component)] = config.items()
    options = component["build"].get("options", {})
    # Any option at all drops the default excludes.
    excludes = options.get("excludes", []) if options else _DEFAULT_EXCLUDES
    archive = _zip(project, into, options.get("zip_name", project.name) or name, excludes)
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    recipe.update(
        ComponentName=name, ComponentVersion=component["version"], ComponentPublisher=component["author"]
    )
    for manifest in recipe["Manifests"]:
        for artifact in manifest["Artifacts"]:
            if artifact["Uri"].rpartition("/")[2] != archive.name:
                raise ValueError(f"{artifact['Uri']} is not what was built: {archive.name}")
            artifact["Uri"] = f"s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{archive.name}"
    recipe_file = into / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    if max(recipe_file.stat().st_size, (project / "recipe.yaml").stat().st_size) > 16_000:
        raise ValueError("the recipe has more than 16000 bytes")
    return Build(archive, recipe, recipe_file)


def _zip(project: Path, into: Path, name: str, excludes: Sequence[str]) -> Path:
    # GDK's module: unlike Path.glob, its ** passes hidden folders by.
    excluded = {
        Path(path)
        for pattern in ("gdk-config.json", "greengrass-build", "recipe.yaml", *excludes)
        for path in glob.glob(f"{glob.escape(str(project))}/{pattern}", recursive=True)  # noqa: PTH207
    }
    copy = into / "zip-build"
    shutil.copytree(
        project, copy, ignore=lambda folder, names: {name for name in names if Path(folder, name) in excluded}
    )
    return Path(shutil.make_archive(str(into / name), "zip", root_dir=copy))


class Deployment:
    """A component deployed to a device whose Greengrass root is ``root``.

    Args:
        lite: fill in recipe variables, and start scripts, as nucleus lite does.
        shell: what runs the scripts; ``("unshare", "--net", "sh")`` runs them in surroundings of their own.
    """

    def __init__(
        self, built: Build, root: Path, *, lite: bool = False, shell: Sequence[str] = ("sh",)
    ) -> None:
        recipe = built.recipe
        [manifest] = recipe["Manifests"]
        [artifact] = manifest["Artifacts"]
        self.name, self.version = recipe["ComponentName"], recipe["ComponentVersion"]
        self.configuration: dict[str, Any] = recipe["ComponentConfiguration"]["DefaultConfiguration"]
        self.root = root
        self.decompressed = root / "packages/artifacts-unarchived" / self.name / self.version
        self.artifact = self.decompressed / built.archive.stem
        self.work = root / "work" / self.name
        self.shell = tuple(shell)
        self._lite = lite
        self._lifecycle = manifest["Lifecycle"]
        self.work.mkdir(parents=True)
        with zipfile.ZipFile(built.archive) as archive:
            archive.extractall(self.artifact)
        mode = _mode(artifact["Permission"])
        for path in self.artifact.rglob("*"):
            path.chmod(0o755 if path.is_dir() else mode)

    def script(self, step: str) -> str:
        """The script of a lifecycle step with the recipe variables filled in.

        Raises:
            KeyError: a variable that the nucleus does not know. Lite takes every brace for one.
        """
        values = {
            "artifacts:decompressedPath": self.decompressed,
            "work:path": self.work,
        }
        text: str = self._lifecycle[step]["Script"]
        if not self._lite:
            return re.sub(r"\{([a-z]+:[a-zA-Z]+)\}", lambda match: str(values[match[1]]), text)
        # Lite's folders end in a slash, and it escapes what has a meaning between double quotes.
        return re.sub(
            r"\{([^}]*)\}?", lambda match: re.sub(r'(["\\$`])', r"\\\1", f"{values[match[1]]}/"), text
        )

    def command(self, step: str) -> list[str]:
        """The command that runs a lifecycle step in the work folder."""
        if not self._lite:
            return [*self.shell, "-c", self.script(step)]
        file = self.root / f"script.{step}"
        file.write_text(f"#!/bin/sh\n{self.script(step)}")
        return [*self.shell, str(file)]

    def install(
        self, environment: Mapping[str, str], timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the install step to its end; its output, both streams together, is in ``stdout``."""
        return subprocess.run(
            self.command("install"),
            cwd=self.work,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def start(self, environment: Mapping[str, str], output: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """Start the run step; the caller stops it. ``output`` gets stdout and stderr: a file, or a pipe."""
        return subprocess.Popen(
            self.command("run"),
            cwd=self.work,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[Any], grace: float = _GRACE) -> int:
    """Stop what ``start`` gave as a nucleus does, with all its processes; returns its exit code."""
    _signal(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal(process.pid, signal.SIGKILL)
    return process.wait(grace)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all gone
        os.killpg(group, number)


def _mode(permission: Mapping[str, str]) -> int:
    """The file mode that an artifact's Permission means: group as owner; who may execute may read."""
    read, execute = permission.get("Read", "OWNER"), permission.get("Execute", "NONE")
    mode = 0o400
    if execute != "NONE":
        mode |= 0o110
    if read != "NONE" or execute != "NONE":
        mode |= 0o040
    if "ALL" in (read, execute):
        mode |= 0o004
    if execute == "ALL":
        mode |= 0o001
    return mode
