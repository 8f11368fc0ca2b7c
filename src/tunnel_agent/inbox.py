"""A queue that any thread may put into and one thread takes from."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from typing import Generic, Optional, TypeVar

Item = TypeVar("Item")

_LONGEST_WAIT = 2**31 - 1  # of poll(), in milliseconds: 24 days


class Inbox(Generic[Item]):
    """Its taker waits for a byte in a pipe.

    The locks of ``queue.Queue`` are felt in a tunnel's start; on Python 3.9 and 3.10 ``SimpleQueue.get()``
    may wait for ever in spite of its timeout.

    Raises:
        OSError: there is no descriptor left.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._reading, select.POLLIN)

    def put(self, item: Item) -> None:
        """Add an item; never waits."""
        self._items.append(item)
        # A full pipe wakes the other side as well.
        with contextlib.suppress(BlockingIOError):
            os.write(self._writing, b"\0")

    def get(self, timeout: float) -> Optional[Item]:
        """The oldest item; None when there is none for this many seconds (``inf`` for no limit)."""
        until = time.monotonic() + timeout
        while not self._items:
            left = until - time.monotonic()
            if left <= 0:
                return None
            # The byte may be of an item that was taken already: then there is another look.
            if self._poll.poll(min(left * 1000, _LONGEST_WAIT)):
                os.read(self._reading, 4096)
        return self._items.popleft()
