"""From a name to a connected socket: resolution, happy eyeballs, time limits.

What lives here: everything between "host and port" and "a TCP or Unix socket that stands". What must
not: TLS, HTTP, retries (local and proxy have their own patience).

Addresses are tried in turn, families alternating, a new attempt starting every 250 ms while the earlier
ones go on; the first that stands wins (RFC 8305). The resolver of the C library blocks for as long as it
likes, so it runs in a thread of its own that nobody waits for beyond the deadline.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from _thread import start_new_thread
from itertools import chain, zip_longest

from .loop import READ, WRITE, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from .loop import Loop

    SocketAddress = Union[tuple[str, int], tuple[str, int, int, int]]
    Address = tuple[int, SocketAddress]

ATTEMPT_DELAY = 0.25
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)


async def connect_host(
    loop: Loop, host: str, port: int, deadline: float, bind_address: str | None = None
) -> socket.socket:
    """A connected TCP socket, non-blocking, without Nagle's delay. Raises OSError (TimeoutError)."""
    addresses = await resolve(loop, host, port, deadline)
    if bind_address is not None:
        family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
        addresses = [address for address in addresses if address[0] == family]
        if not addresses:
            raise OSError(f"{host} has no address of the family of the bind address {bind_address}")
    return await _first_connected(loop, addresses, deadline, bind_address)


def connect_unix(path: str) -> socket.socket:
    """A connected Unix socket, non-blocking; it stands at once or not at all. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


async def resolve(loop: Loop, host: str, port: int, deadline: float) -> list[Address]:
    """The host's addresses in the order to try them. Raises OSError."""
    if host == "localhost":
        # By definition (RFC 6761); a device without a hosts file or a resolver has it as well.
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    try:
        return _lookup(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    answer: list[list[Address] | OSError] = []
    ours, theirs = socket.socketpair()

    def look_up() -> None:
        try:
            answer.append(_lookup(host, port, socket.AI_ADDRCONFIG))
        except OSError as error:
            answer.append(error)
        theirs.close()

    try:
        # The threading module costs 200 KiB, and this is all of it that is needed.
        try:
            start_new_thread(look_up, ())
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"no thread for the resolver: {error}") from error
        if await wait(loop, {ours: READ}, deadline) is None:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the resolver for {host}")
    finally:
        ours.close()
    found = answer[0]
    if isinstance(found, OSError):
        raise OSError(f"{host} cannot be resolved: {found.strerror or found}") from found
    return found


def _lookup(host: str, port: int, flags: int) -> list[Address]:
    # As bytes: a str would bring in the IDNA codec and its tables, 300 KiB, for a name that is ASCII.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)
    addresses: list[Address] = [(int(family), address[:4]) for family, _, _, _, address in found]  # type: ignore[misc]
    first = addresses[0][0]
    same = [address for address in addresses if address[0] == first]
    other = [address for address in addresses if address[0] != first]
    return [address for address in chain.from_iterable(zip_longest(same, other)) if address]


async def _first_connected(
    loop: Loop, addresses: list[Address], deadline: float, bind_address: str | None
) -> socket.socket:
    under_way: dict[socket.socket, SocketAddress] = {}
    untried = list(addresses)
    failure: OSError = TimeoutError(errno.ETIMEDOUT, "no answer to the connection attempt")
    try:
        while untried or under_way:
            if untried:
                family, address = untried.pop(0)
                sock = None
                try:
                    sock = socket.socket(family, socket.SOCK_STREAM)
                    under_way[sock] = address
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if bind_address is not None:
                        sock.bind((bind_address, 0))
                    code = sock.connect_ex(address)
                    if code not in (0, *_UNDER_WAY):
                        raise OSError(code, os.strerror(code))
                except OSError as error:
                    failure = _named(error, address)
                    if sock:
                        _discard(under_way, sock)
                    continue
            patience = min(deadline, time.monotonic() + ATTEMPT_DELAY) if untried else deadline
            ready = await wait(loop, dict.fromkeys(under_way, WRITE), patience)
            if ready is not None:
                code = ready.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    del under_way[ready]
                    return ready
                failure = _named(OSError(code, os.strerror(code)), under_way[ready])
                _discard(under_way, ready)
            elif time.monotonic() >= deadline:
                break
        raise failure
    finally:
        for sock in under_way:
            sock.close()


def _discard(under_way: dict[socket.socket, SocketAddress], sock: socket.socket) -> None:
    under_way.pop(sock, None)
    sock.close()


def _named(error: OSError, address: SocketAddress) -> OSError:
    """The same error, saying which address it is about."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return type(error)(error.errno, f"{host}:{address[1]}: {error.strerror}")
