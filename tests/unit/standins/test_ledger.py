"""The ledger of the schedule of faults finds what is missing, and what may not be said."""

from __future__ import annotations

import hashlib

import pytest

from standins.ledger import Ledger

TOKEN = "A" * 100
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()[:12]
OPENED = "INFO [tunnel 3 SSH] opened to 127.0.0.1:22, region eu-central-1"
ENDED = "ERROR [tunnel 3 SSH] failed after 0 s: localproxy ended with exit code 1"


def test_a_notification_needs_its_answer() -> None:
    ledger = Ledger()
    ledger.expect(TOKEN)
    ledger.enter([], [{"token": "000000000000", "event": "opened"}, {"token": DIGEST, "event": "closed"}])
    assert DIGEST in ledger.unanswered()
    ledger.enter([], [{"token": DIGEST, "event": "refused"}])
    assert ledger.unanswered() == ""


def test_a_tunnel_needs_its_end() -> None:
    ledger = Ledger()
    ledger.enter([OPENED], [])
    assert ledger.open_ends() == "tunnels [3] have no line of their end"
    ledger.enter([ENDED], [])
    assert ledger.open_ends() == ""


@pytest.mark.parametrize(
    "line", [f"DEBUG {TOKEN[:24]}...", "ERROR an unexpected error; the component goes on"]
)
def test_what_may_not_be_said(line: str) -> None:
    ledger = Ledger()
    ledger.secrets.add(TOKEN)
    ledger.enter([line], [])
    with pytest.raises(AssertionError, match=r"secret|unexpected"):
        ledger.open_ends()
