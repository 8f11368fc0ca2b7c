"""All local connections of one tunnel connection.

What lives here: finding the one that is meant, batching what is written to it, and how much may wait for
all of them. What must not: when the tunnel is read or held up (session), a single socket (local).
"""

from __future__ import annotations

import time

from .local import MAX_PIECES, LocalConnection
from .loop import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .actions import Connection
    from .command_line import Settings
    from .local import Owner
    from .loop import Loop
    from .message import Data

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes that may wait for one local service before the tunnel is held up for it."""

MAX_QUEUED_IN_ALL = 16 * 1024 * 1024
MAX_CONNECTIONS = 500


class LocalSide:
    """The local connections by their handle; also those that only have to be flushed yet."""

    def __init__(self, loop: Loop, owner: Owner, settings: Settings) -> None:
        self._loop = loop
        self._owner = owner
        self._settings = settings
        self._locals: dict[Connection, LocalConnection] = {}
        self._reading = True
        # Parts of what was read from the tunnel last, all for one connection; see `write`.
        self._batch: list[Data] = []
        self._batch_for: LocalConnection | None = None
        self._drained = Outcome()

    @property
    def is_crowded(self) -> bool:
        return len(self._locals) >= MAX_CONNECTIONS

    def open(self, connection: Connection) -> None:
        """Connect to the destination of the connection's service."""
        destination = self._settings.destinations[connection.stream.service]
        local = LocalConnection(self._loop, self._owner, connection, destination, self._settings.bind_address)
        self._locals[connection] = local
        local.allow_reading(self._reading)

    def write(self, connection: Connection, payload: Data) -> None:
        """Bytes for a local service; they are taken over by `write_batch` at the latest.

        What consecutive messages bring for one connection takes one system call instead of many.
        """
        local = self._locals.get(connection)
        if local is not self._batch_for or len(self._batch) == MAX_PIECES:
            self.write_batch()
            self._batch_for = local
        self._batch.append(payload)

    def write_batch(self) -> None:
        batch, self._batch = self._batch, []
        if batch and self._batch_for:
            self._batch_for.write(batch)

    def flush_and_close(self, connection: Connection) -> None:
        self.write_batch()
        local = self._locals.get(connection)
        if local:
            local.flush_and_close()

    def flush_and_close_all(self) -> None:
        self.write_batch()
        for local in list(self._locals.values()):
            local.flush_and_close()

    def allow_reading(self, allowed: bool) -> None:
        """Whether what local services send can be taken now."""
        if self._reading != allowed:
            self._reading = allowed
            for local in list(self._locals.values()):
                local.allow_reading(allowed)

    def is_full(self, was_full: bool) -> bool:
        """Whether too much waits; full from the limits on, and until a half of that has been written."""
        part = 2 if was_full else 1
        queued = [local.queued for local in self._locals.values() if local.queued]
        return bool(queued) and (max(queued) > MAX_QUEUED // part or sum(queued) > MAX_QUEUED_IN_ALL // part)

    def forget(self, local: LocalConnection) -> None:
        """A connection has ended."""
        self._locals.pop(local.connection, None)
        if not self._locals:
            self._drained.settle(None)

    def stop_draining(self) -> None:
        """Whoever drains waits no longer."""
        self._drained.settle(None)

    async def drain(self, patience: float) -> None:
        """After flush_and_close_all: wait so many seconds for what is left, then close it."""
        if self._locals and patience:
            self._loop.call_at(time.monotonic() + patience, self.stop_draining)
            await self._drained.settled()
        for local in list(self._locals.values()):
            local.close()
