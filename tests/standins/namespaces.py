"""Linux namespaces of a test's own: no network, or mounts that nobody else sees."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def namespace(*flags: str) -> tuple[str, ...]:
    """The prefix of a command that has namespaces of its own; skips the test where they may not be made."""
    command = ("unshare", "--map-root-user", *flags)
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces")
    return command
