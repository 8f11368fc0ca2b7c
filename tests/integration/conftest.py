"""Fixtures: a nucleus, a fake localproxy, and a component between them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest

from standins.component import Component
from standins.fake_localproxy import FakeLocalproxy
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
    """Starts a nucleus and a component that is subscribed and uses the fake localproxy.

    Keyword arguments become the configuration; ``nucleus_options`` and ``component_options`` go to the two.
    """
    with ExitStack() as stack:

        def run(
            nucleus_options: dict[str, Any] | None = None,
            component_options: dict[str, Any] | None = None,
            **configuration: Any,
        ) -> tuple[Nucleus, Component]:
            configuration.setdefault("localproxyPath", str(fake.path))
            nucleus = stack.enter_context(Nucleus(folder, configuration, **(nucleus_options or {})))
            work = folder / "work"
            work.mkdir()
            component = stack.enter_context(Component(nucleus, work, **(component_options or {})))
            nucleus.wait_subscribed()
            component.wait_line("^INFO services: ")
            return nucleus, component

        yield run
