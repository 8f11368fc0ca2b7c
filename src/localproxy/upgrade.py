"""HTTP/1.1 as far as a WebSocket client needs it (sans-I/O, RFC 6455 section 4, RFC 9110 CONNECT).

What lives here: the two requests, a reader for their answers with hard limits, and the check of a 101.
What must not: what is done about a refusal (proxy), any socket.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re

MAX_HEAD = 16 * 1024
"""Bytes of status line and headers that are read before an answer counts as hostile."""

MAX_BODY = 4 * 1024
"""Bytes of a refusal's body that are read; it is only shown."""

MAX_REQUEST = 4 * 1024
"""The service takes no longer request (protocol, "Handshake")."""

SUBPROTOCOL = "aws.iot.securetunneling-3.0"

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?")
_HEADER_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*")


class AnswerError(Exception):
    """An answer that is no HTTP, breaks a limit, or does not complete the handshake it claims to."""


class Answer:
    """An HTTP answer: status, reason, headers by lower-case name, body as far as it was read.

    `rest` are the bytes after the head, where no body was asked for: the first of the WebSocket.
    """

    __slots__ = ("body", "headers", "reason", "rest", "status")

    def __init__(self, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = b""
        self.rest = b""

    def __str__(self) -> str:
        return f"HTTP/1.1 {self.status} {self.reason}".rstrip()


class AnswerReader:
    """Takes an answer in pieces. `status_without_body` is the one whose body is another protocol."""

    def __init__(self, status_without_body: int) -> None:
        self._status_without_body = status_without_body
        self._buffer = bytearray()
        self._answer: Answer | None = None

    def feed(self, data: bytes) -> Answer | None:
        """The answer once it is complete. Raises AnswerError."""
        self._buffer += data
        if self._answer is None:
            end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
            if end < 0:
                if len(self._buffer) >= MAX_HEAD:
                    raise AnswerError(f"no end of the HTTP headers within {MAX_HEAD} bytes")
                return None
            self._answer = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        answer = self._answer
        if answer.status == self._status_without_body:
            answer.rest = bytes(self._buffer)
            return answer
        length = answer.headers.get("content-length", "")
        wanted = min(int(length), MAX_BODY) if re.fullmatch("[0-9]{1,9}", length) else MAX_BODY
        if answer.status in (204, 304):
            wanted = 0
        chunked = answer.headers.get("transfer-encoding", "").lower() == "chunked"
        if len(self._buffer) < wanted and not (chunked and self._buffer.endswith(b"0\r\n\r\n")):
            return None
        return self._finish(answer, wanted, chunked)

    @property
    def is_known(self) -> bool:
        """Whether nothing but a part of the body is missing."""
        return self._answer is not None

    def give_up(self) -> Answer | None:
        """The answer as far as it came, when the peer hung up or takes too long with its body."""
        return self._finish(self._answer, MAX_BODY, False) if self._answer else None

    def _finish(self, answer: Answer, wanted: int, chunked: bool) -> Answer:
        body = bytes(self._buffer[:wanted])
        if chunked or answer.headers.get("transfer-encoding"):
            # It is only shown: leaving out the lines with the chunks' sizes is good enough.
            body = re.sub(rb"(?:^|\r\n)[0-9a-fA-F]+\r\n", b"", body).rstrip(b"\r\n")
        answer.body = body
        return answer


def _parse_head(head: bytes) -> Answer:
    lines = head.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(lines[0])
    if not status:
        raise AnswerError("no HTTP answer")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        header = _HEADER_LINE.fullmatch(line)
        if not header:
            raise AnswerError("a line among the HTTP headers that is none")
        name, value = header[1].decode().lower(), header[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Answer(int(status[1]), (status[2] or b"").decode("latin-1").strip(), headers)


def new_key() -> str:
    """A fresh Sec-WebSocket-Key."""
    return _base64(os.urandom(16))


def upgrade_request(host: str, port: int, key: str, access_token: str, client_token: str | None) -> bytes:
    """The opening handshake. `host` without brackets; the tokens hold nothing but printable ASCII."""
    name = f"[{host}]" if ":" in host else host
    lines = [
        "GET /tunnel?local-proxy-mode=destination HTTP/1.1",
        f"Host: {name}" if port == 443 else f"Host: {name}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        f"access-token: {access_token}",
    ]
    if client_token:
        lines.append(f"client-token: {client_token}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def connect_request(host: str, port: int, credentials: str | None) -> bytes:
    """A CONNECT to host:port; `credentials` are user:password for basic authentication."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {_base64(credentials.encode())}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def check_upgrade(answer: Answer, key: str) -> None:
    """Whether a 101 is the answer to our handshake. Raises AnswerError if it is not."""
    headers = answer.headers
    tokens = [token.strip().lower() for token in headers.get("connection", "").split(",")]
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in tokens:
        raise AnswerError("the answer switches to another protocol than WebSocket")
    digest = hashlib.sha1(key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest()
    if headers.get("sec-websocket-accept") != _base64(digest):
        raise AnswerError("the answer's Sec-WebSocket-Accept does not fit our key")
    if headers.get("sec-websocket-extensions"):
        raise AnswerError("the answer takes for granted a WebSocket extension that was not offered")
    if headers.get("sec-websocket-protocol") != SUBPROTOCOL:
        raise AnswerError(f"the answer does not choose the subprotocol {SUBPROTOCOL}")


def _base64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()
