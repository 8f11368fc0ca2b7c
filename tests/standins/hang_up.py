"""Ending a WebSocket within a time limit, whatever its peer does."""

from __future__ import annotations

import asyncio

from websockets.asyncio.connection import Connection

_PATIENCE = 2.0


async def hang_up(connection: Connection, code: int = 1000, reason: str = "") -> None:
    """A proper close; a peer that takes no part in it (or reads no more) is cut off after 2 s."""
    try:
        await asyncio.wait_for(connection.close(code, reason), _PATIENCE)
    except asyncio.TimeoutError:
        connection.transport.abort()
    # Before Python 3.11 a TLS transport that its peer has closed still counts as open, and warns.
    connection.transport.close()
