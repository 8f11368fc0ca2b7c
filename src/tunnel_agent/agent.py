"""The event loop: the one place that decides. All state of the component is here, on the main thread.

Other threads (the session with the nucleus, the SDK's callbacks, the output pumps, the search for a
localproxy, the one that takes the signals) only post events. So there are no locks, nothing holds up the IPC,
and every process is started by the thread that lives as long as the agent.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union

from tunnel_agent import events, launch
from tunnel_agent.backoff import Backoff
from tunnel_agent.berth import Berths, StartError
from tunnel_agent.config import Configuration
from tunnel_agent.deployments import Deferral
from tunnel_agent.logs import ComponentLog
from tunnel_agent.notification import Notification, NotificationError
from tunnel_agent.nucleus import Nucleus
from tunnel_agent.search import Found, NoLocalproxyError, find
from tunnel_agent.settings import Settings, UnusableError
from tunnel_agent.status import status_event
from tunnel_agent.tunnel import Launch, Tunnel
from tunnel_agent.watchdog import Watchdog

logger = logging.getLogger(__name__)

# An access token is good for as long as its tunnel, which is 12 hours at most (seconds).
_REMEMBERED_SECONDS = 12 * 3600.0
_START_TRIES = 6  # of a tunnel on a device that is short of something: about half a minute
_STOP_SECONDS = 3.0  # more than the grace of the tunnels, less than until the nucleus's SIGKILL
_STATUS_SECONDS = 0.3  # for the last status events


@dataclass
class _Attempt:
    """A valid notification that waits to be served: for the configuration, or for the device to recover."""

    notification: Notification
    due: float = 0.0
    tries: int = 0
    backoff: Backoff = field(default_factory=lambda: Backoff(1.0, 16.0))


class Agent:
    """The component.

    Args:
        log: the component log.
        artifact: the unpacked artifact's folder.
        work: the component's work folder.
        environment: the component's own environment.
    """

    def __init__(self, log: ComponentLog, artifact: Path, work: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._artifact = artifact
        self._work = work
        self._berths = Berths(work)
        self._environment = environment
        # Not a SimpleQueue: on Python 3.9 and 3.10 one whose get() is over its timeout may wait for ever.
        self._events: queue.Queue[events.Event] = queue.Queue()
        self._nucleus: Nucleus
        self._watchdog = Watchdog()
        self._settings = Settings(lambda: self._nucleus.read_configuration(), self._search)
        # Tunnels.
        self._attempts: list[_Attempt] = []
        self._tunnels: dict[int, Tunnel] = {}
        self._last_number = 0
        self._served: dict[bytes, float] = {}  # digest to monotonic seconds
        self._deferral = Deferral()
        # The end.
        self._stop_by: Optional[float] = None
        self._exit_code = 0

    def post(self, event: events.Event) -> None:
        """Tell the agent of something; from any thread, never waits."""
        self._events.put(event)

    def run(self, nucleus: Nucleus) -> int:
        """Serve until something ends it; returns the exit code."""
        self._nucleus = nucleus
        nucleus.start()
        self._watchdog.start()
        while self._stop_by is None or (self._tunnels and time.monotonic() < self._stop_by):
            try:
                self._step()
            except UnusableError as error:
                self._stop(1, str(error))
            except Exception:
                logger.exception("an unexpected error; the component goes on")
        self._watchdog.stop()
        self._berths.close()
        nucleus.finish(_STATUS_SECONDS)
        return self._exit_code

    def _step(self) -> None:
        try:
            wait = max(0.0, self._next_deadline() - time.monotonic())
            event = self._events.get(timeout=min(wait, threading.TIMEOUT_MAX))
        except queue.Empty:
            pass
        else:
            self._handle(event)
        self._on_time(time.monotonic())

    def _next_deadline(self) -> float:
        deadlines = [tunnel.next_deadline for tunnel in self._tunnels.values()]
        deadlines += [attempt.due for attempt in self._attempts] if self._settings.settled else []
        deadlines += [self._settings.next_deadline]
        deadlines += [] if self._stop_by is None else [self._stop_by]
        return min(deadlines, default=float("inf"))

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.NotificationArrived):
            self._on_notification(event.payload)
        elif isinstance(event, (events.TunnelConnected, events.TunnelRejected, events.OutputEnded)):
            self._on_output(event)
        elif isinstance(event, events.ChildEnded):
            self._watchdog.restart_if_ended()
            for tunnel in self._tunnels.values():
                tunnel.observe()
        elif isinstance(event, events.ConfigurationChanged):
            self._settings.on_changed(time.monotonic())
        elif isinstance(event, events.ConfigurationRead):
            self._on_configuration(event.value)
        elif isinstance(event, events.ConfigurationUnread):
            self._settings.on_unread()
        elif isinstance(event, events.Trial):
            (self._watchdog.add if event.runs else self._watchdog.remove)(event.group)
        elif isinstance(event, events.LocalproxyFound):
            self._on_localproxy(event)
        elif isinstance(event, events.UpdatePlanned):
            self._on_update(event.deployment)
        elif isinstance(event, events.UpdateOver):
            self._deferral.over()
        elif isinstance(event, events.NucleusLost):
            self._stop(1, event.reason)
        else:
            self._stop(0, f"stopping on {event.signal_name}")

    def _on_time(self, now: float) -> None:
        self._settings.on_time(now)
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
                    self._refuse(attempt.notification, f"an unexpected error: {type(error).__name__}")

    # Configuration.

    def _on_configuration(self, value: object) -> None:
        first = self._settings.configuration is None
        configuration = self._settings.on_read(value)
        if configuration is None:
            return
        if first:
            logging.getLogger().setLevel(configuration.log_level)
            # Before the search, which may take a while: what arrives in the meantime waits.
            self._subscribe(configuration)
        if self._settings.configuration is configuration:
            self._apply(configuration)

    def _search(self, configuration: Configuration) -> None:
        def run() -> None:
            result: Union[Found, str]
            try:
                result = find(
                    configuration.localproxy_path,
                    configuration.distribution,
                    self._artifact,
                    self._work,
                    lambda group, runs: self.post(events.Trial(group, runs)),
                )
            except NoLocalproxyError as error:
                result = str(error)
            except Exception as error:
                logger.exception("the search for a localproxy broke off")
                result = f"the search for a localproxy broke off: {error}"
            self.post(events.LocalproxyFound(configuration, result))

        threading.Thread(target=run, name="search", daemon=True).start()

    def _on_localproxy(self, event: events.LocalproxyFound) -> None:
        applied = self._settings.on_found(event.configuration, event.result)
        if applied and self._settings.configuration is not None:
            self._apply(self._settings.configuration)

    def _apply(self, configuration: Configuration) -> None:
        self._berths.prepare()
        logging.getLogger().setLevel(configuration.log_level)
        for key in configuration.unknown_keys:
            logger.warning("configuration key %s is not known and has no effect", key)
        if configuration.ca_path and not Path(configuration.ca_path).is_dir():
            logger.warning("configuration key caPath: %s is not a directory", configuration.ca_path)
        services = ", ".join(f"{service} to {where}" for service, where in configuration.services.items())
        logger.info("services: %s", services or "none")
        self._subscribe(configuration)

    def _subscribe(self, configuration: Configuration) -> None:
        self._nucleus.subscribe(configuration.resubscribe_seconds, configuration.ipc_retry_seconds)

    # Notifications.

    def _on_notification(self, payload: bytes) -> None:
        try:
            notification = Notification.parse(payload)
        except NotificationError as error:
            self._refuse(None, f"the notification cannot be read: {error}")
            return
        if self._stop_by is not None:
            self._refuse(notification, "the component stops")
            return
        digest = notification.digest
        if digest in self._served or any(digest == other.notification.digest for other in self._attempts):
            logger.info("a notification for %s came once more; ignored", ",".join(notification.services))
        else:
            self._attempts.append(_Attempt(notification))

    def _serve(self, attempt: _Attempt) -> None:
        configuration, localproxy = self._settings.configuration, self._settings.localproxy
        assert configuration is not None
        assert localproxy is not None
        notification = attempt.notification
        if len(self._tunnels) >= configuration.max_concurrent_tunnels:
            limit = configuration.max_concurrent_tunnels
            self._refuse(notification, f"{limit} tunnels are open, as many as maxConcurrentTunnels allows")
            return
        problem = launch.service_problem(configuration, notification.services)
        if problem:
            self._refuse(notification, problem)
            return
        try:
            command = launch.arguments(localproxy, configuration, notification)
        except launch.LaunchError as error:
            self._refuse(notification, str(error))
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
        client_token = str(uuid.uuid4()) if configuration.reconnect_with_client_token else ""
        host = launch.endpoint_host(configuration, notification.region)
        self._log.secrets.add(notification.access_token, client_token)
        self._last_number += 1
        try:
            tunnel = Tunnel(
                self._last_number,
                notification,
                Launch(
                    command,
                    launch.environment(
                        localproxy, self._environment, host, notification.access_token, client_token
                    ),
                    configuration.tunnel_timeout_seconds,
                    configuration.localproxy_verbosity,
                ),
                self._berths.take(),
                client_token,
                self._watchdog,
                self._log,
                self.post,
            )
        except StartError as error:
            self._log.secrets.discard(notification.access_token, client_token)
            self._on_start_error(attempt, error)
            return
        now = time.monotonic()
        self._tunnels[tunnel.number] = tunnel
        self._served = {digest: at for digest, at in self._served.items() if now - at < _REMEMBERED_SECONDS}
        self._served[notification.digest] = now
        where = ", ".join(configuration.services[service] for service in notification.services)
        logger.info("%s opened to %s, region %s", tunnel.prefix, where, notification.region)
        for hint in launch.hints(localproxy, command):
            logger.info("%s %s", tunnel.prefix, hint)
        self._publish("opened", tunnel.number, notification)
        self._berths.prepare()

    def _on_start_error(self, attempt: _Attempt, error: StartError) -> None:
        attempt.tries += 1
        if error.transient and attempt.tries < _START_TRIES:
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
            self._refuse(attempt.notification, str(error))

    def _refuse(self, notification: Optional[Notification], reason: str) -> None:
        what = "" if notification is None else f" for {','.join(notification.services)}"
        logger.warning("tunnel%s refused: %s", what, reason)
        self._publish("refused", None, notification, reason)

    # Tunnels.

    def _on_output(
        self, event: Union[events.TunnelConnected, events.TunnelRejected, events.OutputEnded]
    ) -> None:
        tunnel = self._tunnels.get(event.number)
        if tunnel is None:
            return
        if isinstance(event, events.TunnelConnected):
            tunnel.on_connected()
            self._publish("connected", tunnel.number, tunnel.notification)
        elif isinstance(event, events.TunnelRejected):
            tunnel.on_rejected(event.reason)
        else:
            tunnel.on_output_ended(event.last_lines)

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
            self._nucleus.publish(configuration.status_topic, message)

    # Deployments.

    def _on_update(self, deployment: str) -> None:
        busy = bool(self._tunnels or self._attempts)
        configuration = self._settings.configuration
        limit = 0 if configuration is None else configuration.defer_updates_seconds
        step = self._deferral.step(deployment, busy, limit, time.monotonic())
        if step:
            logger.info("deployment %s is put off by %.0f s: tunnels are open", deployment, step)
        elif busy:
            logger.warning(
                "deployment %s goes on although tunnels are open (deferUpdatesSeconds)", deployment
            )
        self._nucleus.answer_update(deployment, round(step * 1000))

    # The end.

    def _stop(self, exit_code: int, reason: str) -> None:
        if self._stop_by is not None:
            return
        logger.log(logging.ERROR if exit_code else logging.INFO, "%s", reason)
        self._exit_code = exit_code
        self._stop_by = time.monotonic() + _STOP_SECONDS
        for attempt in self._attempts:
            self._refuse(attempt.notification, "the component stops")
        self._attempts.clear()
        for tunnel in self._tunnels.values():
            tunnel.stop("closed", "the component stops")
