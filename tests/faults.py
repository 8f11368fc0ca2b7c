"""The schedule of faults: breaks one thing after the other around the real agent, and looks what holds.

    tests/.venv/3.11/bin/python tests/faults.py --minutes 30 [--seed N] [--from STEP] [--only WORDS]

Every round has each fault once, in an order and with parameters that the seed alone decides. After each, a
tunnel must carry bytes, every notification must have been served or refused with a reason, nothing may be
left over, and no token may have been printed: see ``standins/stage.py``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parent
    sys.path[:0] = [str(tests), str(tests.parent / "src")]

from standins.faults import OF_TUNNELS
from standins.faults_device import OF_DEVICES
from standins.stage import Stage

FAULTS = {**OF_TUNNELS, **OF_DEVICES}


def schedule(seed: int) -> Iterator[tuple[str, random.Random]]:
    """The faults by name, without end, each with a generator of its own."""
    order, number = random.Random(seed), 0
    while True:
        names = sorted(FAULTS)
        order.shuffle(names)
        for name in names:
            number += 1
            yield name, random.Random(f"{seed}-{number}")


def run(seed: int, seconds: float, start: int = 1, only: str = "") -> Counter[str]:
    """Run the schedule for this long, or one round; returns how often there was each fault.

    Raises:
        Exception: something did not hold; what, and at which step, has been printed.
    """
    print(f"seed {seed}", flush=True)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    longest = 0.0
    with Stage() as stage:
        for step, (name, rng) in enumerate(schedule(seed), 1):
            if time.monotonic() - began > seconds if seconds else step > len(FAULTS):
                break
            if step < start or only not in name:
                continue
            at = time.monotonic()
            try:
                FAULTS[name](stage, rng)
                stage.settle()
            except BaseException:
                print(f"FAILED at step {step}, {name}, with seed {seed}", *stage.component.lines, sep="\n")
                raise
            counts[name] += 1
            longest = max(longest, time.monotonic() - at)
            print(f"{at - began:6.0f} s  step {step:3}  {time.monotonic() - at:5.1f} s  {name}", flush=True)
        stage.component.process.terminate()
        stage.over(0)
    print(
        f"all held: {sum(counts.values())} faults of {len(counts)} kinds in {time.monotonic() - began:.0f} s"
    )
    print(f"  seed {seed}, longest {longest:.1f} s, agent started {stage.lives} times")
    print(f"  {stage.delivered} valid notifications delivered, most memory {stage.memory:.1f} MiB")
    for name, count in sorted(counts.items()):
        print(f"  {count:4}  {name}")
    return counts


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0, help="without it, one round")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--from", type=int, default=1, dest="start", help="the step to begin with")
    parser.add_argument("--only", default="", help="only faults with this in their name")
    arguments = parser.parse_args()
    try:
        run(arguments.seed, arguments.minutes * 60, arguments.start, arguments.only)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
