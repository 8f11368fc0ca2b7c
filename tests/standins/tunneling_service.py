"""A local stand-in for the data plane of AWS IoT secure tunneling: a TLS WebSocket server.

    async with TunnelingService(directory) as service:
        tunnel = await service.open_tunnel(["SSH"])
        # localproxy -e {service.endpoint} -c {service.ca_directory} -t {tunnel.destination.token.text} ...
        await tunnel.destination.wait_connected()

It lets in whom AWS lets in, relays between the two sides with backpressure, hangs up on what the
protocol forbids, and can be told to misbehave: see TunnelingService.refuse_next, Side.cut, Side.pause,
Side.send_frame. From synchronous code it is driven with standins.loop_thread.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Optional

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from standins import freed_memory
from standins.changes import Changes
from standins.tunnel import Handshake, Side, Tunnel
from standins.tunnel_certificates import Certificates
from standins.tunnel_handshake import MODES, SUBPROTOCOLS, RefusedError, read_credentials
from standins.tunnel_message import MAX_FRAME

_QUIET = logging.getLogger("standins.tunneling_service")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class TunnelingService:
    """The service; an asynchronous context manager that listens while it is entered.

    `directory` gets its certificates. It listens on every address of `hosts`, on one port for all;
    port 0 chooses a free one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        hosts: Sequence[str] = ("127.0.0.1",),
        port: int = 0,
        region: str = "eu-central-1",
    ) -> None:
        self.handshakes: list[Handshake] = []
        """Every attempt to connect, in order."""
        self.tunnels: list[Tunnel] = []
        self.port = port
        self._hosts = hosts
        self._region = region
        self._certificates = Certificates(directory)
        self._changes = Changes()
        self._refusals: list[tuple[int, str, Headers]] = []
        self._admitted: dict[ServerConnection, tuple[Tunnel, Side, Handshake]] = {}
        self._servers: list[Server] = []

    @property
    def endpoint(self) -> str:
        """`host:port`, as for localproxy's --proxy-endpoint."""
        return f"localhost:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The certificate authority, in PEM."""
        return self._certificates.ca_file

    @property
    def ca_directory(self) -> Path:
        """The same in a hashed directory, as for localproxy's --capath."""
        return self._certificates.ca_directory

    async def __aenter__(self) -> TunnelingService:
        freed_memory.keep()
        for host in self._hosts:
            server = await serve(
                self._serve,
                host,
                self.port,
                ssl=self._certificates.server_context,
                subprotocols=[Subprotocol(name) for name in SUBPROTOCOLS],
                process_request=self._process_request,
                process_response=self._process_response,
                compression=None,
                ping_interval=None,  # the service does not normally ping
                max_size=MAX_FRAME,
                max_queue=4,
                write_limit=2 * MAX_FRAME,
                close_timeout=1,
                logger=_QUIET,
            )
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return self

    async def __aexit__(self, *_: object) -> None:
        for tunnel in self.tunnels:
            await tunnel.close()
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def open_tunnel(self, services: Sequence[str] = ()) -> Tunnel:
        """A new tunnel, for these service ids or for none."""
        tunnel = Tunnel(services, self._region)
        self.tunnels.append(tunnel)
        return tunnel

    async def refuse_next(
        self, count: int = 1, status: int = 500, text: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer the next `count` handshakes with this HTTP status, whatever they show."""
        refusal = (status, text or HTTPStatus(status).phrase, Headers(headers))
        self._refusals += [refusal] * count

    async def wait_handshakes(self, count: int, timeout: float = 10) -> None:
        """Until there were `count` handshakes in all, refused ones too; raises TimeoutError."""
        await self._changes.within(timeout, lambda: len(self.handshakes) >= count, f"{count} handshakes")

    def _process_request(self, connection: ServerConnection, request: Request) -> Optional[Response]:
        handshake = Handshake(request.path, list(request.headers.raw_items()), secrets.token_hex(16))
        self.handshakes.append(handshake)
        self._changes.tell()
        extra = Headers()
        try:
            if self._refusals:
                status, text, extra = self._refusals.pop(0)
                raise RefusedError(status, text)
            tunnel, side = self._admit(request)
        except RefusedError as refused:
            handshake.status, handshake.refusal = refused.status, refused.text
            response = connection.respond(refused.status, refused.text)
            response.headers["channel-id"] = handshake.channel_id
            for name, value in extra.raw_items():
                response.headers[name] = value
            return response
        handshake.tunnel_id = tunnel.tunnel_id
        self._admitted[connection] = tunnel, side, handshake
        return None

    def _admit(self, request: Request) -> tuple[Tunnel, Side]:
        shown = read_credentials(request.path, request.headers.raw_items())
        for tunnel in self.tunnels:
            for mode in MODES:
                side = tunnel.side(mode)
                if side.token.text == shown.access_token:
                    if mode != shown.mode:
                        raise RefusedError(403, f"Invalid access token: it is for the mode {mode}")
                    tunnel.admit(mode, shown.client_token)
                    return tunnel, side
        raise RefusedError(403, "Invalid access token: it is not known, or was revoked")

    def _process_response(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Optional[Response]:
        admitted = self._admitted.get(connection)
        if admitted is None:
            return None
        _, side, handshake = admitted
        handshake.status = response.status_code
        response.headers["channel-id"] = handshake.channel_id
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            side.token.spend(read_credentials(request.path, request.headers.raw_items()).client_token)
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        tunnel, side, handshake = self._admitted.pop(connection)
        with contextlib.suppress(ConnectionClosed):  # gone before it was greeted
            await tunnel.serve(side, connection, handshake)
