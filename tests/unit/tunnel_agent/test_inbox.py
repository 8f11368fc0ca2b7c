"""The queue between threads: nothing is lost, nobody waits too long or too short."""

from __future__ import annotations

import os
import threading
import time
from typing import Optional

from tunnel_agent.inbox import Inbox


def test_in_order_and_at_once() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(3):
        inbox.put(number)
    assert [inbox.get(0), inbox.get(float("inf")), inbox.get(-1)] == [0, 1, 2]
    assert inbox.get(0) is None


def test_it_waits_for_as_long_as_asked() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.get(0)  # its wake-up call is left, and must not end the next wait
    began = time.monotonic()
    assert inbox.get(0.1) is None
    assert 0.1 <= time.monotonic() - began < 1


def test_many_threads() -> None:
    """What hung for ever on some versions with a queue of the standard library: waits over their timeouts."""
    inbox: Inbox[int] = Inbox()
    numbers = range(2000)

    def put() -> None:
        for number in numbers:
            inbox.put(number)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    deadline = time.monotonic() + 60
    while len(taken) < len(numbers) * len(threads) and time.monotonic() < deadline:
        item = inbox.get(0.0001)
        if item is not None:
            taken.append(item)
    assert sorted(taken) == sorted([*numbers] * len(threads))


def test_more_than_the_pipe_takes() -> None:
    inbox: Inbox[int] = Inbox()
    count = 100_000
    for number in range(count):
        inbox.put(number)
    assert [inbox.get(0) for _ in range(count)] == list(range(count))
    assert inbox.get(0.01) is None


def test_a_waiting_thread_is_woken() -> None:
    inbox: Inbox[int] = Inbox()
    taken: list[Optional[int]] = []
    for number in range(200):
        thread = threading.Thread(target=lambda: taken.append(inbox.get(60)))
        thread.start()
        inbox.put(number)
        thread.join(10)
    assert taken == list(range(200))


def test_no_child_gets_it() -> None:
    inbox: Inbox[int] = Inbox()
    assert not any(os.get_inheritable(end) for end in (inbox._reading, inbox._writing))
