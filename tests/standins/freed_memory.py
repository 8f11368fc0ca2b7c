"""Keeps glibc from handing back memory between two frames."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep() -> None:
    """For the whole process, and for good.

    asyncio reads 256 KiB at a time into fresh buffers. By default glibc maps and unmaps pages for each
    of them, which halves a tunnel's throughput.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 4 << 20)
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
