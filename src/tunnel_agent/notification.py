"""The tunnel notification: parsing and validation. Pure.

AWS publishes it to ``$aws/things/<thing>/tunnels/notify``; its members are documented with
``DestinationConfig`` and "Configure a remote device" of the AWS IoT developer guide. Its values end up in
localproxy's arguments and environment, so nothing gets past here that could become an option, another host
or another header.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from tunnel_agent.config import SERVICE_ID, shown

# The handshake request that carries the token is limited to 4 KiB.
_TOKEN = re.compile(r"[!-~]{1,4000}", re.ASCII)
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_MAX_SERVICES = 64
# Tokens are longer than whatever is right here, and a few characters of one tell nobody anything.
_MAX_SHOWN = 64
_PIECE = 12


class NotificationError(Exception):
    """A notification that cannot be served: one line that says what is wrong with it, without its token."""


@dataclass
class Notification:
    """A valid notification.

    Attributes:
        access_token: the destination's client access token: a secret, left out of the representation.
        region: the AWS region of the tunnel.
        services: at least one service id, each once, in the order of the notification.
    """

    access_token: str = field(repr=False)
    region: str
    services: tuple[str, ...]

    @property
    def key(self) -> int:
        """What tells notifications apart within this process, and may be kept: not the token itself."""
        return hash(self.access_token)  # 64 bits, with a key of this process's

    @property
    def label(self) -> str:
        """What tells tunnels apart to others: the first 12 hexadecimal digits of the token's SHA-256."""
        return hashlib.sha256(self.access_token.encode()).hexdigest()[:12]

    @classmethod
    def parse(cls, payload: bytes) -> Notification:
        """Read a received payload. Members that are not known are left alone.

        Raises:
            NotificationError: whatever is wrong, and nothing else whatever the bytes.
        """
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise NotificationError(f"it is not JSON ({_kind(error)})") from None
        if not isinstance(value, dict):
            raise NotificationError("it is not a JSON object")
        for member in ("clientAccessToken", "clientMode", "region", "services"):
            if member not in value:
                raise NotificationError(f"its member {member} is missing")
        token, mode, region, services = (
            value[member] for member in ("clientAccessToken", "clientMode", "region", "services")
        )
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise NotificationError("its clientAccessToken is not a string of 1-4000 printable characters")
        if mode != "destination":
            raise NotificationError(f"its clientMode is {_shown(mode, token)}, not destination")
        if not isinstance(region, str) or not _REGION.fullmatch(region):
            raise NotificationError(f"its region {_shown(region, token)} is not the name of an AWS region")
        if not isinstance(services, list) or not 1 <= len(services) <= _MAX_SERVICES:
            raise NotificationError(f"its services are not a list of 1-{_MAX_SERVICES} service ids")
        for service in services:
            if not isinstance(service, str) or not SERVICE_ID.fullmatch(service):
                raise NotificationError(f"its services contain {_shown(service, token)}, no service id")
        return cls(token, region, tuple(dict.fromkeys(services)))


def _kind(error: Exception) -> str:
    # Of a decoding error only its kind: its text may quote the payload.
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number without end"


def _shown(value: object, token: str) -> str:
    """A wrong member for the log, unless a good piece of the token, or of another one, may be in it."""
    if not isinstance(value, str):
        return f"(a {type(value).__name__})"
    if len(value) > _MAX_SHOWN:
        return f"(a text of {len(value)} characters)"
    pieces = (value[start : start + _PIECE] for start in range(len(value) - _PIECE + 1))
    if token in value or any(piece in token for piece in pieces):
        return "(a piece of the access token)"
    return shown(value)
