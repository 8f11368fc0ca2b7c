"""Which configuration applies: bursts, refusals, searches that come too late."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel_agent.config import Configuration
from tunnel_agent.launch import Localproxy
from tunnel_agent.search import Found
from tunnel_agent.settings import Settings, UnusableError

FIRST = Found(Localproxy(("first",), False, "1", frozenset()), ())
SECOND = Found(Localproxy(("second",), False, "2", frozenset()), ())


class Nucleus:
    """Counts what the settings ask for."""

    def __init__(self) -> None:
        self.reads = 0
        self.searches: list[Configuration] = []
        self.settings = Settings(self._read, self.searches.append)

    def _read(self) -> None:
        self.reads += 1

    def applied(self, **configuration: Any) -> Settings:
        """The settings with this configuration in force."""
        self.settings.on_read(configuration)
        assert self.settings.on_found(self.searches[-1], FIRST)
        assert self.settings.settled
        return self.settings


def test_the_first_one_applies_when_its_localproxy_is_found() -> None:
    nucleus = Nucleus()
    assert not nucleus.settings.settled
    assert nucleus.settings.on_read({"maxConcurrentTunnels": 3}) is not None
    assert nucleus.settings.configuration is None
    assert not nucleus.settings.settled
    assert nucleus.settings.on_found(nucleus.searches[0], FIRST)
    assert nucleus.settings.configuration is nucleus.searches[0]
    assert nucleus.settings.localproxy == FIRST.localproxy


def test_the_first_one_must_be_usable() -> None:
    with pytest.raises(UnusableError, match="maxConcurrentTunnels"):
        Nucleus().settings.on_read({"maxConcurrentTunnels": 0})
    nucleus = Nucleus()
    nucleus.settings.on_read({})
    with pytest.raises(UnusableError, match="nothing there"):
        nucleus.settings.on_found(nucleus.searches[0], "nothing there")


def test_a_burst_is_read_once() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    for moment in (10.0, 10.05, 10.1):
        settings.on_changed(moment)
        settings.on_time(moment)
    assert nucleus.reads == 0
    assert not settings.settled
    settings.on_time(settings.next_deadline)
    assert nucleus.reads == 1
    assert not settings.settled
    settings.on_read({"maxConcurrentTunnels": 5})
    assert settings.settled
    assert settings.configuration is not None
    assert settings.configuration.max_concurrent_tunnels == 5
    assert len(nucleus.searches) == 1


def test_a_change_while_reading_is_read_again() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    settings.on_changed(1.0)
    settings.on_time(1.5)
    settings.on_changed(1.6)
    settings.on_read({"maxConcurrentTunnels": 5})
    assert not settings.settled
    settings.on_time(2.0)
    assert nucleus.reads == 2


def test_an_invalid_update_leaves_everything(caplog: pytest.LogCaptureFixture) -> None:
    settings = Nucleus().applied(maxConcurrentTunnels=2)
    before = settings.configuration
    assert settings.on_read({"maxConcurrentTunnels": 3, "logLevel": "LOUD"}) is None
    assert settings.configuration is before
    assert settings.settled
    assert "logLevel" in caplog.text


def test_an_update_whose_localproxy_is_not_usable_leaves_everything(caplog: pytest.LogCaptureFixture) -> None:
    nucleus = Nucleus()
    settings = nucleus.applied(maxConcurrentTunnels=2)
    before = settings.configuration
    settings.on_read({"maxConcurrentTunnels": 3, "localproxyPath": "/gone"})
    assert not settings.settled
    assert not settings.on_found(nucleus.searches[-1], "it is gone")
    assert settings.configuration is before
    assert settings.localproxy == FIRST.localproxy
    assert settings.settled
    assert "it is gone" in caplog.text


def test_the_result_of_an_outdated_search_is_dropped() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    settings.on_read({"localproxyPath": "/a"})
    settings.on_read({"localproxyPath": "/b"})
    assert not settings.on_found(nucleus.searches[1], "a is gone")
    assert not settings.settled
    assert settings.on_found(nucleus.searches[2], SECOND)
    assert settings.configuration is not None
    assert settings.configuration.localproxy_path == "/b"
    assert settings.localproxy == SECOND.localproxy


def test_an_update_during_a_search_is_not_lost() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    settings.on_read({"localproxyPath": "/a"})
    settings.on_read({"localproxyPath": "/a", "maxConcurrentTunnels": 7})
    assert len(nucleus.searches) == 2
    assert settings.on_found(nucleus.searches[1], SECOND)
    assert settings.configuration is not None
    assert settings.configuration.max_concurrent_tunnels == 7


def test_going_back_during_a_search() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    settings.on_read({"localproxyPath": "/a"})
    settings.on_read({})
    assert not settings.on_found(nucleus.searches[1], SECOND)
    settings.on_found(nucleus.searches[2], FIRST)
    assert settings.settled
    assert settings.localproxy == FIRST.localproxy


def test_the_same_configuration_once_more_changes_nothing() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied(maxConcurrentTunnels=2)
    assert settings.on_read({"maxConcurrentTunnels": 2}) is None
    assert settings.settled


def test_an_unread_configuration_does_not_hold_up_notifications() -> None:
    settings = Nucleus().applied()
    settings.on_changed(1.0)
    settings.on_time(2.0)
    settings.on_unread()
    assert settings.settled


def test_search_again() -> None:
    nucleus = Nucleus()
    settings = nucleus.applied()
    settings.search_again()
    assert not settings.settled
    assert not settings.on_found(nucleus.searches[-1], SECOND)
    assert settings.localproxy == SECOND.localproxy
    assert settings.settled


def test_an_update_is_not_lost_with_a_localproxy_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """It may have switched a service off, and the localproxy may come back."""
    nucleus = Nucleus()
    settings = nucleus.applied(services={"SSH": 22})
    settings.search_again()
    update = settings.on_read({"services": {"SSH": ""}})
    assert settings.on_found(nucleus.searches[-1], "nothing there")
    assert settings.configuration is update
    assert settings.settled
    assert settings.localproxy == FIRST.localproxy
    assert [record.getMessage() for record in caplog.records] == ["nothing there"]
