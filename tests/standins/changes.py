"""Waiting for a condition of shared asyncio state, always with a time limit."""

from __future__ import annotations

import asyncio
from typing import Callable


class Changes:
    """Whoever changes the state calls `tell`; whoever waits for it awaits `until`."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """The state changed: every condition is looked at again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds."""
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    async def within(self, timeout: float, condition: Callable[[], bool], what: str) -> None:
        """As `until`; raises TimeoutError that names `what` after `timeout` seconds."""
        try:
            await asyncio.wait_for(self.until(condition), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"{what}: not within {timeout} s") from None
