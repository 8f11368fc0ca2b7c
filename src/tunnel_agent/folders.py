"""The empty working directory of each localproxy: it reads every file in ./config as a service map."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Optional


class Folders:
    """Makes them, one ahead of time, as that takes as long as half of starting a process.

    Args:
        work: the component's work folder.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._spare: Optional[Path] = None

    def prepare(self) -> None:
        """Have one ready for the next ``take``, if there is room."""
        try:
            self._spare = self._spare or self._make()
        except OSError:
            return  # said when it is needed

    def take(self) -> Path:
        """A new empty folder; the caller removes it.

        Raises:
            OSError: there is no room for one, not even in memory.
        """
        spare, self._spare = self._spare, None
        # Somebody may have tidied up the work folder.
        return spare if spare is not None and spare.is_dir() else self._make()

    def _make(self) -> Path:
        # A full disk is just when somebody wants to log in, so a folder in memory will do as well.
        parents = [self._work / "tunnels", Path("/dev/shm"), Path(tempfile.gettempdir())]  # noqa: S108
        for parent in parents:
            try:
                if parent == parents[0]:
                    parent.mkdir(mode=0o700, exist_ok=True)
                return Path(tempfile.mkdtemp(dir=parent))
            except OSError as error:
                last = error
        raise last
