"""One connection to a local service: a socket, its buffer, and how both end.

What lives here: connecting with retries, writing in order, reading when allowed, flushing before a
close. What must not: which connection a message is for (streams), how much is too much (session).

The life of a connection: CONNECTING, then OPEN, then FLUSHING once nobody sends to it any more: what is
still waiting is written, the sending side is shut down, and what the service still says is read and
thrown away until it closes too. Closing at once instead would make the kernel answer such bytes with a
reset, and a reset destroys what the service has not read yet.
"""

from __future__ import annotations

import socket
import time
from mmap import mmap

from .dial import connect_host, connect_unix
from .kernel import send_queue, unacknowledged
from .loop import READ, WRITE, sleep
from .message import MAX_PAYLOAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from .actions import Connection
    from .destinations import Destination
    from .loop import Loop, Task, Timer
    from .message import Data

    class Owner(Protocol):
        """Who is told what happens to a local connection."""

        def local_data(self, local: LocalConnection, data: memoryview) -> None: ...
        def local_connected(self, local: LocalConnection) -> None: ...
        def local_closed(self, local: LocalConnection, reason: str) -> None: ...
        def local_failed(self, local: LocalConnection, reason: str) -> None: ...
        def local_written(self) -> None: ...
        def local_gone(self, local: LocalConnection) -> None: ...


RETRY_DELAYS = (0.25, 0.75, 1.5, 2.5, 2.5, 2.5)
CONNECT_PATIENCE = 11.0
"""Seconds until a failure to connect must be answered, less a margin (protocol: 12)."""

FLUSH_PATIENCE = 30.0
"""Seconds without progress after which a service that does not take its last bytes is given up."""

LINGER_PATIENCE = 5.0
MAX_PIECES = 64
# One frame's worth: two messages with full payloads. Shared, for nothing stays in it; its pages cost
# nothing until bytes arrive in them.
_received = memoryview(mmap(-1, 2 * MAX_PAYLOAD))


class LocalConnection:
    """The local side of one `Connection` of the tunnel. `queued` bytes wait for the service."""

    def __init__(
        self,
        loop: Loop,
        owner: Owner,
        connection: Connection,
        destination: Destination,
        bind_address: str | None,
    ) -> None:
        self.connection = connection
        self.destination = destination
        self._loop = loop
        self._owner = owner
        self._queue = bytearray()
        self._sock: socket.socket | None = None
        self._reading = True
        self._flushing = False
        # The service hung up on its reading side, or on its sending side.
        self._deaf = False
        self._silent = False
        self._shut_down = False
        self._progress = False
        self._patience: Timer | None = None
        self._connecting: Task | None = loop.spawn(self._connect(bind_address))

    @property
    def queued(self) -> int:
        return len(self._queue)

    def write(self, payloads: Sequence[Data]) -> None:
        """Bytes for the service, at most MAX_PIECES pieces, also before it is connected."""
        if self._deaf:
            return
        sent = 0
        if self._sock and not self._queue:
            try:
                sent = self._sock.sendmsg(payloads)
            except BlockingIOError:
                pass
            except OSError:
                self._stop_writing()
                return
        for payload in payloads:
            if sent < len(payload):
                self._queue += payload[sent:]
            sent = max(0, sent - len(payload))
        if self._queue:
            self._watch()

    def allow_reading(self, allowed: bool) -> None:
        """Whether what the service sends can be taken now."""
        self._reading = allowed
        self._watch()

    def flush_and_close(self) -> None:
        """Nothing more comes for the service: write what waits, then end."""
        if self._flushing:
            return
        self._flushing = True
        if self._connecting and not self._queue:
            self.close()
            return
        self._be_patient(FLUSH_PATIENCE)
        self._write_queue()

    def close(self) -> None:
        """At once. The owner is told that it is gone, and nothing else."""
        if self._connecting:
            self._connecting.cancel()
            self._connecting = None
        if self._patience:
            self._patience.cancel()
        if self._sock:
            self._loop.watch(self._sock, 0, self._ready)
            self._sock.close()
            self._sock = None
        self._queue.clear()
        self._owner.local_gone(self)

    async def _connect(self, bind_address: str | None) -> None:
        destination = self.destination
        deadline = time.monotonic() + CONNECT_PATIENCE
        delays = list(RETRY_DELAYS)
        while True:
            try:
                if destination.path:
                    sock = connect_unix(destination.path)
                else:
                    sock = await connect_host(
                        self._loop, destination.host, destination.port, deadline, bind_address
                    )
                break
            except OSError as error:
                if not delays or time.monotonic() + delays[0] >= deadline:
                    self._connecting = None
                    self._owner.local_failed(self, error.strerror or str(error))
                    self.close()
                    return
            await sleep(self._loop, delays.pop(0))
        self._connecting = None
        self._sock = sock
        self._owner.local_connected(self)
        self._write_queue()

    def _watch(self) -> None:
        if not self._sock:
            return
        events = WRITE if self._queue else 0
        if (self._reading or self._flushing) and not self._silent:
            events |= READ
        self._loop.watch(self._sock, events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write_queue()
        if events & READ and self._sock:
            self._read(self._sock)

    def _read(self, sock: socket.socket) -> None:
        reason = "closed by the local service"
        try:
            count = sock.recv_into(_received)
        except BlockingIOError:
            return
        except OSError as error:
            count, reason = 0, error.strerror or str(error)
            self._stop_writing()
        if count:
            if not self._flushing:
                self._owner.local_data(self, _received[:count])
            return
        self._silent = True
        if not self._flushing:
            self._owner.local_closed(self, reason)
            self.flush_and_close()
        elif not self._queue:
            self.close()

    def _write_queue(self) -> None:
        if not self._sock:
            return
        before = len(self._queue)
        try:
            send_queue(self._sock, self._queue)
        except OSError:
            self._stop_writing()
        if len(self._queue) < before:
            self._progress = True
            self._owner.local_written()
        if self._flushing and not self._queue:
            self._end_writing()
        self._watch()

    def _end_writing(self) -> None:
        """All is written, and nothing follows."""
        assert self._sock
        if self._silent or self._deaf:
            self.close()
        elif not self._shut_down:
            self._shut_down = True
            self._be_patient(LINGER_PATIENCE)
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()

    def _stop_writing(self) -> None:
        """The service no longer takes bytes. What it sent before is still read, to its end."""
        self._deaf = True
        self._queue.clear()
        self._watch()

    def _be_patient(self, seconds: float) -> None:
        if self._patience:
            self._patience.cancel()
        self._patience = self._loop.call_at(time.monotonic() + seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        """Time is up, unless the service takes bytes all the same."""
        if self._sock and self._shut_down and unacknowledged(self._sock):
            self._be_patient(LINGER_PATIENCE)
        elif self._progress and not self._shut_down:
            self._progress = False
            self._be_patient(FLUSH_PATIENCE)
        else:
            self.close()
