"""Delays before trying again."""

from __future__ import annotations

from tunnel_agent.backoff import Backoff


def test_it_doubles_with_jitter_up_to_the_cap_and_starts_anew() -> None:
    backoff = Backoff(1.0, 10.0)
    for full in (1, 2, 4, 8, 10, 10):
        assert full / 2 <= backoff.next() <= full
    backoff.failures = 10**6
    assert backoff.next() <= 10
    backoff.reset()
    assert backoff.next() <= 1
