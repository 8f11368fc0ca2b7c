"""The IPC session: one thread that connects to the nucleus, does chores over the connection, reconnects.

Everything that waits for the nucleus runs on this thread, so the agent's main thread never does. The SDK has
a third thread, on which its callbacks run; a callback that called the nucleus or waited would hold up every
other event, so callbacks only put something into a queue.

A chore is something that has to be done once for every connection, such as a subscription. One that the
nucleus cannot do now is due again later, after a growing delay; a lost connection leaves nothing to be done
but to connect, and a new connection makes every chore due. What the chores are, ``nucleus`` knows.
"""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import os
import random
import threading
import time
from functools import partial
from typing import Any, Callable, Optional

from awscrt.exceptions import AwsCrtError
from awsiot import eventstreamrpc as rpc
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

from tunnel_agent.backoff import Backoff
from tunnel_agent.inbox import Inbox

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0  # the SDK's 10 are too few on a slow device that is starting up
_ANSWER_SECONDS = 10.0
_DESCRIPTORS = 8  # more than a connection takes
_HANG_UPS = 5  # in a row, over some seconds: no mishap any more
_LASTING_SECONDS = 60.0  # a subscription that ended after this long is opened again at once

# What an operation may raise when the nucleus cannot do it now, or not at all. An error that the SDK has no
# shape for arrives as one of its own, and what its native part cannot begin with as a RuntimeError.
FAILURES = (
    rpc.EventStreamOperationError,
    rpc.EventStreamError,
    rpc.UnmappedDataError,
    rpc.DeserializeError,
    rpc.ConnectionClosedError,
    rpc.StreamClosedError,
    AwsCrtError,
    RuntimeError,
    concurrent.futures.TimeoutError,
    OSError,
)


class Chore:
    """Something to be done for every connection, and done again after a failure.

    Args:
        what: completes "cannot ... now".
        run: does it, and raises one of ``FAILURES`` where the nucleus does not play along.
        renewed: whether it is done anew from time to time.
    """

    def __init__(self, what: str, run: Callable[[], None], renewed: bool) -> None:
        self.what = what
        self.run = run
        self.renewed = renewed
        self.due: Optional[float] = None  # monotonic seconds
        self.backoff = Backoff(0.5, 15.0)  # of failures in a row
        self.endings = Backoff(0.25, 60.0)  # of streams that the nucleus ended soon after it opened them
        self.stream: Optional[_Stream] = None  # the one that stands


class Session:
    """The connection and the thread that owns it.

    Args:
        socket_path: the nucleus's IPC socket.
        auth_token: what the nucleus knows the component by: a secret.
        chores: what to do with a connection, in this order.
        on_connected, on_disconnected: called on the session's thread.
        on_gone: called on the session's thread with the reason when there is no way to go on.
    """

    def __init__(
        self,
        socket_path: str,
        auth_token: str,
        chores: tuple[Chore, ...],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self.client: Optional[GreengrassCoreIPCClient] = None
        self.retry_seconds = 0.0  # how long a nucleus that is lost is tried to be reached; 0: not at all
        self._socket_path = socket_path
        self._auth_token = auth_token
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_gone = on_gone
        self._renew_seconds = 0.0
        self._commands: Inbox[Callable[[], None]] = Inbox()
        self._connect = Chore("connect to the nucleus", self._open_connection, renewed=False)
        self._chores = (self._connect, *chores)
        self._lifecycle: Optional[_Lifecycle] = None
        self._lost_at = time.monotonic()
        self._reconnecting = False
        self._hang_ups = 0  # of the nucleus, in a row, on a component that connects

    # From any thread.

    def start(self) -> None:
        """Start the thread, which connects."""
        self._connect.due = time.monotonic()
        threading.Thread(target=self._run, name="nucleus", daemon=True).start()

    def put(self, command: Callable[[], None]) -> None:
        """Have something done on the session's thread."""
        self._commands.put(command)

    # On the session's thread.

    def make_due(self, *chores: Chore) -> None:
        """Have these done now, if there is a connection."""
        for chore in chores:
            if self.client is not None:
                chore.due = time.monotonic()

    def renew_every(self, seconds: float) -> None:
        """Do the chores that are renewed anew after this many seconds at the latest; 0 for never."""
        if seconds == self._renew_seconds:
            return
        self._renew_seconds = seconds
        for chore in self._chores:
            if chore.stream is not None:
                chore.due = self._renewal_time()

    def call(self, operation: Any, request: Any) -> Any:
        """Perform an operation of the SDK's client and give its answer.

        Raises:
            one of ``FAILURES``: there is none; the operation is closed.
        """
        try:
            operation.activate(request)
            return operation.get_response().result(_ANSWER_SECONDS)
        except BaseException:
            operation.close()
            raise

    def open_stream(
        self, chore: Chore, new: Callable[[_Stream], Any], request: Any, deliver: Callable[[Any], None]
    ) -> None:
        """Open a chore's subscription; the one that it replaces is closed only when the new one stands.

        Args:
            new: makes the operation for a stream handler.
            deliver: gets the events, on the SDK's thread.

        Raises:
            one of ``FAILURES``: the old subscription stays.
        """
        stream = _Stream(deliver, lambda: self.put(partial(self._on_stream_closed, chore, stream)))
        stream.operation = new(stream)
        self.call(stream.operation, request)
        old, chore.stream = chore.stream, stream
        if old is not None:
            old.operation.close()

    def _run(self) -> None:
        while True:
            due = [(chore.due, index) for index, chore in enumerate(self._chores) if chore.due is not None]
            moment, index = min(due, default=(float("inf"), 0))
            command = self._commands.get(moment - time.monotonic())
            try:
                if command is not None:
                    command()
                else:
                    self._perform(self._chores[index])
            except Exception:
                logger.exception("an unexpected error in the session with the nucleus; it goes on")

    def _perform(self, chore: Chore) -> None:
        chore.due = None
        try:
            chore.run()
        except Exception as error:
            if not isinstance(error, FAILURES):
                logger.exception("an unexpected error in the session with the nucleus")
            delay = chore.backoff.next()
            # An offline device fails for days: said once, until it works again.
            level = logging.WARNING if chore.backoff.failures == 1 else logging.DEBUG
            logger.log(level, "cannot %s now, trying again: %s", chore.what, said(error))
            if self.client is not None or chore is self._connect:
                chore.due = time.monotonic() + delay
            return
        chore.backoff.reset()
        if chore.renewed:
            chore.due = self._renewal_time()

    def _renewal_time(self) -> Optional[float]:
        if not self._renew_seconds:
            return None
        return time.monotonic() + self._renew_seconds * random.uniform(0.8, 1.0)  # noqa: S311 - no secret

    def _open_connection(self) -> None:
        lifecycle = _Lifecycle(lambda reason: self.put(partial(self._on_lost, lifecycle, reason)))
        self._free_former()
        try:
            _require_descriptors()
            client = connect(
                ipc_socket=self._socket_path,
                authtoken=self._auth_token,
                lifecycle_handler=lifecycle,
                timeout=_CONNECT_SECONDS,
            )
        except rpc.AccessDeniedError:
            # A nucleus that was started anew knows only the tokens that it gave out since.
            self._on_gone("the nucleus refuses this component's token (the variable SVCUID)")
            return
        except FAILURES as error:
            hung_up = getattr(error, "name", "") == "AWS_IO_SOCKET_CLOSED"
            self._hang_ups = self._hang_ups + 1 if hung_up else 0
            if self._hang_ups == 1:
                self._connect.backoff.reset()  # it is back, so do not wait any longer to be sure
            if time.monotonic() - self._lost_at < self.retry_seconds and self._hang_ups < _HANG_UPS:
                raise
            self._on_gone(
                "the nucleus hangs up, as lite does on a token (the variable SVCUID) that it does not know"
                if hung_up
                else f"the nucleus cannot be reached at {self._socket_path} (the variable "
                f"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT): {said(error)}"
            )
            return
        self._hang_ups = 0
        self.client = client
        self._lifecycle = lifecycle
        self._free_former()
        logger.info("connected to the nucleus")
        self._on_connected()

    def _free_former(self) -> None:
        # Each connection of the SDK has a thread and descriptors of its own, and is part of a cycle.
        if self._reconnecting:
            gc.collect()

    def _on_lost(self, lifecycle: _Lifecycle, reason: Optional[Exception]) -> None:
        if lifecycle is not self._lifecycle:
            return  # of an attempt that was given up
        logger.warning("the connection to the nucleus is lost (%s); live tunnels go on", said(reason))
        self.client = self._lifecycle = None
        self._reconnecting = True
        self._lost_at = time.monotonic()
        for chore in self._chores:
            chore.due = chore.stream = None
            chore.backoff.reset()
        self._connect.due = time.monotonic()
        self._on_disconnected()

    def _on_stream_closed(self, chore: Chore, stream: _Stream) -> None:
        if chore.stream is not stream:
            return  # it was replaced, or the whole connection is gone
        chore.stream = None
        if time.monotonic() - stream.opened > _LASTING_SECONDS:
            chore.endings.reset()
        chore.due = time.monotonic() + chore.endings.next()
        logger.warning("the nucleus ended a subscription; trying again to %s", chore.what)


class _Lifecycle(rpc.LifecycleHandler):  # type: ignore[misc]
    """Tells when the connection is lost."""

    def __init__(self, on_lost: Callable[[Optional[Exception]], None]) -> None:
        self._on_lost = on_lost

    def on_disconnect(self, reason: Optional[Exception]) -> None:
        self._on_lost(reason)


class _Stream(rpc.StreamResponseHandler):  # type: ignore[misc]
    """Hands the events of one subscription on."""

    def __init__(self, deliver: Callable[[Any], None], on_closed: Callable[[], None]) -> None:
        self.opened = time.monotonic()
        self.operation: Any = None
        self._deliver = deliver
        self._on_closed = on_closed

    def on_stream_event(self, event: Any) -> None:
        self._deliver(event)

    def on_stream_error(self, error: Exception) -> bool:
        # One event that cannot be read is no reason to give up the subscription. Only the kind of the error
        # is logged: its text quotes the payload.
        logger.warning("the nucleus sent something that cannot be read (%s)", type(error).__name__)
        return False

    def on_stream_closed(self) -> None:
        self._on_closed()


def _require_descriptors() -> None:
    """Raise the OSError that the SDK would crash the whole process with."""
    taken: list[int] = []
    try:
        while len(taken) < _DESCRIPTORS:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in taken:
            os.close(descriptor)


def said(error: Optional[BaseException]) -> str:
    """An error as one short text; the nucleus often gives no message at all."""
    if error is None:
        return "closed"
    message = getattr(error, "message", None) or str(error)
    return f"{type(error).__name__} {message}".strip()
