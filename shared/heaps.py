"""How many heaps a process has: glibc gives each thread one of its own, and nothing back from the middle of one.

Pages of SQLite's caches are taken by whichever thread reads them first, so that in time each of some seven heaps of
64 MiB is full, and of holes (690 MiB beside chaos; in a like run Python's own objects were 10 of 213 MiB).
"""

import ctypes
import sys

HEAPS_MAX = 2
_M_ARENA_MAX = -8  # malloc.h


def share_heaps() -> None:
    """Let all threads that begin from now on share HEAPS_MAX heaps. Other C libraries than glibc have no such heaps."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, HEAPS_MAX)
