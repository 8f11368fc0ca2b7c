"""Fixtures: a nucleus, a fake localproxy, and a component between them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest

from standins.component import Component, alive
from standins.fake_localproxy import FakeLocalproxy, notification, token
from standins.nucleus import Nucleus


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for Unix sockets, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="tunnel-agent-") as path:
        yield Path(path)


@pytest.fixture
def fake(folder: Path) -> FakeLocalproxy:
    """A fake localproxy."""
    return FakeLocalproxy(folder)


Start = Callable[..., "tuple[Nucleus, Component]"]


@pytest.fixture
def start(folder: Path, fake: FakeLocalproxy) -> Iterator[Start]:
    """Starts a nucleus and a component that uses the fake localproxy, and waits until it is subscribed.

    Keyword arguments become the configuration; ``nucleus_options`` and ``component_options`` go to the two.
    ``prepare`` is called with the nucleus before the component starts; then nothing is waited for.
    """
    with ExitStack() as stack:

        def run(
            nucleus_options: dict[str, Any] | None = None,
            component_options: dict[str, Any] | None = None,
            prepare: Callable[[Nucleus], object] | None = None,
            **configuration: Any,
        ) -> tuple[Nucleus, Component]:
            configuration.setdefault("localproxyPath", str(fake.path))
            nucleus = stack.enter_context(Nucleus(folder, configuration, **(nucleus_options or {})))
            if prepare is not None:
                prepare(nucleus)
            work = folder / "work"
            work.mkdir()
            component = Component(nucleus, work, **(component_options or {}))
            # Shown with a test that fails.
            stack.callback(lambda: print(*component.lines, sep="\n"))
            stack.enter_context(component)
            if prepare is None:
                nucleus.wait_subscribed()
                component.wait_line("^INFO services: ")
            return nucleus, component

        yield run


def live(nucleus: Nucleus, fake: FakeLocalproxy, *services: str, behaviour: str = "stay") -> dict[str, Any]:
    """Open a tunnel and wait until it is connected; returns how its localproxy was started."""
    secret = token(behaviour)
    nucleus.notify(notification(secret, services or ("SSH",)))
    nucleus.wait_status("connected", secret)
    return fake.run_of(secret)


def gone(*pids: int, timeout: float) -> bool:
    """Wait until none of these processes runs any more; whether that came true."""
    end = time.monotonic() + timeout
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
