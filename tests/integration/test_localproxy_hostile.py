"""The built-in localproxy as a process: what a hostile or broken service costs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from standins.hostile_service import Hostile
from standins.proxy_process import LocalService, ProxyProcess, scenario
from standins.tunnel_message import TunnelMessage as M
from standins.tunnel_message import Type

CONNECTED = "\\[info\\] Successfully established websocket connection"


HOSTILE_ANSWERS = {
    "endless headers": (b"HTTP/1.1 101 X\r\n" + b"a: b\r\n" * 100_000, "no end of the HTTP headers"),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "no HTTP answer"),
    "nothing": (b"", "closed before an HTTP answer"),
    "half": (b"HTTP/1.1 101 Sw", "closed before an HTTP answer"),
    "wrong key": (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "Accept"),
    "other protocol": (b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "another protocol"),
    "endless body": (b"HTTP/1.1 500 X\r\n\r\n" + b"x" * 1_000_000, "500"),
}


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
@scenario()
async def test_hostile_answers(tmp_path: Path, name: str) -> None:
    answer, told = HOSTILE_ANSWERS[name]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async with Hostile(tmp_path, handler) as hostile, hostile.victim() as proxy:
        line = await proxy.line("\\[error\\] Could not connect to localhost")
        assert told in line
        assert proxy.resident < 40
        await proxy.line("Trying again")


HOSTILE_FRAMES = {
    "huge": (b"\x82\x7f" + b"\xff" * 8, 1009),
    "too big": (b"\x82\x7f" + (131_077).to_bytes(8, "big"), 1009),
    "compressed": (b"\xc2\x05\xed\xc0\x01\x01\x00", 1002),
    "masked": (b"\x82\x85abcdabcde", 1002),
    "text": (b"\x81\x05hello", 1003),
    "endless fragments": (b"\x02\x00" + b"\x00\x7e\xff\xff" + b"\x00" * 0xFFFF, 1002),
}


@pytest.mark.parametrize("name", HOSTILE_FRAMES)
@scenario()
async def test_hostile_frames(tmp_path: Path, name: str) -> None:
    frame, code = HOSTILE_FRAMES[name]
    answers: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hostile.accepted() + frame)
        await writer.drain()
        while data := await reader.read(1000):
            answers.append(data)

    async with Hostile(tmp_path, handler) as hostile:
        async with hostile.victim() as proxy:
            await proxy.line(CONNECTED)
            assert await proxy.exit_code() == 1
            await proxy.line(f"\\[error\\] The service broke the protocol, .*\\({code}\\)")
            assert proxy.process.returncode == 1
        received = b"".join(answers)
        close = received.index(b"\x88")
        mask, payload = received[close + 2 : close + 6], received[close + 6 : close + 8]
        assert bytes(a ^ b for a, b in zip(payload, mask)) == code.to_bytes(2, "big")


@scenario()
async def test_an_extension_that_was_not_offered(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hostile.accepted("Sec-WebSocket-Extensions: permessage-deflate\r\n"))
        await writer.drain()

    async with Hostile(tmp_path, handler) as hostile, hostile.victim() as proxy:
        await proxy.line("\\[error\\] Could not connect .*extension")


@scenario()
async def test_a_close_right_behind_the_last_data_loses_none_of_it(tmp_path: Path) -> None:
    """All in one piece: the local connection does not even stand when the close comes."""
    messages = M(Type.STREAM_START, 1, "SSH", 1), M(Type.DATA, 1, "SSH", 1, b"x" * 9_000)
    content = b"".join(message.encode() for message in messages)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frame = b"\x82\x7f" + len(content).to_bytes(8, "big") + content
        writer.write(hostile.accepted() + frame + b"\x88\x02\x03\xe8")
        await reader.read()

    async with (
        Hostile(tmp_path, handler) as hostile,
        LocalService() as local,
        ProxyProcess(None, None, f"SSH={local.address}", endpoint=hostile.endpoint, ca=hostile.ca) as proxy,
    ):
        connection = await local.accepted()
        assert await connection.rest() == b"x" * 9_000
        connection.close()
        assert await proxy.exit_code() == 0


@scenario(60)
async def test_patience_has_its_limits(tmp_path: Path) -> None:
    """What takes long, all at once: a peer that falls silent, handshakes that never end."""

    async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(silent.accepted())
        await asyncio.sleep(60)

    async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.3)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    clock = asyncio.get_running_loop().time
    begun = clock()
    took: dict[str, float] = {}

    async def noticed(hostile: Hostile, pattern: str, *arguments: str) -> None:
        # Plain TCP where TLS is expected: its handshake never begins.
        async with ProxyProcess(
            None, None, "1", *arguments, endpoint=hostile.endpoint, ca=hostile.ca
        ) as proxy:
            await proxy.line(pattern, 40)
            took[pattern] = clock() - begun

    silent = Hostile(tmp_path / "silent", falls_silent)
    dripping = Hostile(tmp_path / "dripping", drips)
    mute = Hostile(tmp_path / "mute", never, tls=False)
    async with silent, dripping, mute:
        await asyncio.gather(
            noticed(silent, "\\[error\\] Lost the tunnel connection: no sign of life"),
            noticed(dripping, "\\[error\\] Could not connect .*takes too long"),
            noticed(mute, "\\[error\\] Could not connect .* too long to answer"),
        )
    assert min(took.values()) > 20
    assert took["\\[error\\] Lost the tunnel connection: no sign of life"] < 30
    assert max(took.values()) < 35
