"""Where a localproxy is started: folder, pipes and what else can be made ahead. One set lies ready."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Optional

# Errors of a device that is short of something now and may not be in a moment.
_TRANSIENT = {
    errno.EAGAIN: "no more processes or threads are allowed now",
    errno.ENOMEM: "there is not enough memory now",
    errno.EMFILE: "this component has too many files open",
    errno.ENFILE: "the device has too many files open",
}
# By how much the number of a descriptor that is opened later may exceed the highest one now: the kernel gives
# the lowest free number, and a new connection to the nucleus takes fewer than that.
_MORE_DESCRIPTORS = 10
# What Python ignores, and a child would with it.
_NOT_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


class StartError(Exception):
    """A localproxy could not be started: why, in one line.

    Attributes:
        transient: whether the same start may work in a moment.
    """

    def __init__(self, what: str, error: Optional[OSError] = None) -> None:
        known = _TRANSIENT.get(error.errno or 0) if error is not None else None
        super().__init__(known or (f"{what}: {error.strerror}" if error is not None else what))
        self.transient = known is not None


class Pipe:
    """A pipe for one of localproxy's two outputs: it writes, a pump reads.

    Attributes:
        reading, writing: the ends (unbuffered files); None when somebody else is to close them.
    """

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reading: Optional[IO[bytes]] = os.fdopen(reading, "rb", buffering=0)
        self.writing: Optional[IO[bytes]] = os.fdopen(writing, "wb", buffering=0)

    def close_writing(self) -> None:
        """Leave the writing end to localproxy, so that its end is seen."""
        if self.writing is not None:
            self.writing.close()
            self.writing = None

    def close(self) -> None:
        """Close whatever is still ours."""
        self.close_writing()
        if self.reading is not None:
            self.reading.close()


class Berth:
    """A set for one localproxy.

    Args:
        folder: its working directory, empty: localproxy reads every file in ./config as a service map.
        null: a descriptor of /dev/null, shared by all.

    Attributes:
        client_token: a new one, for a localproxy that is to have one.
        out, err: its two outputs.
    """

    def __init__(self, folder: str, null: int) -> None:
        self.folder = folder
        self.client_token = str(uuid.uuid4())
        self.out = Pipe()
        self.err = Pipe()
        assert self.out.writing is not None
        assert self.err.writing is not None
        self._file_actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, self.out.writing.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, self.err.writing.fileno(), 2),
            *((os.POSIX_SPAWN_CLOSE, number) for number in range(3, _beyond_all_descriptors())),
        ]

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start a program here, as the leader of a process group of its own; returns its process id.

        By posix_spawn, 0.07 ms faster than the subprocess module. Every number that a descriptor may have is
        closed: the SDK's native part lets children inherit its connection to the nucleus.

        Raises:
            OSError: it cannot be started.
            ValueError: an argument cannot be written in this system's locale.
        """
        return os.posix_spawn(
            command[0],
            [*command],
            environment,
            file_actions=self._file_actions,
            setpgroup=0,
            setsigdef=_NOT_IGNORED,
        )

    def clear(self) -> None:
        """Close and remove everything, but for what a pump reads."""
        for pipe in (self.out, self.err):
            pipe.close()
        self.remove_folder()

    def remove_folder(self) -> None:
        """Remove the folder with whatever localproxy left in it."""
        try:
            Path(self.folder).rmdir()  # takes no descriptor, which there may be none of
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)


def _beyond_all_descriptors() -> int:
    """A number that no descriptor of this process reaches, now or soon."""
    beyond = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + _MORE_DESCRIPTORS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return beyond if limit == resource.RLIM_INFINITY else min(beyond, limit)


class Berths:
    """Makes them, one ahead. This process's working directory is always the folder of the last one made.

    Args:
        work: the component's work folder. What an agent that was killed left there is removed.
    """

    def __init__(self, work: Path) -> None:
        self._folders = work / "tunnels"
        shutil.rmtree(self._folders, ignore_errors=True)
        self._null = os.open(os.devnull, os.O_RDWR)
        self._spare: Optional[Berth] = None

    def prepare(self) -> None:
        """Have one ready for the next ``take``, if there is room."""
        with contextlib.suppress(OSError):  # said when it is needed
            self._spare = self._spare or self._make()

    def take(self) -> Berth:
        """One for a new localproxy.

        Raises:
            StartError: there is no room for it, not even in memory.
        """
        try:
            os.getcwd()  # noqa: PTH109 - by pathlib, and by a stat, it takes 0.05 ms longer
        except OSError:
            self.close()  # somebody tidied up the work folder
        spare, self._spare = self._spare, None
        try:
            return spare or self._make()
        except OSError as error:
            raise StartError("no working directory can be made for localproxy", error) from error

    def close(self) -> None:
        """Give up the one that lies ready."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.clear()

    def _make(self) -> Berth:
        folder = self._make_folder()
        try:
            # posix_spawn gives a child this process's working directory. Entered ahead: to leave that of a
            # tunnel that has ended takes the file system 0.2 ms.
            os.chdir(folder)
            return Berth(folder, self._null)
        except OSError:
            Path(folder).rmdir()
            raise

    def _make_folder(self) -> str:
        # A full disk is just when somebody wants to log in, so a folder in memory will do as well.
        parents = [self._folders, Path("/dev/shm"), Path(tempfile.gettempdir())]  # noqa: S108
        for parent in parents:
            try:
                if parent == parents[0]:
                    parent.mkdir(mode=0o700, exist_ok=True)
                return tempfile.mkdtemp(dir=parent)
            except OSError as error:
                last = error
        raise last
