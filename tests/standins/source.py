"""The source side of a tunnel: local TCP ports whose connections travel to the device.

    async with Source(service.endpoint, service.ca_file, tunnel.source.token.text) as source:
        # ssh -p {source.ports["SSH"]} localhost

Speaks as a V1, V2 or V3 localproxy in source mode does, and sends nothing that one may not send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from websockets.exceptions import ConnectionClosed

from standins.raw_peer import RawPeer
from standins.tunnel_message import MAX_PAYLOAD, TunnelMessage, Type, data_frame

_PER_FRAME = 2 * MAX_PAYLOAD
"""Bytes of payload per frame: two full messages and their headers stay below MAX_FRAME."""

_LOCAL_BUFFER = 1 << 20
"""Bytes kept for a local connection that is slow to read, before the whole tunnel is held up."""


class Connection:
    """One local TCP connection in a stream."""

    def __init__(self, stream: Stream, connection_id: int, writer: asyncio.StreamWriter) -> None:
        self.stream = stream
        self.stream_id = stream.stream_id
        self.connection_id = connection_id
        self.writer = writer
        writer.transport.set_write_buffer_limits(high=_LOCAL_BUFFER)

    def message(self, type_: Type) -> TunnelMessage:
        """A message about this connection, with the ids that the source's protocol version has."""
        return TunnelMessage(type_, self.stream_id, self.stream.service_id, self.connection_id)

    def end(self) -> None:
        """Close the local connection; what was written to it is still delivered."""
        self.stream.connections.pop(self.connection_id, None)
        self.writer.close()


class Stream:
    """The stream of one service; its id grows whenever the service needs a new one."""

    def __init__(self, service_id: str) -> None:
        self.service_id = service_id
        self.stream_id = 0
        self.active = False
        self.connections: dict[int, Connection] = {}
        """The local connections that are alive, by connection id; V1 and V2 have one, of id 0."""
        self._last_connection_id = 0

    def start(self, version: int, writer: asyncio.StreamWriter) -> TunnelMessage:
        """Take in a new local connection; the message that tells the destination of it."""
        type_ = Type.CONNECTION_START
        if version < 3 or not self.active:
            type_ = Type.STREAM_START
            self.reset()
            self.stream_id += 1
            self.active = True
            self._last_connection_id = 0
        connection_id = 0
        if version == 3:
            connection_id = self._last_connection_id = self._last_connection_id + 1
        connection = self.connections[connection_id] = Connection(self, connection_id, writer)
        return connection.message(type_)

    def reset(self) -> None:
        """End the stream and all its local connections."""
        self.active = False
        for connection in list(self.connections.values()):
            connection.end()


class Source:
    """Connects and listens while it is entered as an asynchronous context manager.

    `version` 1 to 3 is the subprotocol and the form of the messages. `services` are the ids to listen
    for; None takes them from the service's SERVICE_IDS, as a tunnel that was opened with services sends
    (V2 and V3). A tunnel without services, and V1, has one service without an id: "". `ports` gives
    services fixed local ports.
    """

    def __init__(
        self,
        endpoint: str,
        ca_file: Path,
        access_token: str,
        *,
        version: int = 3,
        services: Optional[Sequence[str]] = None,
        client_token: Optional[str] = None,
        host: str = "127.0.0.1",
        ports: Optional[Mapping[str, int]] = None,
    ) -> None:
        self.ports: dict[str, int] = {}
        """The local port of each service."""
        self.stale = 0
        """Messages that belonged to no stream or connection of ours, and were dropped."""
        self._version = version
        self._services = ("",) if version == 1 else services
        self._host = host
        self._wanted_ports = ports or {}
        self._peer = RawPeer(endpoint, ca_file, access_token, version=version, client_token=client_token)
        self._streams: dict[str, Stream] = {}
        self._pumps: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.AbstractServer] = []

    async def __aenter__(self) -> Source:
        await self._peer.__aenter__()
        if self._services is None:
            message = await self._peer.receive()
            if message.type != Type.SERVICE_IDS:
                raise AssertionError(f"expected SERVICE_IDS first, got {message}")
            self._services = message.available_service_ids
        for service_id in self._services or ("",):
            self._streams[service_id] = Stream(service_id)
            await self._listen(service_id)
        self._reader = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.close()
        await self._peer.__aexit__(None, None, None)
        # A local connection that nobody reads would keep them for ever.
        tasks = [self._reader, *self._pumps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_closed(self, timeout: float = 10) -> None:
        """Until the WebSocket has ended and all local connections with it; raises TimeoutError."""
        try:
            await asyncio.wait_for(asyncio.shield(self._reader), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"the source was still connected after {timeout} s") from None

    async def _listen(self, service_id: str) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)
            try:
                with contextlib.suppress(ConnectionError, ConnectionClosed):
                    await self._pump(self._streams[service_id], reader, writer)
                writer.close()
            except asyncio.CancelledError:
                writer.transport.abort()

        port = self._wanted_ports.get(service_id, 0)
        listener = await asyncio.start_server(accepted, self._host, port, limit=_PER_FRAME)
        self._listeners.append(listener)
        self.ports[service_id] = listener.sockets[0].getsockname()[1]

    async def _pump(self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From a local connection into the tunnel."""
        start = stream.start(self._version, writer)
        connection = stream.connections[start.connection_id]
        await self._peer.send(start)
        frame = data_frame(connection.message(Type.DATA))
        while True:
            try:
                data = await reader.read(_PER_FRAME)
            except OSError:
                data = b""
            if stream.connections.get(connection.connection_id) is not connection:
                return  # the destination, or a newer connection, has ended it
            if not data:
                break
            await self._peer.send_frame(frame(data))
        connection.end()
        if self._version == 3:
            await self._peer.send(connection.message(Type.CONNECTION_RESET))
        else:
            stream.reset()
            await self._peer.send(connection.message(Type.STREAM_RESET))

    async def _read(self) -> None:
        """From the tunnel to the local connections."""
        try:
            while True:
                written = set()
                for body in await self._peer.receive_bodies():
                    writer = self._handle(TunnelMessage.parse(body))
                    if writer is not None:
                        written.add(writer)
                for writer in written:
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
        except ConnectionClosed:
            pass
        finally:
            for stream in self._streams.values():
                stream.reset()

    def _handle(self, message: TunnelMessage) -> Optional[asyncio.StreamWriter]:
        """Act on a message; the local connection that was written to, if any."""
        if message.type == Type.SESSION_RESET:
            for stream in self._streams.values():
                stream.reset()
            return None
        if message.type == Type.SERVICE_IDS:
            return None
        if message.type in (Type.STREAM_START, Type.CONNECTION_START):
            raise AssertionError(f"a source was sent {message}")
        found = self._find(message)
        if found is None:
            self.stale += 1
            return None
        stream, connection = found
        if message.type == Type.STREAM_RESET:
            stream.reset()
        elif connection is None:
            self.stale += 1
        elif message.type == Type.CONNECTION_RESET:
            connection.end()
        else:
            connection.writer.write(message.payload)
            return connection.writer
        return None

    def _find(self, message: TunnelMessage) -> Optional[tuple[Stream, Optional[Connection]]]:
        """The active stream and the connection that a message names; fields newer than ours say nothing."""
        stream = self._streams.get(message.service_id if self._version > 1 else "")
        if stream is None or not stream.active or stream.stream_id != message.stream_id:
            return None
        connection_id = (message.connection_id or 1) if self._version == 3 else 0
        return stream, stream.connections.get(connection_id)
