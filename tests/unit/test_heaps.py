"""Threads share heaps: in a process of its own, since what is set holds for all of it."""

import subprocess
import sys

import pytest

SIXTEEN_THREADS = """
import re, sys, threading
from pathlib import Path
from shared.heaps import share_heaps
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
heaps = [line for line in Path("/proc/self/maps").read_text().splitlines()
         if int(line.split("-")[0], 16) % (64 << 20) == 0 and " rw-p 00000000 00:00 0" in line]
print(len(heaps))
together.wait()
"""


def heaps(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", SIXTEEN_THREADS, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="heaps of threads are glibc's")
def test_threads_share_heaps() -> None:
    assert heaps("shared") <= 2 < heaps("as they are")
