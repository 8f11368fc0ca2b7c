"""A socket and the kernel: what it takes now, and what it knows beyond what the socket says (Linux).

What must not live here: what follows from that.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

# Where struct tcp_info keeps these (linux/tcp.h).
_RETRANSMITS, _LAST_ACK_MS = 2, 56
_SEND = 256 * 1024


def send_queue(sock: socket.socket, queue: bytearray) -> None:
    """Send what can be sent now, and take it out of the queue. Raises OSError."""
    while queue:
        with memoryview(queue) as view, view[:_SEND] as piece:
            try:
                sent = sock.send(piece)
            except BlockingIOError:
                return
        del queue[:sent]


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that were sent and that the peer's kernel has not confirmed yet."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def unacknowledged_for(sock: socket.socket) -> float | None:
    """Seconds since the peer's kernel last confirmed anything, None where nothing waits to be confirmed.

    A peer that confirms but has closed its window (it does not read at present) counts as alive: 0.
    This is why TCP_USER_TIMEOUT is not used, which ends such a connection.
    """
    if not unacknowledged(sock):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:
        return None
    milliseconds: int = struct.unpack_from("I", info, _LAST_ACK_MS)[0]
    return milliseconds / 1000 if info[_RETRANSMITS] else 0.0
