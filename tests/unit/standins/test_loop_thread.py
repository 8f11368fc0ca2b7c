"""Synchronous code drives the asyncio stand-ins."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from standins.loop_thread import LoopThread
from standins.raw_peer import RawPeer
from standins.source import Source
from standins.tunneling_service import TunnelingService


def test_a_service_and_a_source_from_synchronous_code(tmp_path: Path) -> None:
    with LoopThread() as loop, loop.enter(TunnelingService(tmp_path)) as service:
        tunnel = loop.run(service.open_tunnel(["SSH"]))
        tokens = tunnel.source.token.text, tunnel.destination.token.text
        connecting = RawPeer(service.endpoint, service.ca_file, tokens[1], mode="destination")
        listening = Source(service.endpoint, service.ca_file, tokens[0])
        with loop.enter(connecting) as destination, loop.enter(listening) as source:
            loop.run(tunnel.destination.wait_connected())
            with socket.create_connection(("127.0.0.1", source.ports["SSH"]), 10) as local:
                local.sendall(b"hello")
                received = [loop.run(destination.receive()) for _ in range(3)]
                assert received[2].payload == b"hello"
            loop.run(tunnel.close())
            loop.run(tunnel.destination.wait_gone())


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with LoopThread() as loop:
        with pytest.raises(TimeoutError, match=r"endless.* within 0\.1 s"):
            loop.run(endless(), timeout=0.1)
        assert ended.wait(10)


def test_an_error_comes_out_as_it_is() -> None:
    async def fails() -> None:
        raise TimeoutError("of its own")

    with LoopThread() as loop, pytest.raises(TimeoutError, match="of its own"):
        loop.run(fails())


def test_waiting_in_vain_says_for_what(tmp_path: Path) -> None:
    with LoopThread() as loop, loop.enter(TunnelingService(tmp_path)) as service:
        tunnel = loop.run(service.open_tunnel())
        with pytest.raises(TimeoutError, match="destination connected"):
            loop.run(tunnel.destination.wait_connected(timeout=0.1))
        with pytest.raises(TimeoutError, match="handshakes"):
            loop.run(service.wait_handshakes(1, timeout=0.1))
