"""Folders and pipes that lie ready: nothing of them is left when there is no descriptor, either."""

from __future__ import annotations

import os
import resource
import shutil
import signal
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


def test_what_a_program_finds(tmp_path: Path) -> None:
    """Its folder, its outputs and nothing else: no descriptor, nothing that Python ignores, not our group."""
    status = Path("/proc/self/status").read_text()
    by_python = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
    # Beyond are the two that the C library keeps for itself.
    ignored_by_others = int(status.partition("SigIgn:")[2].split()[0], 16) & ~by_python & 0x7FFFFFFF
    berths = Berths(tmp_path)
    berths.prepare()
    opened_since = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    for descriptor in opened_since:
        os.set_inheritable(descriptor, True)
    berth = berths.take()
    assert berth.out.reading is not None
    assert berth.err.reading is not None
    # The signals first, and without another process: the shell blocks and unblocks them to start one.
    script = (
        "while read name value; do case $name in Sig[BI]*) echo $name $value; esac; done </proc/$$/status; "
        "pwd; echo $$; ls /proc/$$/fd; env >&2"
    )
    pid = berth.start(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], "A": "b c"})
    berth.out.close_writing()
    berth.err.close_writing()
    assert os.getpgid(pid) == pid
    out = b"".join(iter(lambda: berth.out.reading.read(4096), b"")).decode().split()  # type: ignore[union-attr]
    err = b"".join(iter(lambda: berth.err.reading.read(4096), b"")).decode()  # type: ignore[union-attr]
    assert os.waitpid(pid, 0)[1] == 0
    assert (out[0], int(out[1], 16)) == ("SigBlk:", 0)
    assert (out[2], int(out[3], 16) & 0x7FFFFFFF) == ("SigIgn:", ignored_by_others)
    assert out[4:] == [berth.folder, str(pid), "0", "1", "2"]
    assert "A=b c\n" in err
    assert not [
        line for line in err.splitlines() if not line.startswith(("A=", "PATH=", "PWD=", "_=", "SHLVL="))
    ]
    for descriptor in opened_since:
        os.close(descriptor)
    berth.clear()


def test_a_folder_that_was_tidied_up_is_replaced(tmp_path: Path) -> None:
    berths = Berths(tmp_path)
    berths.prepare()
    shutil.rmtree(tmp_path / "tunnels")
    berth = berths.take()
    assert Path(berth.folder).is_dir()
    assert Path.cwd() == Path(berth.folder)
    berth.clear()


def test_a_program_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    berth = Berths(tmp_path / "work").take()
    for name, error in (("nothing", FileNotFoundError), ("text", OSError)):
        with pytest.raises(error):
            berth.start([str(tmp_path / name)], {})
    berth.clear()
