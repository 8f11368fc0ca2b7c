"""What the agent's unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A berth takes this process to its folder."""
    monkeypatch.chdir(Path.cwd())
