"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double up to a cap, with jitter so that a fleet does not try in step.

    Args:
        first: about the first delay, in seconds.
        cap: the longest delay, in seconds.
    """

    def __init__(self, first: float, cap: float) -> None:
        self._first = first
        self._cap = cap
        self.failures = 0

    def next(self) -> float:
        """The delay after one more failure, in seconds."""
        # The exponent is bounded, as a device may be offline for years.
        delay = min(self._cap, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def reset(self) -> None:
        """It worked: the next delay is the first one again."""
        self.failures = 0
