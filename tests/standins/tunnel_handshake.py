"""Who may connect to the stand-in service: the checks of the opening handshake (no I/O).

Statuses and sentences follow the public protocol guide; where it names none, 400 is for a request that
can never be right and 403 for one that this tunnel does not let in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from http.cookies import SimpleCookie
from typing import NamedTuple, Optional
from urllib.parse import parse_qs, urlsplit

SUBPROTOCOLS = tuple(f"aws.iot.securetunneling-{version}.0" for version in (3, 2, 1))
MODES = ("source", "destination")

_MAX_REQUEST = 4096
_CLIENT_TOKEN = re.compile(r"[a-zA-Z0-9-]{32,128}")


class RefusedError(Exception):
    """The handshake is refused with this HTTP status and body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Credentials(NamedTuple):
    """What a well-formed request shows."""

    mode: str
    access_token: str
    client_token: Optional[str]


class AccessToken:
    """A token for one side of one tunnel: good for one handshake, or for one client token's handshakes."""

    def __init__(self) -> None:
        self.text = secrets.token_urlsafe(450)  # 600 characters, as long as those seen
        self._spent = False
        self._client_token: Optional[str] = None

    def check(self, client_token: Optional[str]) -> None:
        """Raises RefusedError if the token is spent."""
        if not self._spent:
            return
        if self._client_token is None:
            raise RefusedError(
                403, "Invalid access token: The access token was previously used and cannot be used again"
            )
        if client_token != self._client_token:
            raise RefusedError(403, "Invalid client token: The access token belongs to another client token")

    def spend(self, client_token: Optional[str]) -> None:
        """A handshake with the token succeeded."""
        self._spent = True
        self._client_token = client_token


def read_credentials(path: str, headers: Iterable[tuple[str, str]]) -> Credentials:
    """What the request shows; raises RefusedError if it is not one for a tunnel."""
    headers = [(name.lower(), value) for name, value in headers]
    size = len(f"GET {path} HTTP/1.1\r\n\r\n") + sum(len(n) + len(v) + 4 for n, v in headers)
    if size > _MAX_REQUEST:
        raise RefusedError(400, f"The request of {size} bytes is over {_MAX_REQUEST}")
    address = urlsplit(path)
    if address.path != "/tunnel":
        raise RefusedError(400, "Invalid path: only /tunnel is served")
    modes = parse_qs(address.query).get("local-proxy-mode", [])
    if len(modes) != 1 or modes[0] not in MODES:
        raise RefusedError(400, "Invalid local-proxy-mode: must be source or destination")
    offered = [p.strip() for value in _values(headers, "sec-websocket-protocol") for p in value.split(",")]
    if not set(offered) & set(SUBPROTOCOLS):
        raise RefusedError(400, "Invalid Sec-WebSocket-Protocol: none that is supported was offered")
    access_tokens = _values(headers, "access-token")
    for value in _values(headers, "cookie"):
        access_tokens += [m.value for name, m in SimpleCookie(value).items() if name == "awsiot-tunnel-token"]
    if len(access_tokens) != 1:
        raise RefusedError(400, f"Exactly one access token must be given, not {len(access_tokens)}")
    client_tokens = _values(headers, "client-token")
    if len(client_tokens) > 1:
        raise RefusedError(400, "At most one client token may be given")
    if client_tokens and not _CLIENT_TOKEN.fullmatch(client_tokens[0]):
        raise RefusedError(400, "Invalid client token: must match [a-zA-Z0-9-]{32,128}")
    return Credentials(modes[0], access_tokens[0], client_tokens[0] if client_tokens else None)


def _values(headers: Iterable[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in headers if name == wanted]
