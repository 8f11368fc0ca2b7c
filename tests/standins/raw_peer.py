"""One side of a tunnel by hand: any message, any frame, in any order."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Optional, Union

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from standins import freed_memory
from standins.hang_up import hang_up
from standins.tunnel_message import MAX_FRAME, MessageSplitter, TunnelMessage, bodies


class RawPeer:
    """Connects when entered as an asynchronous context manager, closes when left.

    `endpoint` is `host:port`, `ca_file` the service's authority. `version` 1 to 3 is the subprotocol
    offered. A refused handshake raises websockets.exceptions.InvalidStatus.
    """

    def __init__(
        self,
        endpoint: str,
        ca_file: Path,
        access_token: str,
        *,
        mode: str = "source",
        version: int = 3,
        client_token: Optional[str] = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.websocket: ClientConnection
        """The connection, for what is not offered here."""
        self._uri = f"wss://{endpoint}/tunnel?local-proxy-mode={mode}"
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._subprotocol = Subprotocol(f"aws.iot.securetunneling-{version}.0")
        self._headers = [("access-token", access_token), *headers]
        if client_token is not None:
            self._headers.append(("client-token", client_token))
        self._splitter = MessageSplitter()
        self._received: list[TunnelMessage] = []

    async def __aenter__(self) -> RawPeer:
        freed_memory.keep()
        self.websocket = await connect(
            self._uri,
            ssl=self._tls,
            subprotocols=[self._subprotocol],
            additional_headers=self._headers,
            compression=None,
            proxy=None,
            ping_interval=None,
            max_size=MAX_FRAME,
            max_queue=4,
            write_limit=2 * MAX_FRAME,
            close_timeout=1,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await hang_up(self.websocket)

    async def send(self, *messages: TunnelMessage) -> None:
        """These messages in one frame."""
        await self.send_frame(b"".join(message.encode() for message in messages))

    async def send_frame(self, data: Union[bytes, str]) -> None:
        """Any frame; a str makes a text frame."""
        await self.websocket.send(data)

    async def receive(self, timeout: float = 10) -> TunnelMessage:
        """The next message; raises TimeoutError, or ConnectionClosed once the connection has ended."""
        try:
            return await asyncio.wait_for(self._receive(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no message within {timeout} s") from None

    async def _receive(self) -> TunnelMessage:
        while not self._received:
            self._received += [TunnelMessage.parse(body) for body in await self.receive_bodies()]
        return self._received.pop(0)

    async def receive_bodies(self) -> list[bytes]:
        """The messages that the next frame completes, not yet parsed; may be none."""
        frame = await self.websocket.recv()
        if isinstance(frame, str):
            raise AssertionError("the service sent a text frame")
        return list(bodies(self._splitter.whole(frame)))
