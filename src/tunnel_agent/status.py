"""Status events: what the component publishes on its local topic about a tunnel. Pure.

They are for other components of the device, so they name no secret: a tunnel's access token is told from
others by the first 12 hexadecimal digits of its SHA-256.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Optional

from tunnel_agent.notification import Notification

EVENTS = ("opened", "connected", "closed", "rejected", "failed", "timedOut", "refused")


def status_event(
    event: str, number: Optional[int], notification: Optional[Notification], reason: str = ""
) -> dict[str, Any]:
    """The JSON object of one event.

    Args:
        event: one of ``EVENTS``.
        number: the tunnel's; None where none was started.
        notification: None where it could not be read.
        reason: why a tunnel ended or was refused.
    """
    message: dict[str, Any] = {
        "event": event,
        "tunnel": number,
        "services": [] if notification is None else list(notification.services),
        "region": None if notification is None else notification.region,
        "token": None if notification is None else notification.label,
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }
    if reason:
        message["reason"] = reason
    return message
