"""The event loop: readiness, deadlines, cancelling, signals."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from localproxy.loop import READ, WRITE, Loop, Outcome, sleep, wait


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    # It lives as long as its process, and so has no way to be closed.
    for part in (made._epoll, made._alarm, made._bell):
        part.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_wait_for_readiness_or_the_deadline(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair

    async def work() -> None:
        begun = time.monotonic()
        assert await wait(loop, {ours: READ}, begun + 0.05) is None
        assert 0.05 <= time.monotonic() - begun < 1
        assert await wait(loop, {ours: READ | WRITE}, begun + 9) is ours
        theirs.send(b"x")
        assert await wait(loop, {ours: READ}, begun + 9) is ours
        theirs.close()
        ours.recv(1)
        assert await wait(loop, {ours: READ}, begun + 9) is ours

    loop.run(work())


def test_timers_run_in_order_and_can_be_cancelled(loop: Loop) -> None:
    ran: list[int] = []
    now = time.monotonic()
    for number in (3, 1, 2):
        loop.call_at(now + number / 100, lambda number=number: ran.append(number))  # type: ignore[misc]
    loop.call_at(now + 0.015, lambda: ran.append(9)).cancel()
    loop.run(sleep(loop, 0.06))
    assert ran == [1, 2, 3]


def test_a_cancelled_task_cleans_up_and_never_goes_on(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    said: list[str] = []

    async def waiting() -> None:
        try:
            await wait(loop, {ours: READ}, time.monotonic() + 9)
            said.append("went on")
        finally:
            said.append("cleaned up")

    async def work() -> None:
        task = loop.spawn(waiting(), lambda _: said.append("done"))
        await sleep(loop, 0.01)
        task.cancel()
        task.cancel()
        theirs.send(b"x")
        await sleep(loop, 0.02)

    loop.run(work())
    assert said == ["cleaned up"]


def test_an_outcome_is_settled_once(loop: Loop) -> None:
    outcome = Outcome()

    async def work() -> object:
        loop.call_at(time.monotonic() + 0.01, lambda: outcome.settle("first"))
        first = await outcome.settled()
        outcome.settle("second")
        return first, await outcome.settled()

    assert loop.run(work()) == ("first", "first")


def test_events_of_a_closed_socket_do_not_reach_the_next_one_of_its_number(loop: Loop) -> None:
    """Both sockets are ready in one round; the first callback replaces the second socket."""
    first, first_peer = socket.socketpair()
    second, second_peer = socket.socketpair()
    first_peer.send(b"x")
    second_peer.send(b"x")
    reached: list[str] = []
    made: list[socket.socket] = []

    def replace(old: socket.socket, itself: socket.socket) -> None:
        number = old.fileno()
        for sock in (old, itself):
            loop.watch(sock, 0, lambda _events: None)
        old.close()
        fresh, peer = socket.socketpair()
        made.extend((fresh, peer))
        for sock in (fresh, peer):
            if sock.fileno() == number:
                loop.watch(sock, READ, lambda _events: reached.append("stale"))

    # Whichever comes first replaces the other.
    loop.watch(first, READ, lambda _events: replace(second, first))
    loop.watch(second, READ, lambda _events: replace(first, second))
    loop.run(sleep(loop, 0.02))
    assert made
    assert reached == []
    for sock in (first, second, first_peer, second_peer, *made):
        sock.close()


def test_a_signal_wakes_the_loop(loop: Loop) -> None:
    outcome = Outcome()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, lambda: outcome.settle("woken"))

        async def work() -> object:
            loop.call_soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))
            return await outcome.settled()

        assert loop.run(work()) == "woken"
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, before)
