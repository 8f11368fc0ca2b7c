"""From a valid notification to the end of its tunnel: who is served, started, tried again, refused, told of.

Part of the agent's main thread, like everything that has state: no method waits, none may be called from
another thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

from tunnel_agent import launch
from tunnel_agent.backoff import Backoff
from tunnel_agent.berth import Berths, StartError
from tunnel_agent.config import Configuration
from tunnel_agent.events import Event, OutputEnded, TunnelConnected, TunnelRejected
from tunnel_agent.logs import ComponentLog
from tunnel_agent.notification import Notification
from tunnel_agent.settings import Settings
from tunnel_agent.status import status_event
from tunnel_agent.tunnel import Launch, Tunnel
from tunnel_agent.watchdog import Watchdog

logger = logging.getLogger(__name__)

# An access token is good for as long as its tunnel, which is 12 hours at most (seconds).
_REMEMBERED_SECONDS = 12 * 3600.0
# A localproxy that starts has the processors for itself for this long (seconds): its first lines can wait.
_HEAD_START_SECONDS = 0.005
_START_TRIES = 6  # of a tunnel on a device that is short of something: about half a minute


@dataclass
class _Attempt:
    """A valid notification that waits to be served: for the configuration, or for the device to recover."""

    notification: Notification
    due: float = 0.0
    tries: int = 0
    backoff: Optional[Backoff] = None


@dataclass
class _Started:
    """A tunnel whose localproxy was just started: all but that is still to be done and said."""

    tunnel: Tunnel
    attempt: _Attempt
    configuration: Configuration
    localproxy: launch.Localproxy
    command: tuple[str, ...]
    due: float


class Tunnels:
    """All tunnels of the agent, and the notifications that wait for one.

    Args:
        settings: what they are served by, once it is settled.
        work: the component's work folder.
        environment: the component's own environment.
        watchdog: is told of every process.
        log: gets the output.
        post: gets the events that the output brings.
        publish: publishes a JSON object to a local topic.
    """

    def __init__(
        self,
        settings: Settings,
        work: Path,
        environment: Mapping[str, str],
        watchdog: Watchdog,
        log: ComponentLog,
        post: Callable[[Event], None],
        publish: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._settings = settings
        self._inherited = launch.Inherited.of(environment)
        self._watchdog = watchdog
        self._log = log
        self._post = post
        self._publish_to = publish
        self._berths = Berths(work)
        self._attempts: list[_Attempt] = []
        self._started: list[_Started] = []
        self._tunnels: dict[int, Tunnel] = {}
        self._last_number = 0
        self._served: dict[int, float] = {}  # a notification's key to monotonic seconds
        self._stopping = False

    @property
    def live(self) -> bool:
        """Whether a tunnel is live."""
        return bool(self._tunnels)

    @property
    def busy(self) -> bool:
        """Whether a tunnel is live or about to be started."""
        return bool(self._tunnels or self._attempts)

    @property
    def next_deadline(self) -> float:
        """When ``on_time`` wants to be called (monotonic seconds)."""
        deadlines = [tunnel.next_deadline for tunnel in self._tunnels.values()]
        deadlines += [started.due for started in self._started]
        if self._settings.settled:
            deadlines += [attempt.due for attempt in self._attempts]
        return min(deadlines, default=float("inf"))

    def prepare(self) -> None:
        """Make what can be made before the next notification."""
        self._berths.prepare()

    def receive(self, notification: Notification) -> None:
        """Serve a notification as soon as ``on_time`` is called and the settings are settled."""
        key = notification.key
        if self._stopping:
            self.refuse(notification, "the component stops")
        elif key in self._served or any(key == other.notification.key for other in self._attempts):
            logger.info("a notification for %s came once more; ignored", ",".join(notification.services))
        else:
            self._attempts.append(_Attempt(notification))

    def refuse(self, notification: Optional[Notification], reason: str) -> None:
        """Tell that a notification is not served; None for one that could not be read."""
        what = "" if notification is None else f" for {','.join(notification.services)}"
        logger.warning("tunnel%s refused: %s", what, reason)
        self._publish("refused", None, notification, reason)

    def on_time(self, now: float) -> None:
        """Do what is due at ``next_deadline``."""
        while self._started and self._started[0].due <= now:
            self._on_started(self._started.pop(0))
        for tunnel in self._tunnels.values():
            tunnel.on_time(now)
        for tunnel in [tunnel for tunnel in self._tunnels.values() if tunnel.ended]:
            self._on_ended(tunnel)
        if self._settings.settled:
            for attempt in [attempt for attempt in self._attempts if attempt.due <= now]:
                self._attempts.remove(attempt)
                try:
                    self._serve(attempt)
                except Exception as error:
                    logger.exception("an unexpected error; the component goes on")
                    self.refuse(attempt.notification, f"an unexpected error: {type(error).__name__}")

    def on_child_ended(self) -> None:
        """Some child process ended; perhaps a localproxy."""
        for tunnel in self._tunnels.values():
            tunnel.observe()

    def on_output(self, event: Union[TunnelConnected, TunnelRejected, OutputEnded]) -> None:
        """A localproxy's output told something."""
        tunnel = self._tunnels.get(event.number)
        if tunnel is None:
            return
        if isinstance(event, TunnelConnected):
            tunnel.on_connected()
            self._publish("connected", tunnel.number, tunnel.notification)
        elif isinstance(event, TunnelRejected):
            tunnel.on_rejected(event.reason)
        else:
            tunnel.on_output_ended(event.last_lines)

    def stop(self) -> None:
        """End every tunnel, and serve no notification any more."""
        self._stopping = True
        for attempt in self._attempts:
            self.refuse(attempt.notification, "the component stops")
        self._attempts.clear()
        for tunnel in self._tunnels.values():
            tunnel.stop("closed", "the component stops")

    def close(self) -> None:
        """Leave nothing behind in the work folder."""
        self._berths.close()

    def _serve(self, attempt: _Attempt) -> None:
        configuration, localproxy = self._settings.configuration, self._settings.localproxy
        assert configuration is not None
        assert localproxy is not None
        notification = attempt.notification
        if len(self._tunnels) >= configuration.max_concurrent_tunnels:
            limit = configuration.max_concurrent_tunnels
            self.refuse(notification, f"{limit} tunnels are open, as many as maxConcurrentTunnels allows")
            return
        problem = launch.service_problem(configuration, notification.services)
        if problem:
            self.refuse(notification, problem)
            return
        try:
            command = launch.arguments(localproxy, configuration, notification)
        except launch.LaunchError as error:
            self.refuse(notification, str(error))
            return
        self._open(attempt, command, configuration, localproxy)

    def _open(
        self,
        attempt: _Attempt,
        command: tuple[str, ...],
        configuration: Configuration,
        localproxy: launch.Localproxy,
    ) -> None:
        notification = attempt.notification
        host = launch.endpoint_host(configuration, notification.region)
        self._last_number += 1
        try:
            berth = self._berths.take()
            client_token = berth.client_token if configuration.reconnect_with_client_token else ""
            tunnel = Tunnel(
                self._last_number,
                notification,
                Launch(
                    command,
                    launch.environment(
                        localproxy, self._inherited, host, notification.access_token, client_token
                    ),
                    configuration.tunnel_timeout_seconds,
                    configuration.localproxy_verbosity,
                ),
                berth,
                client_token,
                self._watchdog,
            )
        except StartError as error:
            self._on_start_error(attempt, error)
            return
        now = time.monotonic()
        self._tunnels[tunnel.number] = tunnel
        self._served[notification.key] = now
        due = now + _HEAD_START_SECONDS
        self._started.append(_Started(tunnel, attempt, configuration, localproxy, command, due))

    def _on_started(self, started: _Started) -> None:
        tunnel, notification = started.tunnel, started.tunnel.notification
        self._log.secrets.add(notification.access_token, tunnel.client_token)
        try:
            tunnel.read_output(self._log, self._post)
        except StartError as error:
            self._log.secrets.discard(notification.access_token, tunnel.client_token)
            del self._tunnels[tunnel.number], self._served[notification.key]
            self._on_start_error(started.attempt, error)
            return
        services = started.configuration.services
        where = ", ".join(services[service] for service in notification.services)
        logger.info("%s opened to %s, region %s", tunnel.prefix, where, notification.region)
        for hint in launch.hints(started.localproxy, started.command):
            logger.info("%s %s", tunnel.prefix, hint)
        self._publish("opened", tunnel.number, notification)
        self._berths.prepare()
        oldest = time.monotonic() - _REMEMBERED_SECONDS
        self._served = {key: at for key, at in self._served.items() if at > oldest}

    def _on_start_error(self, attempt: _Attempt, error: StartError) -> None:
        attempt.tries += 1
        if self._stopping:
            self.refuse(attempt.notification, "the component stops")
        elif error.transient and attempt.tries < _START_TRIES:
            attempt.backoff = attempt.backoff or Backoff(1.0, 16.0)
            delay = attempt.backoff.next()
            attempt.due = time.monotonic() + delay
            self._attempts.append(attempt)
            logger.warning("a tunnel cannot be started, trying again in %.1f s: %s", delay, error)
        elif not error.transient and attempt.tries == 1:
            # The program is gone or was replaced by something else: perhaps there is another one.
            self._attempts.append(attempt)
            logger.warning("%s; searching for a localproxy again", error)
            self._settings.search_again()
        else:
            self.refuse(attempt.notification, str(error))

    def _on_ended(self, tunnel: Tunnel) -> None:
        del self._tunnels[tunnel.number]
        event, reason = tunnel.outcome
        level = {"closed": logging.INFO, "failed": logging.ERROR}.get(event, logging.WARNING)
        logger.log(level, "%s %s after %.0f s: %s", tunnel.prefix, event, tunnel.age, reason)
        self._publish(event, tunnel.number, tunnel.notification, reason)
        if tunnel.silent:
            self._log.secrets.discard(tunnel.notification.access_token, tunnel.client_token)

    def _publish(
        self, event: str, number: Optional[int], notification: Optional[Notification], reason: str = ""
    ) -> None:
        configuration = self._settings.configuration
        if configuration is not None and configuration.status_topic:
            message = status_event(event, number, notification, reason)
            self._publish_to(configuration.status_topic, message)
