"""The WebSocket's frames, client side (sans-I/O, RFC 6455 section 5).

What lives here: serialising and parsing frames, and the rules whose breach ends a connection. What must
not: the handshake (upgrade), the tunnel's messages (message), any socket.

The tunnel uses frames as a plain byte stream, so data is handed on as it comes in, before its frame is
complete: nothing but a control frame (at most 125 bytes) is ever kept here, whatever a peer sends. No
extension is ever negotiated, so reserved bits, and with them compressed frames, are violations.
"""

from __future__ import annotations

import os
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .message import Data

MAX_FRAME_PAYLOAD = 131076
"""Bytes that one frame may carry, either way (protocol, "WebSocket layer")."""

_MAX_HEADER = 10
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA, NO_STATUS, TOO_BIG = 1000, 1001, 1002, 1003, 1005, 1009


class FrameError(Exception):
    """The peer broke the rules of the WebSocket. `code` is the close code to answer with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameParser:
    """Takes the byte stream in pieces of any size, gives what the frames in it carry.

    Pieces of binary frames come as (BINARY, bytes), control frames whole as (CLOSE | PING | PONG, bytes).
    """

    def __init__(self) -> None:
        # What there is of a header, or of a control frame's payload, that is cut off.
        self._header = bytearray()
        self._control = bytearray()
        self._opcode = BINARY
        # Bytes of the current frame that are still to come; 0 before a header.
        self._remaining = 0
        self._in_message = False

    def feed(self, data: Data) -> Iterator[tuple[int, Data]]:
        """The frames in `data`, in order; what a binary one carries is a part of `data`, not a copy.

        Raises FrameError; nothing may be fed after that.
        """
        position = 0
        while position < len(data):
            if not self._remaining:
                position += self._take_header(data[position : position + _MAX_HEADER])
                if self._header:
                    return
            piece = data[position : position + self._remaining]
            position += len(piece)
            self._remaining -= len(piece)
            if self._opcode == BINARY:
                if piece:
                    yield BINARY, piece
                continue
            self._control += piece
            if not self._remaining:
                payload = bytes(self._control)
                self._control.clear()
                yield self._opcode, payload

    def _take_header(self, data: Data) -> int:
        """Take the header that begins or goes on with `data`; how many bytes of that belong to it."""
        head = self._header + data
        size = 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) if len(head) > 1 else 2
        if len(head) < size:
            self._header = head
            return len(data)
        taken = size - len(self._header)
        self._header.clear()
        first, second = head[0], head[1] & 0x7F
        length = int.from_bytes(head[2:size], "big") if second > 125 else second
        opcode, final = first & 0x0F, bool(first & 0x80)
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "a frame with reserved bits, though no extension was agreed on")
        if head[1] & 0x80:
            raise FrameError(PROTOCOL_ERROR, "a masked frame")
        if opcode in (CLOSE, PING, PONG):
            if length > 125 or not final:
                raise FrameError(PROTOCOL_ERROR, "a control frame that is fragmented or too long")
            self._opcode = opcode
        elif opcode == TEXT:
            raise FrameError(UNSUPPORTED_DATA, "a text frame")
        elif opcode in (BINARY, CONTINUATION):
            if (opcode == CONTINUATION) != self._in_message:
                raise FrameError(PROTOCOL_ERROR, "a fragment out of place")
            if length > MAX_FRAME_PAYLOAD:
                raise FrameError(TOO_BIG, f"a frame of {length} bytes, allowed are {MAX_FRAME_PAYLOAD}")
            self._in_message = not final
            self._opcode = BINARY
        else:
            raise FrameError(PROTOCOL_ERROR, f"a frame with the reserved opcode {opcode}")
        self._remaining = length
        return taken


def serialize(opcode: int, payload: Data) -> bytes:
    """One whole frame, masked with a fresh key as a client's must be."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8, "big")
    key = os.urandom(4)
    return b"".join((head, key, _apply_mask(payload, key)))


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame; a reason is cut to what a control frame holds."""
    return code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()


def parse_close(payload: Data) -> tuple[int, str]:
    """Code and reason of a close frame; NO_STATUS where it carries none."""
    if len(payload) < 2:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), str(payload[2:], "utf-8", "replace")


def _slow_apply_mask(data: Data, key: bytes) -> bytes:
    """XOR with the repeated key, where `websockets` came without its compiled part."""
    length = len(data)
    repeated = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")


def _find_apply_mask() -> Callable[[Data, bytes], bytes]:
    """The masking function of `websockets.speedups`, a hundred times as fast as Python can do it.

    The extension module is loaded by itself: `import websockets.speedups` would run the package's own
    __init__, which brings in importlib.metadata, email, zipfile and csv, 4 MiB for one function.
    """
    package = PathFinder.find_spec("websockets")
    spec = package and PathFinder.find_spec("speedups", package.submodule_search_locations)
    if not spec or not spec.loader:
        return _slow_apply_mask
    try:
        module = spec.loader.create_module(spec)
        if module is None:
            return _slow_apply_mask
        spec.loader.exec_module(module)
        found: Callable[[Data, bytes], bytes] = module.apply_mask
    except (ImportError, AttributeError):
        return _slow_apply_mask
    return found


_apply_mask = _find_apply_mask()
