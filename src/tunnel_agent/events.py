"""Everything that can happen to the agent. Other threads post these; the main thread alone takes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union

from tunnel_agent.config import Configuration
from tunnel_agent.search import Found


@dataclass
class NotificationArrived:
    """The nucleus delivered a message on the notify topic."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class ConfigurationChanged:
    """The nucleus announced that the configuration changed, not what it is now."""


@dataclass(frozen=True)
class ConfigurationRead:
    """GetConfiguration answered. ``value`` is None for a component without any configuration."""

    value: object


@dataclass(frozen=True)
class ConfigurationUnread:
    """GetConfiguration did not answer now; it is tried again."""


@dataclass(frozen=True)
class Trial:
    """A search has started a process group to try a localproxy, or that has ended."""

    group: int
    runs: bool


@dataclass(frozen=True)
class LocalproxyFound:
    """A search has ended. ``result`` is the reason where nothing usable was found."""

    configuration: Configuration
    result: Union[Found, str]


@dataclass(frozen=True)
class UpdatePlanned:
    """A deployment asks whether it may go on."""

    deployment: str


@dataclass(frozen=True)
class UpdateOver:
    """A deployment was carried out."""


@dataclass(frozen=True)
class NucleusLost:
    """The component cannot go on with this nucleus; only a fresh start helps."""

    reason: str


@dataclass(frozen=True)
class TunnelConnected:
    """A localproxy said that its WebSocket stands."""

    number: int


@dataclass(frozen=True)
class TunnelRejected:
    """A localproxy said that the tunneling service refused it."""

    number: int
    reason: str


@dataclass(frozen=True)
class OutputEnded:
    """One of a localproxy's two pipes is closed; ``last_lines`` are the last complaints in it."""

    number: int
    last_lines: tuple[str, ...]


@dataclass(frozen=True)
class ChildEnded:
    """Some child process ended (SIGCHLD)."""


@dataclass(frozen=True)
class StopRequested:
    """The nucleus or a person wants the component to end (SIGTERM, SIGINT)."""

    signal_name: str


Event = Union[
    NotificationArrived,
    ConfigurationChanged,
    ConfigurationRead,
    ConfigurationUnread,
    Trial,
    LocalproxyFound,
    UpdatePlanned,
    UpdateOver,
    NucleusLost,
    TunnelConnected,
    TunnelRejected,
    OutputEnded,
    ChildEnded,
    StopRequested,
]
