"""The event loop: the main thread, which has all state and decides everything.

Here it is decided what an event means for whom; ``settings`` knows which configuration applies, ``tunnels``
who is served.

Other threads (the session with the nucleus, the SDK's callbacks, the output pumps, the search for a
localproxy, the one that takes the signals) only post events. So there are no locks, nothing holds up the IPC,
and every process is started by the thread that lives as long as the agent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Optional, Union

from tunnel_agent import events
from tunnel_agent.config import Configuration
from tunnel_agent.deployments import Deferral
from tunnel_agent.inbox import Inbox
from tunnel_agent.logs import ComponentLog
from tunnel_agent.notification import Notification, NotificationError
from tunnel_agent.nucleus import Nucleus
from tunnel_agent.search import Found, NoLocalproxyError, find
from tunnel_agent.settings import Settings, UnusableError
from tunnel_agent.tunnels import Tunnels
from tunnel_agent.watchdog import Watchdog

logger = logging.getLogger(__name__)

_STOP_SECONDS = 3.0  # more than the grace of the tunnels, less than until the nucleus's SIGKILL
_STATUS_SECONDS = 0.3  # for the last status events


class Agent:
    """The component.

    Args:
        log: the component log.
        artifact: the unpacked artifact's folder.
        work: the component's work folder.
        environment: the component's own environment.
    """

    def __init__(self, log: ComponentLog, artifact: Path, work: Path, environment: Mapping[str, str]) -> None:
        self._artifact = artifact
        self._work = work
        self._events: Inbox[events.Event] = Inbox()
        self._nucleus: Nucleus
        self._watchdog = Watchdog()
        self._settings = Settings(lambda: self._nucleus.read_configuration(), self._search)
        self._tunnels = Tunnels(
            self._settings,
            work,
            environment,
            self._watchdog,
            log,
            self.post,
            lambda topic, message: self._nucleus.publish(topic, message),
        )
        self._deferral = Deferral()
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
        while self._stop_by is None or (self._tunnels.live and time.monotonic() < self._stop_by):
            try:
                self._step()
            except UnusableError as error:
                self._stop(1, str(error))
            except Exception:
                logger.exception("an unexpected error; the component goes on")
        self._watchdog.stop()
        self._tunnels.close()
        nucleus.finish(_STATUS_SECONDS)
        return self._exit_code

    def _step(self) -> None:
        event = self._events.get(self._next_deadline() - time.monotonic())
        if event is not None:
            self._handle(event)
        now = time.monotonic()
        self._settings.on_time(now)
        self._tunnels.on_time(now)

    def _next_deadline(self) -> float:
        stop_by = float("inf") if self._stop_by is None else self._stop_by
        return min(self._settings.next_deadline, self._tunnels.next_deadline, stop_by)

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.NotificationArrived):
            self._on_notification(event.payload)
        elif isinstance(event, (events.TunnelConnected, events.TunnelRejected, events.OutputEnded)):
            self._tunnels.on_output(event)
        elif isinstance(event, events.ChildEnded):
            self._watchdog.restart_if_ended()
            self._tunnels.on_child_ended()
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

        try:
            threading.Thread(target=run, name="search", daemon=True).start()
        except RuntimeError:
            run()  # no thread to be had: it holds up everything, but not for ever

    def _on_localproxy(self, event: events.LocalproxyFound) -> None:
        applied = self._settings.on_found(event.configuration, event.result)
        if applied and self._settings.configuration is not None:
            self._apply(self._settings.configuration)

    def _apply(self, configuration: Configuration) -> None:
        self._tunnels.prepare()
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
            self._tunnels.receive(Notification.parse(payload))
        except NotificationError as error:
            self._tunnels.refuse(None, f"the notification cannot be read: {error}")

    # Deployments.

    def _on_update(self, deployment: str) -> None:
        busy = self._tunnels.busy
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
        self._tunnels.stop()
