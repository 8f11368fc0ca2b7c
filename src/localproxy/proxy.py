"""The life around a tunnel connection: connect, serve, come back, give up; and the exit code.

What lives here: the order of the handshakes, what is tried again and what is final. What must not: bytes
of the tunnel (session), how a socket comes to stand (dial, channel).

What is final: a refusal by the service (4xx; 3xx too, for following it would carry the token elsewhere),
a missing destination, a close by the service, the loss of a connection whose access token is spent
because no client token came with it. Everything else is tried again, with exponential backoff and jitter,
for as long as the process lives: a device that is offline is no error.
"""

from __future__ import annotations

import os
import time

from . import VERSION
from .channel import Channel
from .dial import connect_host
from .loop import Outcome, sleep
from .session import CLOSED, LOST, STOPPED, Session
from .tls import client_context
from .upgrade import (
    Answer,
    AnswerError,
    AnswerReader,
    check_upgrade,
    connect_request,
    new_key,
    upgrade_request,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .command_line import Settings
    from .log import Log
    from .loop import Loop, Task

HANDSHAKE_PATIENCE = 30.0
"""Seconds for name, proxy, TCP, TLS and upgrade together."""

BODY_PATIENCE = 3.0
"""Seconds for the rest of a refusal whose head has come."""

FIRST_DELAY, LAST_DELAY = 1.0, 60.0
STEADY = 20.0
"""Seconds after which a connection counts as having worked, so that the backoff begins anew."""

DRAIN_PATIENCE = {CLOSED: 30.0, LOST: 3.0, STOPPED: 0.0}
"""Seconds for local services to take what was under way. Without a tunnel nobody waits for them but
themselves; before a reconnect and on request somebody does."""

SUCCESS, FAILURE = 0, 1


class RefusedError(Exception):
    """The service answered the upgrade with a status that is final."""


class Proxy:
    """The destination side of one tunnel."""

    def __init__(self, loop: Loop, log: Log, settings: Settings) -> None:
        self._loop = loop
        self._log = log
        self._settings = settings
        self._session: Session | None = None
        self._life: Task | None = None
        self._over = Outcome()

    async def run(self) -> int:
        """Serve the tunnel until it is over; the process's exit code. Raises OSError (ssl.SSLError) for
        certificates that cannot be read."""
        self._log.info(f"Running AWS IoT Secure Tunneling Local Proxy version: {VERSION}")
        if not self._settings.verify:
            self._log.warning("*" * 70)
            self._log.warning("SECURITY WARNING: certificates are NOT verified (-k, --no-ssl-host-verify).")
            self._log.warning("Anybody on the way can read and change this tunnel and take its token.")
            self._log.warning("*" * 70)
        self._context = client_context(self._settings.capath, self._settings.verify)
        self._life = self._loop.spawn(self._live(), self._over.settle)
        code: int = await self._over.settled()
        return code

    def stop(self) -> None:
        """End soon, on request: everything is closed when `run` returns."""
        if self._session:
            self._session.stop()
        else:
            if self._life:
                self._life.cancel()
            self._over.settle(SUCCESS)

    async def _live(self) -> int:
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            try:
                channel, answer = await self._open()
            except RefusedError as refused:
                self._log.error(f"Proxy server rejected web socket upgrade request: {refused}")
                return FAILURE
            except (OSError, AnswerError) as error:
                self._log.error(f"Could not connect to {self._settings.endpoint}: {_reason(error)}")
            else:
                self._log.info(
                    f"Successfully established websocket connection with proxy server: wss://{self._settings.endpoint}"
                )
                code = await self._serve(channel, answer.rest)
                if code is not None:
                    return code
                if time.monotonic() - started >= STEADY:
                    delay = FIRST_DELAY
            await self._pause(delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _pause(self, delay: float) -> None:
        """Between half of the delay and all of it, so that many devices do not come back at once."""
        seconds = delay * (0.5 + int.from_bytes(os.urandom(2), "big") / 0x20000)
        self._log.info(f"Trying again in {seconds:.1f} s")
        await sleep(self._loop, seconds)

    async def _serve(self, channel: Channel, first: bytes) -> int | None:
        """One tunnel connection; the exit code, or None to connect again."""
        session = self._session = Session(self._loop, self._log, channel, self._settings)
        end = await session.run(first)
        await session.drain(DRAIN_PATIENCE.get(end.kind, 0.0))
        self._session = None
        if end.kind == CLOSED:
            self._log.info(f"The service closed the tunnel connection ({end.text})")
            return SUCCESS
        if end.kind == STOPPED:
            return SUCCESS
        if end.kind == LOST and self._settings.client_token:
            self._log.warning(f"Lost the tunnel connection: {end.text}")
            return None
        if end.kind == LOST:
            self._log.error(
                f"Lost the tunnel connection: {end.text}; its access token is spent, and without a"
                " client token (--client-token) it cannot be used again"
            )
        else:
            self._log.fatal(end.text)
        return FAILURE

    async def _open(self) -> tuple[Channel, Answer]:
        """A tunnel connection up to and including its upgrade. Raises OSError, AnswerError, Refused."""
        settings = self._settings
        deadline = time.monotonic() + HANDSHAKE_PATIENCE
        via = settings.web_proxy
        host, port = (via.host, via.port) if via else (settings.host, settings.port)
        sock = await connect_host(self._loop, host, port, deadline)
        channel = Channel(self._loop, sock)
        try:
            if via:
                if via.tls:
                    await channel.start_tls(self._context, via.host, deadline)
                request = connect_request(settings.host, settings.port, via.credentials)
                answer = await self._ask(channel, request, 200, deadline)
                if answer.status != 200:
                    raise AnswerError(f"the web proxy {via.host}:{via.port} answered {_shown(answer)}")
                if answer.rest:
                    raise AnswerError(f"the web proxy {via.host}:{via.port} sent more than its answer")
            agreed = await channel.start_tls(self._context, settings.host, deadline)
            self._log.debug(f"Connected to {settings.endpoint} ({agreed})")
            return channel, await self._upgrade(channel, deadline)
        except BaseException:
            channel.close()
            raise

    async def _upgrade(self, channel: Channel, deadline: float) -> Answer:
        settings = self._settings
        key = new_key()
        request = upgrade_request(
            settings.host, settings.port, key, settings.access_token, settings.client_token
        )
        answer = await self._ask(channel, request, 101, deadline)
        channel_id = answer.headers.get("channel-id", "none")
        self._log.info(f"Web socket session ID: {channel_id}")
        if answer.status == 101:
            check_upgrade(answer, key)
            self._log.debug(f"Web socket subprotocol selected: {answer.headers['sec-websocket-protocol']}")
            return answer
        if answer.status >= 500:
            raise AnswerError(f"the service answered {_shown(answer)}")
        raise RefusedError(_shown(answer))

    async def _ask(self, channel: Channel, request: bytes, expected: int, deadline: float) -> Answer:
        """Send a request and read its answer; the body of an unexpected one as far as it comes."""
        await channel.send(request, deadline)
        reader = AnswerReader(status_without_body=expected)
        answer: Answer | None = None
        while answer is None:
            try:
                data = await channel.receive(deadline)
            except OSError:
                answer = reader.give_up()
                if answer is None:
                    raise
                return answer
            if data:
                answer = reader.feed(data)
                if reader.is_known:
                    deadline = min(deadline, time.monotonic() + BODY_PATIENCE)
            else:
                answer = reader.give_up()
                if answer is None:
                    raise AnswerError("the connection was closed before an HTTP answer was complete")
        return answer


def _shown(answer: Answer) -> str:
    """A refusal as the C++ localproxy shows it: (status line) "body"."""
    body = answer.body.decode(errors="replace").strip()
    return f'({answer}) "{body}"'


def _reason(error: Exception) -> str:
    """One line about why; the certificate errors of OpenSSL name themselves in verify_message."""
    verify = getattr(error, "verify_message", None)
    if verify:
        return f"the certificate is not trusted: {verify}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
