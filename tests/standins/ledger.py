"""What the agent was given and what it said of it: each notification its answer, each tunnel its end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

_OPENED = re.compile(r"^INFO \[tunnel (\d+) [^]]*\] opened to ")
_ENDED = re.compile(r"^\w+ \[tunnel (\d+) [^]]*\] (?:closed|rejected|failed|timedOut) after \d+ s: ")
_NEVER = re.compile(r"unexpected error|Traceback|was lost$|broke off")
_PIECE = 24  # characters of a secret that must not be printed, either


class Ledger:
    """The books of one agent.

    Attributes:
        secrets: what must not be in any line.
    """

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self._expected: set[str] = set()
        self._events: dict[str, list[str]] = {}
        self._opened: set[int] = set()
        self._ended: set[int] = set()
        self._words: list[str] = []

    def expect(self, access_token: str) -> None:
        """A valid notification was delivered."""
        self._expected.add(hashlib.sha256(access_token.encode()).hexdigest()[:12])

    def enter(self, lines: Iterable[str], status_events: Iterable[Mapping[str, Any]]) -> None:
        """Take in what came from the agent."""
        for event in status_events:
            self._events.setdefault(event["token"] or "", []).append(event["event"])
        for line in lines:
            if match := _OPENED.search(line):
                self._opened.add(int(match[1]))
            elif match := _ENDED.search(line):
                self._ended.add(int(match[1]))
            if _NEVER.search(line):
                self._words.append(line)
            if any(secret[:_PIECE] in line for secret in self.secrets):
                self._words.append(f"a secret: {line}")

    def open_ends(self) -> str:
        """Which tunnels have not ended yet; empty for none.

        Raises:
            AssertionError: a line says what no line may say.
        """
        if self._words:
            raise AssertionError("\n".join(self._words))
        if self._opened != self._ended:
            return f"tunnels {sorted(self._opened ^ self._ended)} have no line of their end"
        return ""

    def unanswered(self) -> str:
        """Which notifications nothing was said of; empty for none."""
        answers = {"opened", "refused"}
        missing = [each for each in self._expected if not answers.intersection(self._events.get(each, ()))]
        return f"notifications {missing} were neither opened nor refused in a status event" if missing else ""

    def close(self) -> None:
        """Begin a new page; the secrets stay."""
        self._expected.clear()
        self._events.clear()
        self._opened.clear()
        self._ended.clear()
