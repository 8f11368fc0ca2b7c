"""TLS: whom to trust, and one layer of it without a socket.

What lives here: the contexts (1.2 at least, the system's roots, `-c`, `-k`) and the sans-I/O layer
around ssl.SSLObject. What must not: sockets, time limits.
"""

# os.path is loaded anyway, pathlib is not.
# ruff: noqa: PTH112, PTH113, PTH118, PTH208

from __future__ import annotations

import os
import re
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .message import Data

_RECORD = 16 * 1024
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def client_context(capath: str | None, verify: bool) -> ssl.SSLContext:
    """The rules for connecting: TLS 1.2 or later, the system's roots and those under `capath`.

    `capath` is a directory hashed by `openssl rehash`, or a file of PEM certificates; a directory that
    was not hashed is read whole. Raises OSError (ssl.SSLError) where it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    _trust_system(context)
    if capath is None:
        return context
    if not os.path.isdir(capath):
        context.load_verify_locations(cafile=capath)
    elif _is_hashed(capath):
        context.load_verify_locations(capath=capath)
    else:
        _trust_files(context, capath)
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """A hashed directory of roots is looked up one by one when it is needed; the file that most systems
    have as well is read whole, which costs a megabyte and on a small device a good part of a second."""
    paths = ssl.get_default_verify_paths()
    if paths.openssl_cafile_env not in os.environ and paths.capath and _is_hashed(paths.capath):
        context.load_verify_locations(capath=paths.capath)
    else:
        context.load_default_certs()


def _is_hashed(directory: str) -> bool:
    try:
        return any(_HASHED_NAME.fullmatch(name) for name in os.listdir(directory))
    except OSError:
        return False


def _trust_files(context: ssl.SSLContext, directory: str) -> None:
    found = False
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith((".pem", ".crt")) and os.path.isfile(path):
            context.load_verify_locations(cafile=path)
            found = True
    if not found:
        raise OSError(f"no certificate in the directory {directory}")


class TlsLayer:
    """One TLS connection as a pair of functions over bytes.

    `handshake` is called until it says True; what is to be sent to the peer is in `outgoing` after every
    call. Raises ssl.SSLError (an OSError) where the peer breaks TLS or is not trusted.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # As bytes: a str would bring in the IDNA codec and its tables, 300 KiB, for a name that is ASCII.
        name = host.encode("ascii")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._plain = memoryview(b"")

    def handshake(self, data: Data) -> bool:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def outgoing(self) -> bytes:
        return self._outgoing.read()

    def encrypt(self, data: Data) -> bytes:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._outgoing.read()

    def decrypt(self, data: Data) -> tuple[memoryview, bool]:
        """What `data` completes, and whether the peer said that nothing follows.

        The view is of a buffer that the next call uses again.
        """
        incoming = self._incoming
        incoming.write(data)
        # No more plaintext than ciphertext, what was left of the last call included, ever comes out.
        most = incoming.pending + _RECORD
        if len(self._plain) < most:
            self._plain = memoryview(bytearray(most))
        plain, read = self._plain, self._tls.read
        end = 0
        try:
            # One whole record at a time, that is sixty times a mebibyte.
            while count := read(_RECORD, plain[end:]):
                end += count  # type: ignore[operator]
                # Asking in vain costs an exception; a record that is cut off has left the buffer too.
                if not incoming.pending:
                    return plain[:end], False
            return plain[:end], True
        except ssl.SSLWantReadError:
            return plain[:end], False
        except ssl.SSLZeroReturnError:
            return plain[:end], True

    def describe(self) -> str:
        cipher = self._tls.cipher()
        return f"{self._tls.version()}, {cipher[0] if cipher else 'no cipher'}"
