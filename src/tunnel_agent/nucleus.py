"""What the component wants from the nucleus: its configuration, the notifications, a word before deployments,
status events out.

The session's thread does all of it; what the nucleus sends becomes an event for the agent.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable

from awsiot import eventstreamrpc as rpc
from awsiot.greengrasscoreipc import model

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
from tunnel_agent.session import FAILURES, Chore, Session, said

logger = logging.getLogger(__name__)

_COMPONENT = "com.javatask.iot-tunnel-agent"
_MAX_UNSENT = 200  # status events that wait for the next connection, or for an answer


class Nucleus:
    """Public methods may be called from any thread and never wait, but for ``finish``.

    Args:
        socket_path: the nucleus's IPC socket.
        auth_token: what the nucleus knows the component by: a secret.
        thing: the name of this device's AWS IoT thing.
        post: gets the events.
    """

    def __init__(self, socket_path: str, auth_token: str, thing: str, post: Callable[[Event], None]) -> None:
        self._topic = f"$aws/things/{thing}/tunnels/notify"
        self._post = post
        # No variable tells the component's name; GetConfiguration's answer does.
        self._component = _COMPONENT
        self._wanted = False  # whether the agent can take notifications
        self._was_subscribed = False
        self._unsent: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=_MAX_UNSENT)
        self._unanswered: set[concurrent.futures.Future[Any]] = set()
        self._publishing_refused = False
        self._read = Chore("read the configuration", self._read_configuration, renewed=False)
        self._notify = Chore(f"subscribe to {self._topic}", self._subscribe_notifications, renewed=True)
        self._watch = Chore("watch the configuration", self._subscribe_configuration, renewed=True)
        self._updates = Chore("watch for deployments", self._subscribe_updates, renewed=True)
        self._session = Session(
            socket_path,
            auth_token,
            (self._read, self._notify, self._watch, self._updates),
            self._on_connected,
            # In case that the configuration was being read.
            lambda: post(ConfigurationUnread()),
            lambda reason: post(NucleusLost(reason)),
        )

    def start(self) -> None:
        """Begin: connect and read the configuration."""
        self._session.start()

    def read_configuration(self) -> None:
        """Read the configuration; it arrives as an event."""
        self._session.put(self._on_read)

    def subscribe(self, renew_seconds: float, retry_seconds: float) -> None:
        """Subscribe to notifications; later calls change the two times.

        Args:
            renew_seconds: after this long at the latest every subscription is opened anew; 0 for never.
            retry_seconds: how long a lost nucleus is tried to be reached again.
        """
        self._session.put(partial(self._on_settings, renew_seconds, retry_seconds))

    def publish(self, topic: str, message: Mapping[str, Any]) -> None:
        """Publish a JSON object to a local topic."""
        self._session.put(partial(self._on_publish, topic, message))

    def answer_update(self, deployment: str, recheck_milliseconds: int) -> None:
        """Let a deployment go on (0) or ask again later."""
        self._session.put(partial(self._on_answer_update, deployment, recheck_milliseconds))

    def finish(self, timeout: float) -> None:
        """Wait until everything asked for so far is done and answered, at most ``timeout`` seconds."""
        done = threading.Event()

        def finish() -> None:
            concurrent.futures.wait(self._unanswered, timeout)
            done.set()

        self._session.put(finish)
        done.wait(timeout)

    # On the session's thread.

    def _on_connected(self) -> None:
        self._session.make_due(self._read)
        if self._wanted:
            self._session.make_due(self._notify, self._watch, self._updates)
        unsent, self._unsent = self._unsent, deque(maxlen=_MAX_UNSENT)
        for topic, message in unsent:
            self._on_publish(topic, message)

    def _on_settings(self, renew_seconds: float, retry_seconds: float) -> None:
        self._session.retry_seconds = retry_seconds
        self._session.renew_every(renew_seconds)
        if not self._wanted:
            self._wanted = True
            self._session.make_due(self._notify, self._watch, self._updates)

    def _on_read(self) -> None:
        if self._session.client is None:
            self._post(ConfigurationUnread())
        self._session.make_due(self._read)

    def _read_configuration(self) -> None:
        assert self._session.client is not None
        try:
            operation = self._session.client.new_get_configuration()
            answer = self._session.call(operation, model.GetConfigurationRequest())
        except model.ResourceNotFoundError:
            self._post(ConfigurationRead(None))
            return
        except FAILURES:
            self._post(ConfigurationUnread())
            raise
        self._component = answer.component_name or _COMPONENT
        self._post(ConfigurationRead(answer.value))

    def _subscribe_configuration(self) -> None:
        assert self._session.client is not None
        self._session.open_stream(
            self._watch,
            self._session.client.new_subscribe_to_configuration_update,
            # Nucleus lite takes a missing component name for every component's.
            model.SubscribeToConfigurationUpdateRequest(component_name=self._component),
            lambda _: self._post(ConfigurationChanged()),
        )
        # What changed while nobody watched.
        self._session.make_due(self._read)

    def _subscribe_notifications(self) -> None:
        assert self._session.client is not None
        try:
            self._session.open_stream(
                self._notify,
                self._session.client.new_subscribe_to_iot_core,
                model.SubscribeToIoTCoreRequest(topic_name=self._topic, qos=model.QOS.AT_LEAST_ONCE),
                self._on_message,
            )
        except model.UnauthorizedError:
            mend = (
                f"the nucleus does not allow to subscribe to {self._topic}: aws.greengrass.ipc.mqttproxy in "
                "the configuration key accessControl must allow aws.greengrass#SubscribeToIoTCore on it"
            )
            if not self._was_subscribed:
                self._post(NucleusLost(mend))
                return
            # Tunnels may be live, and the next deployment may mend it.
            logger.error("%s", mend)
            raise
        self._was_subscribed = True
        logger.info("subscribed to %s", self._topic)

    def _on_message(self, event: model.IoTCoreMessage) -> None:
        if event.message is not None:
            self._post(NotificationArrived(event.message.payload or b""))

    def _subscribe_updates(self) -> None:
        assert self._session.client is not None
        try:
            self._session.open_stream(
                self._updates,
                self._session.client.new_subscribe_to_component_updates,
                model.SubscribeToComponentUpdatesRequest(),
                self._on_update,
            )
        except FAILURES as error:
            logger.debug("this nucleus does not ask before deployments: %s", said(error))

    def _on_update(self, event: model.ComponentUpdatePolicyEvents) -> None:
        if event.pre_update_event is not None:
            self._post(UpdatePlanned(event.pre_update_event.deployment_id or ""))
        elif event.post_update_event is not None:
            self._post(UpdateOver())

    def _on_answer_update(self, deployment: str, recheck_milliseconds: int) -> None:
        if self._session.client is None:
            return  # the nucleus that asked is gone
        request = model.DeferComponentUpdateRequest(
            deployment_id=deployment, recheck_after_ms=recheck_milliseconds, message="tunnels are open"
        )
        try:
            self._session.call(self._session.client.new_defer_component_update(), request)
        except FAILURES as error:
            logger.warning("the nucleus did not take the answer about a deployment: %s", said(error))

    def _on_publish(self, topic: str, message: Mapping[str, Any]) -> None:
        if self._session.client is None:
            self._unsent.append((topic, message))
            return
        request = model.PublishToTopicRequest(
            topic=topic, publish_message=model.PublishMessage(json_message=model.JsonMessage(message=message))
        )
        self._unanswered = {answer for answer in self._unanswered if not answer.done()}
        if len(self._unanswered) >= _MAX_UNSENT:
            logger.debug("a status event was not published: the nucleus does not answer")
            return
        client = self._session.client
        again = partial(self._on_unpublished, client, topic, message)
        try:
            operation = client.new_publish_to_topic()
            operation.activate(request)
        except FAILURES as error:
            again(error)
            return
        # Not waited for: the configuration and the deployments are not to wait for an answer to this.
        answer = operation.get_response()
        self._unanswered.add(answer)
        answer.add_done_callback(
            lambda answer: self._session.put(partial(self._on_published, operation, topic, answer, again))
        )

    def _on_published(
        self,
        operation: Any,
        topic: str,
        answer: concurrent.futures.Future[Any],
        again: Callable[[BaseException], None],
    ) -> None:
        operation.close()
        error = answer.exception()
        if isinstance(error, model.UnauthorizedError) and not self._publishing_refused:
            self._publishing_refused = True
            logger.warning(
                "no status events: aws.greengrass.ipc.pubsub in the configuration key accessControl must "
                "allow aws.greengrass#PublishToTopic on %s",
                topic,
            )
        elif error is not None:
            again(error)

    def _on_unpublished(
        self, client: Any, topic: str, message: Mapping[str, Any], error: BaseException
    ) -> None:
        logger.debug("a status event was not published: %s", said(error))
        if isinstance(error, rpc.EventStreamOperationError):
            return  # the nucleus's own word
        # It was under way when the connection was lost.
        if self._session.client in (None, client):
            self._unsent.append((topic, message))
        else:
            self._on_publish(topic, message)
