"""A nucleus to test against: an event-stream RPC server on a Unix socket.

The unmodified AWS SDK connects to it. It answers the operations that the component uses as the real nuclei
do (``lite=True``: as nucleus lite does), keeps every request for the test to look at, and can misbehave on
request: refuse or never answer an operation, end streams, forget subscriptions without a word, drop
connections, refuse tokens.

Threads: one accepts, one per connection reads and answers. Tests call from theirs; ``_changed`` guards all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

from standins.event_stream import (
    CONNECTION_ACCEPTED,
    TERMINATE_STREAM,
    Decoder,
    HeaderValue,
    Message,
    MessageType,
)

COMPONENT = "com.javatask.iot-tunnel-agent"
TIMEOUT = 10.0  # seconds that a test waits for anything

# Nucleus lite answers every other operation with ServiceError.
_KNOWN_TO_LITE = {
    "SubscribeToIoTCore",
    "GetConfiguration",
    "SubscribeToConfigurationUpdate",
    "PublishToTopic",
}
_KNOWN = _KNOWN_TO_LITE | {"SubscribeToComponentUpdates", "DeferComponentUpdate"}


@dataclass(frozen=True)
class Request:
    """One operation that a component asked for."""

    operation: str
    content: dict[str, Any]
    at: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Connection:
    peer: socket.socket
    streams: dict[int, Request] = field(default_factory=dict)  # the open subscriptions

    def send(self, message: Message) -> None:
        self.peer.sendall(message.encode())


class Nucleus:
    """A context manager: listens while it is open.

    Args:
        folder: where the socket is made; its path must fit into 108 bytes.
        configuration: what GetConfiguration answers; None answers ResourceNotFoundError.
        lite: behave as nucleus lite: fewer operations, numbers as strings, errors without a message.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Optional[dict[str, Any]] = None,
        *,
        lite: bool = False,
        thing: str = "test-thing",
    ) -> None:
        self.thing = thing
        self.socket_path = folder / "ipc.socket"
        self.token = "SVCUID-0123456789ABCDEF"
        self.requests: list[Request] = []
        self.connects = 0
        # How many subscriptions to IoT Core there were after each change of their number.
        self.counts: list[int] = []
        self._configuration = configuration
        self._lite = lite
        self._refusals: dict[str, tuple[str, Optional[str]]] = {}
        self._stalled: set[str] = set()
        self._connections: set[_Connection] = set()
        self._changed = threading.Condition(threading.RLock())
        self._listener: Optional[socket.socket] = None

    def __enter__(self) -> Nucleus:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen; the second time as after a restart, with an empty memory of subscriptions."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket_path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), name="nucleus", daemon=True).start()

    def close(self) -> None:
        """Be gone, with every connection."""
        if self._listener is not None:
            # shutdown() wakes the accepting thread, which close() alone does not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.socket_path.unlink()
        self.drop_connections()

    def environment(self) -> dict[str, str]:
        """The variables that a nucleus gives to a component's process."""
        return {
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.socket_path),
            "SVCUID": self.token,
            "AWS_IOT_THING_NAME": self.thing,
            "AWS_REGION": "eu-central-1",
            "GGC_VERSION": "2.14.0",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "CREDENTIALS-TOKEN-0123456789",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost:1/2016-11-01/credentialprovider/",
        }

    @property
    def notify_topic(self) -> str:
        """The topic on which AWS announces tunnels to this thing."""
        return f"$aws/things/{self.thing}/tunnels/notify"

    # What a test does.

    def notify(self, notification: Union[dict[str, Any], bytes]) -> int:
        """Deliver a tunnel notification; returns how many subscriptions got it."""
        payload = (
            notification if isinstance(notification, bytes) else json.dumps(notification, indent=2).encode()
        )
        return self.publish(self.notify_topic, payload)

    def publish(self, topic: str, payload: bytes) -> int:
        """Deliver an IoT Core message to every subscription whose filter fits; returns how many."""
        event = {"message": {"topicName": topic, "payload": base64.b64encode(payload).decode()}}
        return self._send_events(
            "SubscribeToIoTCore",
            "IoTCoreMessage",
            lambda request: event if topic_fits(request["topicName"], topic) else None,
        )

    def configure(self, configuration: Optional[dict[str, Any]], announce: bool = True) -> None:
        """Replace the component's configuration and announce each key that changed."""
        with self._changed:
            before, self._configuration = self._configuration or {}, configuration
        for path in _changes(before, configuration or {}) if announce else []:
            self._announce_key(path)

    @property
    def configuration(self) -> dict[str, Any]:
        """The component's configuration now."""
        with self._changed:
            return dict(self._configuration or {})

    def merge(self, update: dict[str, Any]) -> None:
        """Change the configuration as a deployment's merge does and announce each value that changed."""
        self.configure(_merged(self.configuration, update))

    def _announce_key(self, path: list[str]) -> None:
        event = {"configurationUpdateEvent": {"componentName": COMPONENT, "keyPath": path}}
        self._send_events("SubscribeToConfigurationUpdate", "ConfigurationUpdateEvents", lambda _: event)

    def announce_update(self, deployment: str) -> int:
        """Send the pre-update event of a deployment; the answer arrives as a DeferComponentUpdate."""
        return self._announce({"preUpdateEvent": {"deploymentId": deployment, "isGgcRestarting": False}})

    def announce_update_over(self, deployment: str) -> int:
        """Send the post-update event of a deployment."""
        return self._announce({"postUpdateEvent": {"deploymentId": deployment}})

    def _announce(self, event: dict[str, Any]) -> int:
        return self._send_events(
            "SubscribeToComponentUpdates", "ComponentUpdatePolicyEvents", lambda _: event
        )

    def send_unreadable(self) -> int:
        """Send every subscriber to IoT Core an event of a shape that no SDK knows."""
        return self._send_events("SubscribeToIoTCore", "NoSuchShape", lambda _: {"secret": "in-the-payload"})

    def refuse(
        self, operation: str, error: Optional[str] = "ServiceError", message: Optional[str] = "refused"
    ) -> None:
        """Answer ``operation`` with this error from now on; None answers it normally again."""
        with self._changed:
            self._refusals.pop(operation, None)
            if error is not None:
                self._refusals[operation] = (error, message)

    def stall(self, operation: str, stalled: bool = True) -> None:
        """Leave ``operation`` (``Connect``, too) without an answer from now on, or answer it again."""
        with self._changed:
            (self._stalled.add if stalled else self._stalled.discard)(operation)

    def end_streams(self, operation: str) -> int:
        """Close every subscription made with ``operation``, telling the component; returns how many."""
        ended = self._forget(operation)
        for connection, stream_id in ended:
            connection.send(Message(MessageType.APPLICATION_MESSAGE, stream_id, TERMINATE_STREAM))
        return len(ended)

    def forget_subscriptions(self, operation: str = "SubscribeToIoTCore") -> int:
        """Deliver nothing to today's subscriptions any more and tell nobody, as when iotcored restarts."""
        return len(self._forget(operation))

    def drop_connections(self) -> None:
        """Cut every connection."""
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):  # it was gone already
                connection.peer.shutdown(socket.SHUT_RDWR)

    def subscriptions(self, operation: str = "SubscribeToIoTCore") -> list[dict[str, Any]]:
        """The requests of the subscriptions that are open now."""
        with self._changed:
            return [
                request.content
                for connection in self._connections
                for request in connection.streams.values()
                if request.operation == operation
            ]

    def asked(self, operation: str) -> list[Request]:
        """Every request for ``operation`` so far."""
        with self._changed:
            return [request for request in self.requests if request.operation == operation]

    def wait_until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Wait for requests and connections to make ``condition`` true.

        Raises:
            TimeoutError: it did not become true; the message lists what was asked.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"not within {timeout} s; asked: {[r.operation for r in self.requests]}")

    def wait_subscribed(self, operation: str = "SubscribeToIoTCore", timeout: float = TIMEOUT) -> None:
        """Wait until a subscription made with ``operation`` is open."""
        self.wait_until(lambda: bool(self.subscriptions(operation)), timeout)

    def status_events(self, access_token: str = "") -> list[dict[str, Any]]:
        """The JSON messages that were published to local topics, oldest first, with their ``topic``.

        Args:
            access_token: only of the tunnel with this one.
        """
        digest = hashlib.sha256(access_token.encode()).hexdigest()[:12]
        events = [
            {"topic": request.content["topic"], **_published(request.content["publishMessage"])}
            for request in self.asked("PublishToTopic")
        ]
        return [event for event in events if not access_token or event["token"] == digest]

    def ended(self, access_token: str) -> bool:
        """Whether the tunnel with this access token is over, however it ended."""
        names = {event["event"] for event in self.status_events(access_token)}
        return not names.isdisjoint(("closed", "rejected", "failed", "timedOut"))

    def wait_status(
        self, event: str, access_token: str = "", count: int = 1, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """Wait for the ``count``-th status event of this name, with this access token if any; return it."""

        def found() -> list[dict[str, Any]]:
            return [status for status in self.status_events(access_token) if status["event"] == event]

        self.wait_until(lambda: len(found()) >= count, timeout)
        return found()[count - 1]

    # The server.

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(_Connection(peer),), daemon=True).start()

    def _serve(self, connection: _Connection) -> None:
        decoder = Decoder()
        try:
            while data := connection.peer.recv(65536):
                for message in decoder.feed(data):
                    self._answer(connection, message)
        except OSError:
            pass  # the component went away
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._note_change()
            connection.peer.close()

    def _answer(self, connection: _Connection, message: Message) -> None:
        if message.message_type is MessageType.CONNECT:
            with self._changed:
                accepted = json.loads(message.payload)["authToken"] == self.token
                self.connects += 1
                stalled = "Connect" in self._stalled
                if accepted and not stalled:
                    self._connections.add(connection)
                self._changed.notify_all()
            if stalled:
                return
            if self._lite and not accepted:
                raise ConnectionRefusedError  # it hangs up without an answer
            connection.send(Message(MessageType.CONNECT_ACK, flags=CONNECTION_ACCEPTED if accepted else 0))
        elif message.message_type is MessageType.APPLICATION_MESSAGE:
            if message.flags & TERMINATE_STREAM:
                with self._changed:
                    connection.streams.pop(message.stream_id, None)
                    self._note_change()
                connection.send(Message(MessageType.APPLICATION_MESSAGE, message.stream_id, TERMINATE_STREAM))
            else:
                operation = str(message.headers["operation"]).partition("#")[2]
                request = Request(operation, json.loads(message.payload or b"{}"))
                self._perform(connection, message.stream_id, request)

    def _perform(self, connection: _Connection, stream_id: int, request: Request) -> None:
        operation = request.operation
        with self._changed:
            self.requests.append(request)
            stalled = operation in self._stalled
            refusal = self._refusals.get(operation)
            if operation not in (_KNOWN_TO_LITE if self._lite else _KNOWN):
                refusal = ("ServiceError", None if self._lite else "unknown operation")
            answer: dict[str, Any] = {}
            if operation == "GetConfiguration" and refusal is None:
                if self._configuration is None:
                    refusal = ("ResourceNotFoundError", None if self._lite else "Key not found")
                value = self._configuration
                answer = {"componentName": COMPONENT, "value": _as_strings(value) if self._lite else value}
            if not stalled:
                if refusal is None:
                    # The answer goes out before the lock is free: no event can overtake it.
                    if operation.startswith("SubscribeTo"):
                        connection.streams[stream_id] = request
                    self._respond(connection, stream_id, f"{operation}Response", answer)
                else:
                    self._respond_error(connection, stream_id, *refusal)
            self._note_change()

    def _respond(
        self, connection: _Connection, stream_id: int, shape: str, content: dict[str, Any], flags: int = 0
    ) -> None:
        connection.send(
            Message(
                MessageType.APPLICATION_MESSAGE,
                stream_id,
                flags,
                _headers(shape),
                json.dumps(content).encode(),
            )
        )

    def _respond_error(
        self, connection: _Connection, stream_id: int, error: str, message: Optional[str]
    ) -> None:
        content = {} if message is None else {"message": message}
        connection.send(
            Message(
                MessageType.APPLICATION_ERROR,
                stream_id,
                TERMINATE_STREAM,
                _headers(error),
                json.dumps(content).encode(),
            )
        )

    def _send_events(
        self, operation: str, shape: str, event_for: Callable[[dict[str, Any]], Optional[dict[str, Any]]]
    ) -> int:
        sent = 0
        with self._changed:
            for connection in self._connections:
                for stream_id, request in connection.streams.items():
                    event = event_for(request.content) if request.operation == operation else None
                    if event is not None:
                        self._respond(connection, stream_id, shape, event)
                        sent += 1
        return sent

    def _forget(self, operation: str) -> list[tuple[_Connection, int]]:
        with self._changed:
            forgotten = [
                (connection, stream_id)
                for connection in self._connections
                for stream_id, request in connection.streams.items()
                if request.operation == operation
            ]
            for connection, stream_id in forgotten:
                del connection.streams[stream_id]
            self._note_change()
        return forgotten

    def _note_change(self) -> None:
        count = len(self.subscriptions())
        if self.counts[-1:] != [count]:
            self.counts.append(count)
        self._changed.notify_all()


def topic_fits(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter with ``+`` and ``#`` covers a topic."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(given) or level not in ("+", given[index]):
            return False
    return len(wanted) == len(given)


def _merged(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Maps are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in update.items():
        old = base.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _changes(before: Any, after: Any) -> list[list[str]]:
    """The paths of the values that differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [[]]
    return [[key, *path] for key in {**before, **after} for path in _changes(before.get(key), after.get(key))]


def _headers(shape: str) -> dict[str, HeaderValue]:
    return {":content-type": "application/json", "service-model-type": f"aws.greengrass#{shape}"}


def _published(message: dict[str, Any]) -> dict[str, Any]:
    if "jsonMessage" in message:
        return dict(message["jsonMessage"]["message"])
    return dict(json.loads(base64.b64decode(message["binaryMessage"]["message"])))


def _as_strings(value: Any) -> Any:
    """Numbers and truth values as nucleus lite gives those of a YAML recipe: as strings."""
    if isinstance(value, dict):
        return {key: _as_strings(item) for key, item in value.items()}
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value
