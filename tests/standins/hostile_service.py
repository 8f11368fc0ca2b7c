"""A TLS server that breaks whatever rule a test wants broken: it speaks by hand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from pathlib import Path

from standins.proxy_process import Handler, ProxyProcess
from standins.tunnel_certificates import Certificates


class Hostile:
    """A TLS server that speaks by hand; `handler` gets each connection. Asynchronous context manager."""

    def __init__(self, folder: Path, handler: Handler, *, tls: bool = True, host: str = "127.0.0.1") -> None:
        self.certificates = Certificates(folder)
        self.ca = str(self.certificates.ca_directory)
        self.requests: list[bytes] = []
        self._handler = handler
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Hostile:
        context = self.certificates.server_context if self._tls else None
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"localhost:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def victim(self) -> ProxyProcess:
        """A localproxy that connects here."""
        return ProxyProcess(None, None, "1", endpoint=self.endpoint, ca=self.ca)

    def accepted(self, extra: str = "") -> bytes:
        """The answer that completes the latest handshake."""
        found = re.search(rb"Sec-WebSocket-Key: (\S+)", self.requests[-1])
        assert found
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(found[1] + guid).digest()).decode()
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n"
            f"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n{extra}\r\n"
        ).encode()
