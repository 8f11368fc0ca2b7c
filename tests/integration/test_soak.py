"""Many tunnels one after another in one agent: nothing piles up.

In the suite there are few of them. By hand, with all 2,000 of a localproxy that ends at once and 200 of the
built-in one, and the figures printed:

    SOAK=1 tests/.venv/3.11/bin/python -m pytest -s tests/integration/test_soak.py

Threads, descriptors and processes must be exactly as many at the end as after the first 20. Memory may be
MEMORY_TOLERANCE more: the allocator's play, and the keys of 12 hours' tokens, some 200 bytes each.
"""

from __future__ import annotations

import os
from pathlib import Path

from integration.conftest import Start
from standins.component import descendants, held, memory
from standins.fake_localproxy import notification, token
from standins.stage import Stage, until

FULL = bool(os.environ.get("SOAK"))
FAKE_TUNNELS = 2000 if FULL else 300
BUILTIN_TUNNELS = 200 if FULL else 25
FIRST = 20
MEMORY_TOLERANCE = 4.0  # MiB


def figures(pid: int) -> dict[str, float]:
    """What may not pile up."""
    threads, descriptors = held(pid)
    return {
        "threads": threads,
        "descriptors": descriptors,
        "processes": len(descendants(pid)),
        "MiB": round(memory(pid), 2),
    }


def look_alike(pid: int, first: dict[str, float], count: int) -> None:
    """Wait until what must be gone is gone; TimeoutError says what is not."""

    def problem() -> str:
        now = figures(pid)
        grown = now["MiB"] > first["MiB"] + MEMORY_TOLERANCE
        more = [key for key in first if key != "MiB" and now[key] != first[key]]
        return f"after {count} tunnels {now}, after {FIRST} {first}" if more or grown else ""

    until(problem, 5)
    print(f"\nafter {FIRST} tunnels {first}, after {count} {figures(pid)}")


def test_a_localproxy_that_ends_at_once(start: Start, folder: Path) -> None:
    localproxy = folder / "quick"
    localproxy.write_text('#!/bin/sh\n[ "$1" = --help ] && echo --destination-app\nexit 0\n')
    localproxy.chmod(0o755)
    nucleus, component = start(localproxyPath=str(localproxy))
    first: dict[str, float] = {}
    for count in range(1, FAKE_TUNNELS + 1):
        secret = token("quick")
        nucleus.notify(notification(secret))
        nucleus.wait_status("closed", secret)
        # All of them again for each wait would take longer and longer.
        nucleus.requests.clear()
        component.take()
        if count == FIRST:
            until(lambda: "" if figures(component.process.pid)["processes"] == 1 else "still there")
            first = figures(component.process.pid)
    look_alike(component.process.pid, first, FAKE_TUNNELS)
    assert len(list((folder / "work/tunnels").iterdir())) == 1
    assert component.stop() == 0


def test_the_builtin_localproxy() -> None:
    """Each tunnel carries bytes; see Stage.settle for what else must hold after each."""
    with Stage() as stage:
        first: dict[str, float] = {}
        for count in range(2, BUILTIN_TUNNELS + 1):  # the stage has begun with one
            stage.settle()
            if count == FIRST:
                first = figures(stage.component.process.pid)
        look_alike(stage.component.process.pid, first, BUILTIN_TUNNELS)
