"""An event loop in a thread of its own: drives the asyncio stand-ins from synchronous code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Use as a context manager.

        with LoopThread() as loop, loop.enter(TunnelingService(directory)) as service:
            tunnel = loop.run(service.open_tunnel(["SSH"]))
            loop.run(tunnel.destination.wait_connected())

    What a stand-in does is a coroutine, to be given to `run`. What it has seen is plain attributes, to
    be read from any thread.
    """

    def __enter__(self) -> LoopThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-ins", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_cancel_others())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """What the coroutine returns or raises; TimeoutError after `timeout` seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise TimeoutError(f"{coroutine} did not end within {timeout} s") from None

    @contextlib.contextmanager
    def enter(self, stand_in: AbstractAsyncContextManager[T], timeout: float = 30) -> Iterator[T]:
        """An asynchronous context manager as a synchronous one."""
        value = self.run(_enter(stand_in), timeout)
        try:
            yield value
        finally:
            self.run(_exit(stand_in), timeout)


async def _enter(stand_in: AbstractAsyncContextManager[T]) -> T:
    return await stand_in.__aenter__()


async def _exit(stand_in: AbstractAsyncContextManager[Any]) -> None:
    await stand_in.__aexit__(None, None, None)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
