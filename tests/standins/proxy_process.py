"""A localproxy under test as a real process, and local services for it to connect to.

    @scenario()
    async def test_something(tmp_path: Path) -> None:
        async with TunnelingService(tmp_path) as service, LocalService(echo) as local:
            tunnel = await service.open_tunnel(["SSH"])
            async with ProxyProcess(service, tunnel, f"SSH={local.address}") as proxy:
                await proxy.line("Successfully established")

Whatever a test does, a localproxy prints no token, no traceback, and nothing but log lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import sys
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from standins.component import peak
from standins.tunnel import Tunnel
from standins.tunneling_service import TunnelingService

SOURCES = Path(__file__).resolve().parents[2] / "src"
CLIENT_TOKEN = "client-token-0123456789abcdef0123456789"
_LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] \(0x[0-9a-f]{8,}\) \[[a-z]+\] .*")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def scenario(
    seconds: float = 30,
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Makes a test of a coroutine, which has that much time."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*arguments: object, **keywords: object) -> None:
            asyncio.run(asyncio.wait_for(test(*arguments, **keywords), seconds))

        return run

    return decorate


async def until(condition: Callable[[], bool], what: str, timeout: float = 10) -> None:
    """Wait for something that cannot be waited for otherwise; raises TimeoutError."""
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"not within {timeout} s: {what}")
        await asyncio.sleep(0.02)


class ProxyProcess:
    """A localproxy; started when entered, gone when left.

    `arguments` and `environ` add to what is needed anyway; `endpoint` and `ca` replace the service's.
    `command` is another program than the built-in. Without `read_stderr` nobody reads its output before
    it has ended, and what a pipe cannot hold has no place to go.
    """

    def __init__(
        self,
        service: Optional[TunnelingService],
        tunnel: Optional[Tunnel],
        destination: str,
        *arguments: str,
        endpoint: str = "",
        ca: str = "",
        client_token: Optional[str] = None,
        environ: Optional[Mapping[str, str]] = None,
        command: Sequence[str] = (),
        verbosity: int = 6,
        read_stderr: bool = True,
    ) -> None:
        self.lines: list[str] = []
        self.process: asyncio.subprocess.Process
        self._read_stderr = read_stderr
        self._is_built_in = not command
        self._changed = asyncio.Condition()
        self._secrets = [tunnel.destination.token.text if tunnel else "token-of-no-tunnel"]
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCES),
            "AWSIOT_TUNNEL_ACCESS_TOKEN": self._secrets[0],
            **(environ or {}),
        }
        if client_token is not None:
            self._environ["AWSIOT_TUNNEL_CLIENT_TOKEN"] = client_token
            self._secrets.append(client_token)
        if service:
            endpoint = endpoint or service.endpoint
            ca = ca or str(service.ca_directory)
        self._command = [*(command or (sys.executable, "-u", "-m", "localproxy")), "-e", endpoint]
        self._command += ["-d", destination, "-v", str(verbosity), *(("-c", ca) if ca else ()), *arguments]

    async def __aenter__(self) -> ProxyProcess:
        # The binary's log goes to stderr; here both ends up in the same lines.
        ours, theirs = os.pipe()
        self._output = open(ours, "rb", buffering=0)  # noqa: PTH123, SIM115
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._reader = asyncio.ensure_future(self._read()) if self._read_stderr else None
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self._reader is None:
            self._reader = asyncio.ensure_future(self._read())
        await self._reader
        print(*self.lines, sep="\n")  # shown with a test that fails
        for line in self.lines:
            assert not any(secret in line for secret in self._secrets), f"a token is in: {line}"
            if self._is_built_in:
                assert _LINE.fullmatch(line), f"no log line: {line}"

    async def line(self, pattern: str, timeout: float = 10) -> str:
        """The first line in which the pattern is found; raises TimeoutError."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(found), timeout)
            except asyncio.TimeoutError:
                raise TimeoutError(f"no line like {pattern!r} within {timeout} s in {self.lines}") from None
        return found()[0]

    async def exit_code(self, timeout: float = 10) -> int:
        """How it ended by itself; raises TimeoutError."""
        try:
            code = await asyncio.wait_for(self.process.wait(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"still running after {timeout} s: {self.lines}") from None
        if self._reader:
            await self._reader
        return code

    @property
    def resident(self) -> float:
        """MiB at most so far."""
        return peak(self.process.pid)

    async def _read(self) -> None:
        stream = asyncio.StreamReader(1 << 20)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), self._output
        )
        try:
            while raw := await stream.readline():
                async with self._changed:
                    self.lines.append(raw.decode(errors="replace").rstrip("\n"))
                    self._changed.notify_all()
        finally:
            transport.close()


class LocalConnection:
    """A connection that a localproxy opened to a LocalService without a handler."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def receive(self, count: int, timeout: float = 10) -> bytes:
        """So many bytes; raises TimeoutError, or IncompleteReadError where the connection ends before."""
        return await asyncio.wait_for(self.reader.readexactly(count), timeout)

    async def rest(self, timeout: float = 10) -> bytes:
        """Everything up to the end of the connection; raises TimeoutError."""
        return await asyncio.wait_for(self.reader.read(), timeout)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()


class LocalService:
    """Listens on a free port of `host`, or on the Unix socket `path`, while entered.

    With a handler it serves by itself, as `echo` does; without, each connection waits for `accepted`.
    """

    def __init__(
        self,
        handler: Optional[Handler] = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "",
        limit: int = 1 << 16,
    ) -> None:
        self.connections = 0
        self._handler = handler
        self._host, self.port, self._path, self._limit = host, port, path, limit
        self._accepted: asyncio.Queue[LocalConnection]
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def address(self) -> str:
        """As for --destination-app."""
        if self._path:
            return self._path
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    async def accepted(self, timeout: float = 10) -> LocalConnection:
        """The next connection; raises TimeoutError."""
        return await asyncio.wait_for(self._accepted.get(), timeout)

    async def __aenter__(self) -> LocalService:
        self._accepted = asyncio.Queue()  # with Python 3.9 it belongs to the loop that runs
        if self._path:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=self._limit)
        else:
            self._server = await asyncio.start_server(self._serve, self._host, self.port, limit=self._limit)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if self._handler:
            with contextlib.suppress(ConnectionError):
                await self._handler(reader, writer)
            writer.close()
        else:
            self._accepted.put_nowait(LocalConnection(reader, writer))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it gets."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
