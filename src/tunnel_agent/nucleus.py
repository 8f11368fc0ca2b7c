"""The IPC session with the nucleus: connect, read, subscribe, renew, reconnect.

Everything that waits for the nucleus runs on one thread of its own, so the agent's main thread never does.
The SDK has a third thread, on which its callbacks run; a callback that called the nucleus or waited would
hold up every other event, so callbacks only post.

What has to be done is a handful of chores, each with the time at which it is due. A chore that the nucleus
cannot do now is due again later, after a growing delay; a lost connection leaves one chore, to connect, and a
new one makes all the others due.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable, Optional

from awscrt.exceptions import AwsCrtError
from awsiot import eventstreamrpc as rpc
from awsiot.greengrasscoreipc import connect, model
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

from tunnel_agent.backoff import Backoff
from tunnel_agent.events import (
    ConfigurationChanged,
    ConfigurationRead,
    ConfigurationUnread,
    Event,
    NotificationArrived,
    NucleusLost,
    UpdateOver,
    UpdatePlanned,
)

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0  # the SDK's 10 are too few on a slow device that is starting up
_ANSWER_SECONDS = 10.0
_COMPONENT = "com.javatask.iot-tunnel-agent"
_LASTING_SECONDS = 60.0  # a subscription that ended after this long is opened again at once
_MAX_UNSENT = 200

# What an operation may raise when the nucleus cannot do it now, or not at all. An error that the SDK has no
# shape for arrives as one of its own.
_FAILURES = (
    rpc.EventStreamOperationError,
    rpc.UnmappedDataError,
    rpc.DeserializeError,
    rpc.ConnectionClosedError,
    rpc.StreamClosedError,
    rpc.EventStreamError,
    AwsCrtError,
    concurrent.futures.TimeoutError,
    OSError,
)


class _Chore:
    """Something to be done, and done again after a failure."""

    def __init__(self, what: str, run: Callable[[], None], renewed: bool) -> None:
        self.what = what
        self.run = run
        self.renewed = renewed
        self.due: Optional[float] = None  # monotonic seconds
        self.backoff = Backoff(0.5, 15.0)  # of failures in a row
        self.endings = Backoff(0.25, 60.0)  # of streams that the nucleus ended soon after it opened them


class Nucleus:
    """The session. Its public methods may be called from any thread and never wait, but for ``finish``.

    Args:
        socket_path: the nucleus's IPC socket.
        auth_token: what the nucleus knows the component by: a secret.
        thing: the name of this device's AWS IoT thing.
        post: gets the events.
    """

    def __init__(self, socket_path: str, auth_token: str, thing: str, post: Callable[[Event], None]) -> None:
        self._socket_path = socket_path
        self._auth_token = auth_token
        self._topic = f"$aws/things/{thing}/tunnels/notify"
        self._post = post
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._client: Optional[GreengrassCoreIPCClient] = None
        self._component = _COMPONENT
        self._subscriptions: dict[str, Any] = {}  # the current operation by its chore's name
        self._unsent: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=_MAX_UNSENT)
        self._publish_refused = False
        self._retry_seconds = 0.0  # until the configuration is known a lost nucleus is final
        self._renew_seconds = 0.0
        self._lost_at = 0.0
        self._was_subscribed = False
        self._wanted = False  # whether the agent is ready for notifications
        self._connect = _Chore("connect", self._open_connection, renewed=False)
        self._read = _Chore("read the configuration", self._read_configuration, renewed=False)
        self._watch = _Chore("watch the configuration", self._subscribe_configuration, renewed=True)
        self._updates = _Chore("watch for deployments", self._subscribe_updates, renewed=True)
        self._notify = _Chore(f"subscribe to {self._topic}", self._subscribe_notifications, renewed=True)
        self._chores = (self._connect, self._read, self._notify, self._watch, self._updates)

    def start(self) -> None:
        """Begin: connect and read the configuration."""
        self._connect.due = time.monotonic()
        threading.Thread(target=self._run, name="nucleus", daemon=True).start()

    def read_configuration(self) -> None:
        """Read the configuration; it arrives as an event."""
        self._commands.put(self._on_read)

    def subscribe(self, renew_seconds: float, retry_seconds: float) -> None:
        """Subscribe to notifications; later calls change the two times.

        Args:
            renew_seconds: after this long at the latest every subscription is opened anew; 0 for never.
            retry_seconds: how long a lost nucleus is tried to be reached again.
        """
        self._commands.put(partial(self._on_settings, renew_seconds, retry_seconds))

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        """Publish a JSON object to a local topic."""
        self._commands.put(partial(self._on_publish, topic, message))

    def answer_update(self, deployment: str, recheck_milliseconds: int) -> None:
        """Let a deployment go on (0) or ask again later."""
        self._commands.put(partial(self._on_answer_update, deployment, recheck_milliseconds))

    def finish(self, timeout: float) -> None:
        """Wait until everything asked for so far is done, at most ``timeout`` seconds."""
        done = threading.Event()
        self._commands.put(done.set)
        done.wait(timeout)

    # The session's thread.

    def _run(self) -> None:
        while True:
            chore = min(
                (chore for chore in self._chores if chore.due is not None),
                key=lambda chore: chore.due or 0.0,
                default=None,
            )
            try:
                wait = None if chore is None or chore.due is None else max(0.0, chore.due - time.monotonic())
                self._commands.get(timeout=wait)()
            except queue.Empty:
                if chore is not None:
                    self._perform(chore)
            except Exception:
                logger.exception("an unexpected error in the session with the nucleus; it goes on")

    def _perform(self, chore: _Chore) -> None:
        chore.due = None
        try:
            chore.run()
        except _FAILURES as error:
            delay = chore.backoff.next()
            # An offline device fails for days: said once, until it works again.
            level = logging.WARNING if chore.backoff.failures == 1 else logging.DEBUG
            logger.log(level, "cannot %s now, trying again: %s", chore.what, _said(error))
            if self._client is not None or chore is self._connect:
                chore.due = time.monotonic() + delay
            return
        chore.backoff.reset()
        if chore.renewed and self._renew_seconds and chore.due is None:
            chore.due = self._renewal_time()

    def _renewal_time(self) -> float:
        return time.monotonic() + self._renew_seconds * random.uniform(0.8, 1.0)  # noqa: S311 - no secret

    def _make_due(self, chore: _Chore) -> None:
        if self._client is not None:
            chore.due = time.monotonic()

    # Connection.

    def _open_connection(self) -> None:
        lifecycle = _Lifecycle(
            lambda reason: self._commands.put(partial(self._on_disconnect, lifecycle, reason))
        )
        try:
            client = connect(
                ipc_socket=self._socket_path,
                authtoken=self._auth_token,
                lifecycle_handler=lifecycle,
                timeout=_CONNECT_SECONDS,
            )
        except rpc.AccessDeniedError:
            # A nucleus that was started anew knows only the tokens that it gave out since.
            self._post(NucleusLost("the nucleus refuses this component's token in SVCUID"))
            return
        except _FAILURES as error:
            if time.monotonic() - self._lost_at >= self._retry_seconds:
                self._post(
                    NucleusLost(
                        f"the nucleus cannot be reached at {self._socket_path} (the variable "
                        f"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT): {_said(error)}"
                    )
                )
                return
            raise
        self._client = client
        self._lifecycle = lifecycle
        logger.info("connected to the nucleus")
        self._make_due(self._read)
        if self._wanted:
            for chore in (self._notify, self._watch, self._updates):
                self._make_due(chore)
        unsent, self._unsent = self._unsent, deque(maxlen=_MAX_UNSENT)
        for topic, message in unsent:
            self._on_publish(topic, message)

    def _on_disconnect(self, lifecycle: _Lifecycle, reason: Optional[Exception]) -> None:
        if self._client is None or lifecycle is not self._lifecycle:
            return
        logger.warning("the connection to the nucleus is lost (%s); live tunnels go on", _said(reason))
        self._client = None
        self._subscriptions.clear()
        self._lost_at = time.monotonic()
        for chore in self._chores:
            chore.due = None
            chore.backoff.reset()
        self._connect.due = time.monotonic()
        self._post(ConfigurationUnread())  # in case that it was being read

    def _call(self, operation: Any, request: Any) -> Any:
        """Perform an operation and wait for its answer; it is closed again if there is none."""
        try:
            operation.activate(request)
            return operation.get_response().result(_ANSWER_SECONDS)
        except BaseException:
            operation.close()
            raise

    # Configuration.

    def _on_read(self) -> None:
        if self._client is None:
            self._post(ConfigurationUnread())
        self._make_due(self._read)

    def _read_configuration(self) -> None:
        assert self._client is not None
        try:
            answer = self._call(self._client.new_get_configuration(), model.GetConfigurationRequest())
        except model.ResourceNotFoundError:
            self._post(ConfigurationRead(None))
            return
        except _FAILURES:
            self._post(ConfigurationUnread())
            raise
        self._component = answer.component_name or _COMPONENT
        self._post(ConfigurationRead(answer.value))

    def _subscribe_configuration(self) -> None:
        # Nucleus lite takes a missing component name for every component's.
        request = model.SubscribeToConfigurationUpdateRequest(component_name=self._component)
        self._open_stream(
            self._watch, "new_subscribe_to_configuration_update", request, self._on_configuration
        )
        # What changed while nobody watched.
        self._make_due(self._read)

    def _on_configuration(self, _: model.ConfigurationUpdateEvents) -> None:
        self._post(ConfigurationChanged())

    # Notifications.

    def _on_settings(self, renew_seconds: float, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        if not self._wanted:
            self._wanted = True
            for chore in (self._notify, self._watch, self._updates):
                self._make_due(chore)
        elif renew_seconds != self._renew_seconds:
            for chore in self._chores:
                # Not those that failed: they are due sooner.
                if chore.renewed and self._client is not None and not chore.backoff.failures:
                    chore.due = self._renewal_time() if renew_seconds else None
        self._renew_seconds = renew_seconds

    def _subscribe_notifications(self) -> None:
        request = model.SubscribeToIoTCoreRequest(topic_name=self._topic, qos=model.QOS.AT_LEAST_ONCE)
        try:
            self._open_stream(self._notify, "new_subscribe_to_iot_core", request, self._on_message)
        except model.UnauthorizedError:
            mend = (
                f"the nucleus does not allow to subscribe to {self._topic}: aws.greengrass.ipc.mqttproxy in "
                "the configuration key accessControl must allow aws.greengrass#SubscribeToIoTCore on it"
            )
            if not self._was_subscribed:
                self._post(NucleusLost(mend))
                return
            logger.error("%s", mend)
            raise
        self._was_subscribed = True
        logger.info("subscribed to %s", self._topic)

    def _on_message(self, event: model.IoTCoreMessage) -> None:
        if event.message is not None:
            self._post(NotificationArrived(event.message.payload or b""))

    # Deployments.

    def _subscribe_updates(self) -> None:
        try:
            self._open_stream(
                self._updates,
                "new_subscribe_to_component_updates",
                model.SubscribeToComponentUpdatesRequest(),
                self._on_update,
            )
        except _FAILURES as error:
            if self._client is not None:
                logger.debug("this nucleus does not ask before deployments: %s", _said(error))

    def _on_update(self, event: model.ComponentUpdatePolicyEvents) -> None:
        if event.pre_update_event is not None:
            self._post(UpdatePlanned(event.pre_update_event.deployment_id or ""))
        elif event.post_update_event is not None:
            self._post(UpdateOver())

    def _on_answer_update(self, deployment: str, recheck_milliseconds: int) -> None:
        if self._client is None:
            return
        request = model.DeferComponentUpdateRequest(
            deployment_id=deployment, recheck_after_ms=recheck_milliseconds, message="tunnels are open"
        )
        try:
            self._call(self._client.new_defer_component_update(), request)
        except _FAILURES as error:
            logger.warning("the nucleus did not take the answer about a deployment: %s", _said(error))

    # Status events.

    def _on_publish(self, topic: str, message: Mapping[str, Any]) -> None:
        if self._client is None:
            self._unsent.append((topic, message))
            return
        request = model.PublishToTopicRequest(
            topic=topic, publish_message=model.PublishMessage(json_message=model.JsonMessage(message=message))
        )
        try:
            self._call(self._client.new_publish_to_topic(), request)
        except _FAILURES as error:
            refused = isinstance(error, model.UnauthorizedError) and not self._publish_refused
            if refused:
                self._publish_refused = True
                logger.warning(
                    "no status events: aws.greengrass.ipc.pubsub in the configuration key accessControl must "
                    "allow aws.greengrass#PublishToTopic on %s",
                    topic,
                )
            else:
                logger.debug("a status event was not published: %s", _said(error))

    # Streams.

    def _open_stream(self, chore: _Chore, new: str, request: Any, deliver: Callable[[Any], None]) -> None:
        """Open a subscription; the one that it takes the place of is closed only when the new one stands."""
        stream = _Stream(deliver, lambda: self._commands.put(partial(self._on_stream_closed, chore, stream)))
        operation = getattr(self._client, new)(stream)
        self._call(operation, request)
        old = self._subscriptions.get(chore.what)
        self._subscriptions[chore.what] = (stream, operation)
        if old is not None:
            old[1].close()

    def _on_stream_closed(self, chore: _Chore, stream: _Stream) -> None:
        current = self._subscriptions.get(chore.what)
        if current is None or current[0] is not stream:
            return  # it was replaced, or the whole connection is gone
        del self._subscriptions[chore.what]
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


def _said(error: Optional[BaseException]) -> str:
    """An error as one short text; the nucleus often gives no message at all."""
    if error is None:
        return "closed"
    message = getattr(error, "message", None) or str(error)
    return f"{type(error).__name__} {message}".strip()
