"""Which localproxy: the search for the first usable one, each candidate tried once.

A candidate is usable if its ``--help`` prints localproxy's options. Binaries are often built for another
system than the device's, so one that cannot run is passed over with the loader's own words, never trusted by
its looks. The search may take seconds; the agent runs it in a thread.
"""

from __future__ import annotations

import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

from tunnel_agent.config import BUILTIN
from tunnel_agent.launch import Localproxy

_TRIAL_SECONDS = 10.0  # a cold start of the built-in on a busy single-core device takes a few
_TRIAL_BYTES = 65536

_OPTION = re.compile(r"--[a-z][a-z-]+")
_VERSION = re.compile(r"Local Proxy version: (\S.*)")


class NoLocalproxyError(Exception):
    """No candidate can be used: one line that names each and why."""


@dataclass(frozen=True)
class Found:
    """The result of a search: what was chosen, and a line for each candidate passed over."""

    localproxy: Localproxy
    passed_over: tuple[str, ...]


# Is told of a trial's process group when it starts (True) and when it has ended (False).
Watch = Callable[[int, bool], None]


def find(configured: str, distribution: str, artifact: Path, work: Path, watch: Watch) -> Found:
    """The first usable localproxy in the order of the README.

    Args:
        configured: the configuration key ``localproxyPath``.
        distribution: the configuration key ``OS_DIST_INFO``.
        artifact: the component's unpacked artifact, read-only.
        work: the component's work folder.
        watch: a trial must not outlive the agent any more than a tunnel.

    Raises:
        NoLocalproxyError: none can be used, or the configured one cannot.
    """
    passed_over: list[str] = []
    for candidate in _candidates(configured, distribution, artifact):
        try:
            return Found(_try(candidate, artifact, work, watch), tuple(passed_over))
        except _UnusableError as error:
            passed_over.append(f"{candidate}: {error}")
    if configured:
        raise NoLocalproxyError(
            f"the configuration key localproxyPath names a localproxy that cannot be used: {passed_over[0]}"
        )
    raise NoLocalproxyError("no localproxy can be used: " + "; ".join(passed_over))


def detect_distribution(os_release: str, raspberry_pi: bool) -> str:
    """The value of ``OS_DIST_INFO`` for a system; empty for one that no bundled binary is named after.

    Args:
        os_release: the text of ``/etc/os-release``.
        raspberry_pi: whether this is Raspberry Pi OS, whose 64-bit edition calls itself Debian there.
    """
    pairs = (line.partition("=") for line in os_release.splitlines())
    values = {name.strip(): value.strip().strip("\"'").lower() for name, _, value in pairs}
    names = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    if "raspbian" in names or (raspberry_pi and "debian" in names):
        return "raspberrypi"
    if "ubuntu" in names:
        return "ubuntu"
    # Amazon Linux 2023 has other libraries than 2.
    return "amzn2" if names[0] == "amzn" and values.get("VERSION_ID") == "2" else ""


class _UnusableError(Exception):
    """Why a candidate is passed over."""


def _candidates(configured: str, distribution: str, artifact: Path) -> Iterator[str]:
    """Paths that exist, and the word for the built-in, in order."""
    if configured:
        yield configured
        return
    machine = platform.machine()
    if distribution == "auto":
        distribution = detect_distribution(_os_release(), Path("/etc/rpi-issue").exists())
    places = [artifact / "bin" / f"{distribution}-{machine}" / "localproxy"] if distribution else []
    places += [artifact / "bin" / machine / "localproxy", Path("/opt/lp/localproxy")]
    on_path = shutil.which("localproxy")
    places += [Path(on_path)] if on_path else []
    yield from (str(place) for place in places if place.exists())
    yield BUILTIN


def _os_release() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return ""


def _try(candidate: str, artifact: Path, work: Path, watch: Watch) -> Localproxy:
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    if candidate == BUILTIN:
        # Without compiled files every start would compile the program anew, as the artifact is read-only.
        environment = {"PYTHONPATH": str(artifact / "src"), "PYTHONPYCACHEPREFIX": str(work / "pycache")}
        command: tuple[str, ...] = (sys.executable, "-u", "-m", "localproxy")
        return replace(_trial(command, True, environment, work, watch), environment=environment)
    path = Path(candidate)
    if artifact in path.parents and not os.access(path, os.X_OK):
        path = _executable_copy(path, work)
    return _trial((str(path),), False, environment, work, watch)


def _executable_copy(source: Path, work: Path) -> Path:
    """A copy with the execute bit, as a nucleus may unpack an artifact without it."""
    target = work / "bin" / source.parent.name / source.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another name first: a copy that was broken off must not be taken for the whole.
        unfinished = target.with_suffix(".new")
        shutil.copyfile(source, unfinished)
        unfinished.chmod(0o700)
        unfinished.replace(target)
    except OSError as error:
        raise _UnusableError(
            f"is not executable and cannot be copied to {target}: {error.strerror}"
        ) from error
    return target


def _trial(
    command: tuple[str, ...],
    builtin: bool,
    environment: dict[str, str],
    work: Path,
    watch: Watch,
    again: bool = True,
) -> Localproxy:
    try:
        process = subprocess.Popen(
            [*command, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            # Not the root folder: localproxy reads service maps from ./config.
            cwd=work,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise _UnusableError(f"cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    watch(process.pid, True)
    try:
        output = _read_help(process.stdout.fileno())
        # The pipe is closed, so this is a formality; the time limit is for those that do not play along.
        code = process.wait(_TRIAL_SECONDS) if output is not None else None
    except subprocess.TimeoutExpired:
        output = None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        watch(process.pid, False)
        process.stdout.close()
    if output is None:
        raise _UnusableError(f"--help did not end within {_TRIAL_SECONDS:g} s")
    if code == -signal.SIGTERM and again:
        # A nucleus that stops the component hits it too, just before it leaves the agent's process group.
        return _trial(command, builtin, environment, work, watch, again=False)
    options = frozenset(_OPTION.findall(output))
    if "--destination-app" not in options:
        said = " ".join(output.split())[-300:] or "nothing"
        raise _UnusableError(f"--help ended with {code} and said: {said}")
    version = _VERSION.search(output)
    return Localproxy(command, builtin, version[1].strip() if version else "unknown", options)


def _read_help(pipe: int) -> Optional[str]:
    """What it prints until it closes its output or has said enough; None if it takes too long."""
    deadline = time.monotonic() + _TRIAL_SECONDS
    output = b""
    while len(output) < _TRIAL_BYTES:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        chunk = os.read(pipe, 4096)
        if not chunk:
            break
        output += chunk
    return output.decode(errors="replace")
