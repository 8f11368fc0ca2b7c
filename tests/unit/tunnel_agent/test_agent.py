"""The event loop by itself, where something happens that nobody has thought of."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tunnel_agent import launch
from tunnel_agent.agent import Agent
from tunnel_agent.config import Configuration
from tunnel_agent.events import ChildEnded, NotificationArrived
from tunnel_agent.launch import Localproxy
from tunnel_agent.logs import ComponentLog, Secrets

NOTIFICATION = {
    "clientAccessToken": "x" * 99,
    "clientMode": "destination",
    "region": "r",
    "services": ["SSH"],
}


class _Nucleus:
    def __init__(self) -> None:
        self.published: list[Any] = []

    def publish(self, topic: str, message: Any) -> None:
        self.published.append(message)


def _settled(tmp_path: Path, localproxy: str) -> tuple[Agent, _Nucleus]:
    agent = Agent(ComponentLog(Secrets()), tmp_path, tmp_path, {})
    nucleus = _Nucleus()
    agent._nucleus = nucleus  # type: ignore[assignment]
    agent._settings.on_unread()
    agent._settings.configuration = Configuration()
    agent._settings.localproxy = Localproxy((localproxy,), False, "3.3", frozenset())
    return agent, nucleus


def test_an_unexpected_error_costs_no_notification_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nobody has thought of this")

    monkeypatch.setattr(launch, "arguments", broken)
    agent, nucleus = _settled(tmp_path, "/lp")
    for _ in range(2):  # a redelivery gets another chance, and another answer
        agent.post(NotificationArrived(json.dumps(NOTIFICATION).encode()))
        agent._step()
    assert [(event["event"], event["reason"]) for event in nucleus.published] == [
        ("refused", "an unexpected error: KeyError")
    ] * 2


@pytest.mark.parametrize("stopping", [False, True])
def test_a_localproxy_that_nobody_can_read_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """There is room for its process, but none for the threads that read its output: one more try."""
    localproxy = tmp_path / "localproxy"
    localproxy.write_text("#!/bin/sh\nexec sleep 60\n")
    localproxy.chmod(0o755)
    start_thread = threading.Thread.start
    refusals = iter([RuntimeError("can't start new thread")])

    def start(thread: threading.Thread) -> None:
        for refusal in refusals:
            raise refusal
        start_thread(thread)

    agent, nucleus = _settled(tmp_path, str(localproxy))
    monkeypatch.setattr(threading.Thread, "start", start)
    agent.post(NotificationArrived(json.dumps(NOTIFICATION).encode()))
    agent._step()
    assert agent._tunnels.live
    if stopping:
        agent._tunnels.stop()
    while not nucleus.published:
        agent._step()
    assert [event["event"] for event in nucleus.published] == ["refused" if stopping else "opened"]
    agent._tunnels.stop()
    while agent._tunnels.live:
        agent.post(ChildEnded())
        agent._step()
    agent._tunnels.close()
    watchdog = agent._watchdog._process
    assert watchdog is not None
    agent._watchdog.stop()
    watchdog.wait()
    with pytest.raises(ChildProcessError):  # no other child is left, not even as a zombie
        os.waitpid(-1, os.WNOHANG)
    assert list((tmp_path / "tunnels").iterdir()) == []
