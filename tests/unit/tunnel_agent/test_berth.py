"""Folders and pipes that lie ready: nothing of them is left when there is no descriptor, either."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunnel_agent.berth import Berths, StartError


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest one
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors(tmp_path: Path) -> None:
    berths = Berths(tmp_path)
    berths.prepare()
    ready = berths.take()
    folders = tmp_path / "tunnels"
    with no_descriptors():
        with pytest.raises(StartError, match="too many files open") as caught:
            berths.take()
        assert caught.value.transient
        ready.remove_folder()
    assert list(folders.iterdir()) == []
    ready.clear()
    other = berths.take()
    (Path(other.folder) / "left").mkdir()
    other.clear()
    assert list(folders.iterdir()) == []


def test_what_an_earlier_agent_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "tunnels/tmpabc"
    left.mkdir(parents=True)
    (left / "core").write_bytes(b"x")
    berths = Berths(tmp_path)
    assert not left.exists()
    berths.prepare()
    (folder,) = (tmp_path / "tunnels").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    berths.close()
    assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tunnels"]
