"""The event loop by itself, where something happens that nobody has thought of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnel_agent import launch
from tunnel_agent.agent import Agent
from tunnel_agent.config import Configuration
from tunnel_agent.events import NotificationArrived
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


def test_an_unexpected_error_costs_no_notification_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nobody has thought of this")

    monkeypatch.setattr(launch, "arguments", broken)
    agent = Agent(ComponentLog(Secrets()), tmp_path, tmp_path, {})
    nucleus = _Nucleus()
    agent._nucleus = nucleus  # type: ignore[assignment]
    agent._settings.on_unread()
    agent._settings.configuration = Configuration()
    agent._settings.localproxy = Localproxy(("/lp",), False, "3.3", frozenset())
    for _ in range(2):  # a redelivery gets another chance, and another answer
        agent.post(NotificationArrived(json.dumps(NOTIFICATION).encode()))
        agent._step()
    assert [(event["event"], event["reason"]) for event in nucleus.published] == [
        ("refused", "an unexpected error: KeyError")
    ] * 2
