"""What every localproxy needs and what can be made before it is known which: its folder, its pipes, a token.

They take a good part of the time that starting a process does, so one set lies ready.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Optional

# Errors of a device that is short of something now and may not be in a moment.
_TRANSIENT = {
    errno.EAGAIN: "no more processes or threads are allowed now",
    errno.ENOMEM: "there is not enough memory now",
    errno.EMFILE: "this component has too many files open",
    errno.ENFILE: "the device has too many files open",
}


class StartError(Exception):
    """A localproxy could not be started: why, in one line.

    Attributes:
        transient: whether the same start may work in a moment.
    """

    def __init__(self, what: str, error: Optional[OSError] = None, transient: bool = False) -> None:
        known = _TRANSIENT.get(error.errno or 0) if error is not None else None
        super().__init__(known or (f"{what}: {error.strerror}" if error is not None else what))
        self.transient = transient or known is not None


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


@dataclass
class Berth:
    """A set for one localproxy.

    Attributes:
        folder: its working directory, empty: localproxy reads every file in ./config as a service map.
        null: a descriptor of /dev/null, shared by all.
        client_token: a new one, for a localproxy that is to have one.
    """

    folder: str
    null: int
    client_token: str = field(default_factory=lambda: str(uuid.uuid4()), repr=False)
    out: Pipe = field(default_factory=Pipe)
    err: Pipe = field(default_factory=Pipe)

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


class Berths:
    """Makes them, one ahead.

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
