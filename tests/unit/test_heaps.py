"""Threads share heaps: in a process of its own, since what is set holds for all of it."""

import subprocess
import sys

from shared.heaps import HEAPS_MAX
from tests.support.heaps import has_heaps_of_threads
from tests.support.required import unavailable

SIXTEEN_THREADS = """
import os, sys, threading
from shared.heaps import share_heaps
from tests.support.heaps import heaps_of
if sys.argv[1] == "shared":
    share_heaps()
together, kept = threading.Barrier(17), []
def take():
    kept.append(b"x" * 100_000)
    together.wait()
    together.wait()
for _ in range(16):
    threading.Thread(target=take).start()
together.wait()
print(heaps_of(os.getpid()))
together.wait()
"""


def heaps(how: str) -> int:
    command = [sys.executable, "-c", SIXTEEN_THREADS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_threads_share_heaps() -> None:
    if not has_heaps_of_threads():
        unavailable("glibc", "heaps of threads are its own")
    assert heaps("shared") < HEAPS_MAX <= heaps("as they are")
