"""How many heaps of threads a process has, as the kernel shows them."""

import platform
from pathlib import Path

_HEAP_BYTES = 64 << 20
"""glibc begins the heap of a thread at a multiple of this (64-bit)."""


def has_heaps_of_threads() -> bool:
    """Whether this machine's C library gives threads heaps of their own."""
    return platform.libc_ver()[0] == "glibc"


def heaps_of(pid: int) -> int:
    """Heaps beside the first, which is the process's own and lies elsewhere; 0 where threads have none."""
    if not has_heaps_of_threads():
        return 0
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    private = [line for line in lines if " rw-p 00000000 00:00 0" in line]
    return sum(int(line.partition("-")[0], 16) % _HEAP_BYTES == 0 for line in private)
