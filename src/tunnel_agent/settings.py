"""Which configuration applies now, and which localproxy goes with it.

The nucleus only says that something changed. So what it says is waited out for a moment, read, validated, and
where the choice of the localproxy depends on it a search is made; only then does it apply, all of it or
nothing. While that goes on new notifications wait: they are to be served by what the operator deployed last.

No I/O here: reading and searching are started by the two callables that this is made with, and their results
come back as calls.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

from tunnel_agent.config import Configuration, ConfigurationError
from tunnel_agent.launch import Localproxy
from tunnel_agent.search import Found

logger = logging.getLogger(__name__)

# Updates come as one event for each changed key: they are read once, this long (seconds) after the first.
_BURST_SECONDS = 0.2


class UnusableError(Exception):
    """The first configuration cannot be used, and there is no earlier one to fall back on."""


class Settings:
    """The configuration's way from the nucleus to the next tunnel.

    Args:
        read: asks the nucleus for the configuration; ends in ``on_read`` or ``on_unread``.
        search: looks for a localproxy for this configuration; ends in ``on_found``.
    """

    def __init__(self, read: Callable[[], None], search: Callable[[Configuration], None]) -> None:
        self.configuration: Optional[Configuration] = None
        self.localproxy: Optional[Localproxy] = None
        self._read = read
        self._search = search
        self._last_read: object = None
        self._read_at: Optional[float] = None
        self._reading = True
        self._candidate: Optional[Configuration] = None  # waits for the end of a search

    @property
    def settled(self) -> bool:
        """Whether nothing is being found out: notifications can be served."""
        return not (
            self.configuration is None
            or self._reading
            or self._read_at is not None
            or self._candidate is not None
        )

    @property
    def next_deadline(self) -> float:
        """When ``on_time`` wants to be called (monotonic seconds)."""
        return float("inf") if self._read_at is None else self._read_at

    def on_time(self, now: float) -> None:
        """Do what is due at ``next_deadline``."""
        if self._read_at is not None and now >= self._read_at:
            self._read_at = None
            self._reading = True
            self._read()

    def on_changed(self, now: float) -> None:
        """The nucleus announced a change."""
        if self._read_at is None:
            self._read_at = now + _BURST_SECONDS

    def on_unread(self) -> None:
        """The nucleus does not answer now. It is asked again; until then what applied before still does."""
        self._reading = False

    def on_read(self, value: object) -> Optional[Configuration]:
        """The nucleus gave the configuration: None, or a tree of JSON values.

        Returns:
            it, if it is valid and new; it may not apply yet.

        Raises:
            UnusableError: it is not valid, and it is the first.
        """
        self._reading = False
        if self.configuration is not None and value == self._last_read:
            return None
        self._last_read = value
        try:
            configuration = Configuration.parse(value)
        except ConfigurationError as error:
            self._refuse(str(error))
            return None
        if not _choose_alike(self._candidate or self.configuration, configuration):
            self._candidate = configuration
            self._search(configuration)
        elif self._candidate is not None:
            self._candidate = configuration  # the search under way serves this one, too
        else:
            self.configuration = configuration
        return configuration

    def search_again(self) -> None:
        """The localproxy that was found is gone: find another one for the configuration that applies."""
        if self._candidate is None and self.configuration is not None:
            self._candidate = self.configuration
            self._search(self.configuration)

    def on_found(self, searched: Configuration, result: Union[Found, str]) -> bool:
        """A search has ended with a localproxy or with the reason why there is none.

        Returns:
            whether a configuration applies now that did not before.

        Raises:
            UnusableError: there is none, and it was the first search.
        """
        candidate = self._candidate
        if candidate is None or not _choose_alike(candidate, searched):
            return False  # a later update made it out of date
        self._candidate = None
        if isinstance(result, Found):
            for line in result.passed_over:
                logger.warning("passed over as localproxy: %s", line)
            self.localproxy = result.localproxy
            logger.info("localproxy: %s", self.localproxy)
        elif _choose_alike(self.configuration, candidate):
            # No update asked for this search; what one brought meanwhile is not to be lost.
            logger.error("%s", result)
        else:
            self._refuse(result)
            return False
        changed = candidate is not self.configuration
        self.configuration = candidate
        return changed

    def _refuse(self, reason: str) -> None:
        if self.configuration is None:
            raise UnusableError(reason)
        logger.error("the update is refused, the configuration stays as it was: %s", reason)


def _choose_alike(one: Optional[Configuration], other: Configuration) -> bool:
    """Whether a search for one of them serves the other."""
    return one is not None and (one.localproxy_path, one.distribution) == (
        other.localproxy_path,
        other.distribution,
    )
