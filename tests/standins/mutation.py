"""Wrong versions of right things, by a seeded generator: a payload's bytes, a JSON value's members."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 22, 65536, 1 << 70, 1.5, float("nan"), float("inf"), [], {}, ""),
    *("-d", "--help", "x y", "a,b=c", "a\nb", "\0", "é", "\ud800", "x" * 5000, "22", "builtin", "../..", "/"),
    *("$(reboot)", "host:1,X=evil:2", "a.evil.com", [[]], [None], [1], {"a": {}}, ["SSH"] * 100),
)
_PIECES = (
    b"{",
    b"}",
    b'"',
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"[" * 50,
    b"1e999",
    b"NaN",
    b",",
    b":",
    b"\0",
)


def mutate_payload(payload: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, splice, or swap the members of a JSON object for something else."""
    data = bytearray(payload)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            del data[place : place + rng.randrange(1, 20)]
        elif kind == 3:
            data[place:place] = rng.choice(_PIECES)
        elif kind == 4:
            start = rng.randrange(len(data) + 1)
            data[place:place] = data[start : start + rng.randrange(1, 40)]
        else:
            try:
                data = bytearray(json.dumps(mutate_value(json.loads(bytes(data)), rng)).encode())
            except (ValueError, RecursionError):
                data += rng.choice(_PIECES)
    return bytes(data)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one thing in it, at any depth, swapped, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        changed = dict(value)
        key = rng.choice(list(changed))
        kind = rng.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.2:
            changed[str(rng.choice(WRONG))] = changed.pop(key)
        elif kind < 0.3:
            changed[key] = changed[rng.choice(list(changed))]
        else:
            changed[key] = mutate_value(changed[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        changed_list = list(value)
        index = rng.randrange(len(changed_list))
        changed_list[index] = mutate_value(changed_list[index], rng)
        return changed_list
    if isinstance(value, str) and value and rng.random() < 0.5:
        place = rng.randrange(len(value) + 1)
        return (
            value[:place] + rng.choice(("\n", "\0", " ", ",", "=", "-", "é", "/", ":", "x")) + value[place:]
        )
    return copy.deepcopy(rng.choice(WRONG))
