"""The feed of `definitions`: each service reads it from its start, follows it, and knows how fresh its reading is."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import structlog

from shared.access import Access, Workspace
from shared.clock import Clock
from shared.codec import Unknown, decode
from shared.ending import ended
from shared.errors import RaftarError, Retryable, Stopped
from shared.events import Fact
from shared.log.port import Log
from shared.retry import until_answered
from shared.telemetry import where
from shared.topics import DEFINITIONS

_log = structlog.get_logger("definitions")

FOLLOW_SECONDS = 0.25
"""How long one read waits, and how often the end of the topic is asked for: `read_at_monotonic` stays this young."""
RETRY_SECONDS = 0.5

F = TypeVar("F", bound=Fact)


class DefinitionsFeed:
    """Reads `definitions` and keeps what it says: `access`, and callbacks for every other fact.

    Freshness is proven, not assumed: a reading counts only when the log itself said where its end was.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self._source = log
        self._clock = clock
        self._position = 0
        self._callbacks: dict[type[Fact], list[Callable[[Fact], None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.access = Access()
        self.read_at_monotonic: float | None = None
        self.failure: RaftarError | None = None

    @property
    def workspaces(self) -> Mapping[str, Workspace]:
        """The workspaces defined so far, by name."""
        return self.access.workspaces

    def on(self, kind: type[F], callback: Callable[[F], None]) -> None:
        """Call `callback` with every fact of `kind`, in log order, from the first on. Register before `start`."""
        self._callbacks.setdefault(kind, []).append(cast(Callable[[Fact], None], callback))

    async def start(self) -> None:
        """Return when everything that was in the topic at the call is folded; then follow it in a task.

        Waits through Retryable errors; raises Stopped (a newer fact, a log that is gone) and Poison. Idempotent.
        """
        if self._task is not None:
            return
        self._position = (await self._bounds())[0]
        while not await self._reached_end():
            pass
        self._task = asyncio.create_task(self._follow(), name="definitions")

    async def close(self) -> None:
        """Stop following and let the log forget us. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        await ended([task])
        await self._source.release(DEFINITIONS, 0)

    def age_seconds(self) -> float:
        """How old the newest proven reading is, in seconds; infinite before the first."""
        if self.read_at_monotonic is None:
            return float("inf")
        return self._clock.monotonic() - self.read_at_monotonic

    async def reached(self, position: int, timeout_seconds: float = 5.0) -> bool:
        """Wait until the record at `position` is folded; False when that took longer (it will come later)."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._position <= position:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        while True:
            try:
                await self._read(FOLLOW_SECONDS)
                while not await self._reached_end():
                    pass
            except Retryable as error:
                _log.warning("definitions cannot be read now", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except RaftarError as error:
                self.failure = error
                _log.error("definitions stopped", reason=str(error))
                return
            except Exception as error:  # no silent end: the reading goes stale, and says why
                self.failure = Stopped(f"definitions cannot be read: {type(error).__name__}")
                _log.error("definitions stopped", error=type(error).__name__, where=where(error))
                return

    async def _reached_end(self) -> bool:
        """Read once if anything is left; True when the end asked for beforehand is reached."""
        asked_at = self._clock.monotonic()
        _, end = await self._bounds()
        if self._position < end:
            await self._read(FOLLOW_SECONDS)
        if self._position < end:
            return False
        self.read_at_monotonic = asked_at
        return True

    async def _bounds(self) -> tuple[int, int]:
        bounds = await until_answered(lambda: self._source.bounds(DEFINITIONS), "the log", RETRY_SECONDS)
        return bounds[0]

    async def _read(self, wait_seconds: float) -> None:
        batch = await self._source.read(DEFINITIONS, 0, self._position, wait_seconds=wait_seconds)
        for record in batch.records:
            self._fold(decode(record.value))
        if batch.next_position != self._position:
            self._position = batch.next_position
            self._moved.set()
            self._moved = asyncio.Event()

    def _fold(self, fact: Fact | Unknown) -> None:
        if isinstance(fact, Unknown):
            return
        self.access = self.access.evolve(fact)
        for callback in self._callbacks.get(type(fact), ()):
            callback(fact)
