"""One thread's event loop: readiness, timers, signals, and coroutines that wait for them.

What lives here: when something runs. What must not: what it does; no byte is read or written here.

Theory of operation. Long-lived sockets register a callback with `watch`; a callback does a bounded
amount of work and returns. What happens one step after another (connect, handshake, wait, again) is
written as a coroutine run by `spawn`: it awaits `wait`, `sleep` or an `Outcome`. Everything happens in
one thread, one thing at a time, so nothing here needs a lock.

Why not asyncio: importing it doubles the private memory of an idle tunnel, and its transports hide the
one thing a tunnel needs to see, namely how much is still unsent. This is the part of it that is used.
"""

from __future__ import annotations

import heapq
import select
import signal
import socket
import time
from collections import deque
from functools import partial
from types import coroutine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")
    # A coroutine yields what arms its wake-up: given the function to call with the result, it gives
    # back the one that calls the whole thing off.
    Arm = Callable[[Callable[[Any], None]], Callable[[], None]]
    Work = Coroutine[Arm, Any, T]

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
# What is wrong with a socket comes out when it is read or written.
_TROUBLE = select.EPOLLERR | select.EPOLLHUP


class Timer:
    """A callback at a time; `cancel` calls it off."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None] | None) -> None:
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Runs callbacks and tasks until the main task is done."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()
        # A signal that arrives while epoll waits must end that wait.
        self._alarm, self._bell = socket.socketpair()
        for end in (self._alarm, self._bell):
            end.setblocking(False)
        self.watch(self._alarm, READ, self._silence)

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        """Call back with the events that happened; 0 ends the watch, which must come before a close."""
        descriptor = sock.fileno()
        before = self._watched.get(descriptor)
        if events:
            if before is None:
                self._epoll.register(descriptor, events)
            elif before == (events, callback):
                return
            elif before[0] != events:
                self._epoll.modify(descriptor, events)
            self._watched[descriptor] = (events, callback)
        elif before is not None:
            self._epoll.unregister(descriptor)
            del self._watched[descriptor]

    def call_at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Call back at `due`, a time of time.monotonic()."""
        timer = Timer(due, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call back in the loop when the signal arrives."""
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        signal.signal(number, lambda _number, _frame: self._soon.append(callback))

    def spawn(self, work: Work[T], done: Callable[[T], None] | None = None) -> Task:
        """Start a coroutine; `done` is called with what it returns. An exception ends the loop."""
        return Task(self, work, done)

    def run(self, work: Work[T]) -> T:
        """Run everything until this coroutine returns."""
        results: list[T] = []
        self.spawn(work, results.append)
        while not results:
            self._turn()
        return results[0]

    def _turn(self) -> None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        timeout = None
        if self._soon:
            timeout = 0.0
        elif self._timers:
            timeout = max(0.0, self._timers[0].due - time.monotonic())
        ready = [
            (descriptor, self._watched[descriptor], events)
            for descriptor, events in self._epoll.poll(timeout)
        ]
        for descriptor, watched, events in ready:
            # An earlier callback of this round may have changed or ended this watch; its number may even
            # belong to another socket by now. What is still true then comes again in the next round.
            if self._watched.get(descriptor) is watched:
                wanted, callback = watched
                callback(wanted if events & _TROUBLE else events & wanted)
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            due = heapq.heappop(self._timers).callback
            if due:
                due()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def _silence(self, _events: int) -> None:
        # Only ever called when there is something to read.
        self._alarm.recv(4096)


class Task:
    """A coroutine under way."""

    def __init__(self, loop: Loop, work: Work[Any], done: Callable[[Any], None] | None) -> None:
        self._work: Work[Any] | None = work
        self._done = done
        self._disarm: Callable[[], None] | None = None
        loop.call_soon(partial(self._step, None))

    def cancel(self) -> None:
        """Stop where it waits; its `finally` blocks run, `done` is not called."""
        work, self._work = self._work, None
        if self._disarm:
            self._disarm()
        if work:
            work.close()

    def _step(self, value: object) -> None:
        if self._work is None:
            return
        self._disarm = None
        try:
            arm = self._work.send(value)
        except StopIteration as stop:
            self._work = None
            if self._done:
                self._done(stop.value)
            return
        self._disarm = arm(self._step)


class Outcome:
    """Something one coroutine waits for and somebody else settles, once."""

    def __init__(self) -> None:
        self._result: list[Any] = []
        self._resume: Callable[[Any], None] | None = None

    def settle(self, result: object) -> None:
        """The first settlement counts."""
        if self._result:
            return
        self._result.append(result)
        if self._resume:
            self._resume(result)

    async def settled(self) -> Any:
        return self._result[0] if self._result else await _suspend(self._arm)

    def _arm(self, resume: Callable[[Any], None]) -> Callable[[], None]:
        self._resume = resume
        return lambda: None


async def wait(loop: Loop, interests: Mapping[socket.socket, int], deadline: float) -> socket.socket | None:
    """The first socket that becomes ready for the events given with it, or None at the deadline."""

    def arm(resume: Callable[[Any], None]) -> Callable[[], None]:
        def disarm() -> None:
            timer.cancel()
            for sock in interests:
                loop.watch(sock, 0, lambda _events: None)

        def wake(sock: socket.socket | None, _events: int = 0) -> None:
            disarm()
            resume(sock)

        timer = loop.call_at(deadline, partial(wake, None))
        for sock, events in interests.items():
            loop.watch(sock, events, partial(wake, sock))
        return disarm

    ready: socket.socket | None = await _suspend(arm)
    return ready


async def sleep(loop: Loop, seconds: float) -> None:
    await wait(loop, {}, time.monotonic() + seconds)


@coroutine
def _suspend(arm: Arm) -> Generator[Arm, Any, Any]:
    return (yield arm)
