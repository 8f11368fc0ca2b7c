"""A socket under any number of TLS layers: what is written and read here is plaintext.

What lives here: sending without waiting, what could not be sent yet, receiving one bounded piece at a
time; and the same for coroutines, with deadlines, as the handshakes need it. What must not: WebSocket.
"""

from __future__ import annotations

import errno
import socket
from mmap import mmap

from .kernel import send_queue, unacknowledged_for
from .loop import READ, WRITE, wait
from .tls import TlsLayer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .loop import Loop
    from .message import Data

# What one read takes; shared, for nothing stays in it. Its pages cost nothing until bytes arrive in them.
_received = memoryview(mmap(-1, 256 * 1024))
_KEPT_BLOCK = 1024 * 1024


class Channel:
    """One connection to the service. `pending` bytes wait for the peer to take them."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._layers: list[TlsLayer] = []
        self._outgoing = bytearray()
        self._ended = False
        # Frees one large block, and with it tells glibc to keep blocks up to that size for reuse. Otherwise
        # it would give each frame's buffers back to the kernel and fetch fresh pages for the next, which is
        # most of a transfer's CPU. (mallopt says the same, but ctypes for it costs 100 KiB for good.)
        bytearray(_KEPT_BLOCK)

    @property
    def pending(self) -> int:
        return len(self._outgoing)

    def unacknowledged_for(self) -> float | None:
        """Seconds since the peer's kernel last confirmed anything; None where nothing is unconfirmed."""
        return unacknowledged_for(self._sock)

    async def start_tls(self, context: ssl.SSLContext, host: str, deadline: float) -> str:
        """Put one more layer around what is there; what it agreed on, in words. Raises OSError."""
        layer = TlsLayer(context, host)
        data = b""
        try:
            while not layer.handshake(data):
                await self.send(layer.outgoing(), deadline)
                data = await self.receive(deadline)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "connection closed during the TLS handshake")
        finally:
            # Also the alert that tells the peer why it is not trusted.
            self.write(layer.outgoing())
        self._layers.insert(0, layer)
        return layer.describe()

    def write(self, data: Data) -> None:
        """Send what can be sent now, keep the rest. Raises OSError where the connection is lost."""
        if data:
            for layer in self._layers:
                data = layer.encrypt(data)
        if self._outgoing:
            self._outgoing += data
            return
        try:
            sent = self._sock.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._outgoing += memoryview(data)[sent:]

    def flush(self) -> None:
        """Send more of what is pending. Raises OSError where the connection is lost."""
        send_queue(self._sock, self._outgoing)

    def read(self) -> tuple[Data, bool]:
        """What has arrived, and whether that was the last. Raises OSError.

        The data is only good until the next read: whoever keeps it copies it. Nothing and False mean that
        there may be more later.
        """
        if self._ended:
            return b"", True
        try:
            count = self._sock.recv_into(_received)
        except BlockingIOError:
            return b"", False
        data: Data = _received[:count]
        self._ended = count == 0
        for layer in reversed(self._layers):
            data, ended = layer.decrypt(data)
            # A peer may say so in TLS long before it closes its socket.
            self._ended = self._ended or ended
        return data, self._ended

    async def send(self, data: bytes, deadline: float) -> None:
        """Write, and wait until all is sent. Raises OSError (TimeoutError)."""
        self.write(data)
        while self._outgoing:
            if await wait(self._loop, {self._sock: WRITE}, deadline) is None:
                raise TimeoutError(errno.ETIMEDOUT, "the peer takes too long to read")
            self.flush()

    async def receive(self, deadline: float) -> bytes:
        """Some bytes; b"" at their end. Raises OSError (TimeoutError)."""
        while True:
            data, ended = self.read()
            if data or ended:
                return bytes(data)
            if await wait(self._loop, {self._sock: READ}, deadline) is None:
                raise TimeoutError(errno.ETIMEDOUT, "the peer takes too long to answer")

    def watch(self, events: int, callback: Callable[[int], None]) -> None:
        self._loop.watch(self._sock, events, callback)

    async def hang_up(self, deadline: float) -> None:
        """Send what is pending and let the peer close first, until the deadline; then close.

        A socket closed with bytes unread resets the connection, and what was sent last is lost with it:
        the peer would never see why it was left.
        """
        try:
            await self.send(b"", deadline)
            self._sock.shutdown(socket.SHUT_WR)
            while await wait(self._loop, {self._sock: READ}, deadline):
                if not self._sock.recv_into(_received):
                    break
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """At once, without a word."""
        self._loop.watch(self._sock, 0, lambda _events: None)
        self._sock.close()
