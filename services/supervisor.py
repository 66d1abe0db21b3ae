"""Keeps child processes alive: one that ends is started again after a growing pause, and stop ends all of them.

Children are known by the handle they were started with, never looked up by name. They get a session of their own,
so that Ctrl-C reaches the parent alone, which then ends them in order; where the system allows it they also end
when the parent is killed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shared.clock import Clock

PAUSE_FIRST_SECONDS = 0.5
PAUSE_MAX_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran this long counts as well again: its next pause is the first one."""
GRACE_SECONDS = 15.0
"""How long a child may take to end by itself after SIGTERM."""
LINE_BYTES_MAX = 1 << 20
LAST_WORDS_SECONDS = 2.0
"""How long to listen on after a child's end: a process of its own may still hold its output."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """What to run and under which name to speak of it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


class Supervisor:
    """Starts `children`, restarts what ends, and stops all.

    `say` gets one line for each thing worth telling · `hear` gets each line a child prints, with the child's name;
    without it they print where we do.
    """

    def __init__(
        self,
        children: Sequence[Child],
        clock: Clock,
        say: Callable[[str], None],
        hear: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._children = tuple(children)
        self._clock = clock
        self._say = say
        self._hear = hear
        self._stopping = asyncio.Event()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self.restarts: dict[str, int] = dict.fromkeys((child.name for child in children), 0)

    def start(self) -> None:
        """Start every child and keep it alive until `stop`. Needs a running event loop."""
        self._keepers = [asyncio.create_task(self._keep(child)) for child in self._children]

    def process_id(self, name: str) -> int | None:
        """Process id of the child as it runs now; None between two starts."""
        process = self._processes.get(name)
        return process.pid if process is not None and process.returncode is None else None

    async def stop(self) -> None:
        """SIGTERM to each child, wait for its own end, SIGKILL after GRACE_SECONDS. Returns when all are gone."""
        self._stopping.set()
        await asyncio.gather(*self._keepers)

    async def _keep(self, child: Child) -> None:
        pause_seconds = PAUSE_FIRST_SECONDS
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            code = await self._run_once(child)
            if self._stopping.is_set():
                return
            if self._clock.monotonic() - began >= STEADY_SECONDS:
                pause_seconds = PAUSE_FIRST_SECONDS
            self.restarts[child.name] += 1
            self._say(f"{child.name} ended ({ending(code)}); starting it again in {pause_seconds:g} s")
            await self._stopping_within(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_MAX_SECONDS)

    async def _run_once(self, child: Child) -> int:
        process = await asyncio.create_subprocess_exec(
            *child.command,
            env=dict(child.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if self._hear else None,
            stderr=asyncio.subprocess.STDOUT if self._hear else None,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
            preexec_fn=partial(end_with, os.getpid()),
        )
        self._processes[child.name] = process
        listening = asyncio.create_task(self._listen(child.name, process.stdout))
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            await self._end(child, process, ended)
        await asyncio.wait((listening,), timeout=LAST_WORDS_SECONDS)
        listening.cancel()
        return await ended

    async def _listen(self, name: str, printed: asyncio.StreamReader | None) -> None:
        """Hand on what a child prints until it prints no more."""
        while self._hear is not None and printed is not None:
            try:
                line = await printed.readline()
            except ValueError:  # the reader has dropped it
                line = b"a line of more than %d bytes is left out\n" % LINE_BYTES_MAX
            if not line:
                return
            self._hear(name, line)

    async def _end(self, child: Child, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait((ended,), timeout=GRACE_SECONDS)
        if not done:
            self._say(f"{child.name} did not end within {GRACE_SECONDS:g} s; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _stopping_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def ending(code: int) -> str:
    """How a process ended, in words: `code 3`, or `signal SIGKILL` for asyncio's negative codes."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork: a fork may not load libraries


def end_with(parent: int) -> None:
    """Runs in a child between fork and exec: SIGTERM when the parent dies, however it dies. On Linux alone."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)
