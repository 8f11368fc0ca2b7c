"""A local service of a device that echoes, slowly or half-closing if told so, and can be switched off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading

from standins.proxy_process import LocalService


class MoodyService(LocalService):
    """An echo service on 127.0.0.1; an asynchronous context manager.

    Attributes:
        mode: ``echo``; ``slow``: with pauses; ``half-close``: reads one byte, answers 64 KiB, ends its
            direction, and goes on reading.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.mode = "echo"

    async def up(self) -> None:
        """Listen again, on the same port."""
        await self.__aenter__()

    async def down(self) -> None:
        """Stop listening, and end all connections."""
        await self.__aexit__()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "half-close":
            await reader.read(1)
            writer.write(b"x" * 65536)
            writer.write_eof()
        while data := await reader.read(16384):
            if self.mode != "half-close":
                writer.write(data)
                await writer.drain()
            if self.mode == "slow":
                await asyncio.sleep(0.01)


def exchange(port: int, size: int, timeout: float) -> None:
    """Send ``size`` random bytes and expect them back.

    Raises:
        ConnectionError: the connection ended before.
        AssertionError: other bytes came.
    """
    data = os.urandom(size)
    with socket.create_connection(("127.0.0.1", port), timeout) as peer:

        def send() -> None:
            with contextlib.suppress(OSError):
                peer.sendall(data)

        threading.Thread(target=send, daemon=True).start()
        received = receive(peer, size)
        if len(received) < size:
            raise ConnectionError(f"{len(received)} of {size} bytes came back")
        assert received == data


def receive(peer: socket.socket, size: int) -> bytes:
    """Up to ``size`` bytes, fewer if the connection ends before."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while len(received) < size and (data := peer.recv(65536)):
            received += data
    return bytes(received)
