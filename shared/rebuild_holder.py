"""A process's part in a rebuild: it holds the row and works, or watches whether whoever holds it is still there.

What is done in each phase is the service's own; when it is this process's turn, what a failure means, and that a
person's wish comes first is the same for all.
"""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import rebuild
from shared.clock import Clock
from shared.database import Database
from shared.errors import Fenced, Retryable, Stopped
from shared.lane import named
from shared.rebuild import DROPPING, FAILED, SWITCHED, Phase, Rebuild, Silence

IDLE_SECONDS = 1.0
BEAT_SECONDS = 0.5

_log = structlog.get_logger("rebuild")


class Interrupted(Exception):
    """Not an error: a person wants something else."""


class RebuildHolder(ABC):
    """Carries out a service's rebuild, when there is one. `run()` until cancelled; `wake()` after a command."""

    def __init__(self, name: str, database: Database, clock: Clock, patience_seconds: float) -> None:
        """`name`: of the row · `patience_seconds`: a holder silent for so long is replaced."""
        self._name, self._database, self._clock = name, database, clock
        self._silence = Silence(patience_seconds)
        self._woken = asyncio.Event()
        self._held: Rebuild | None = None
        self._beaten_at = float("-inf")

    # --- what the service adds

    @abstractmethod
    async def _look_at(self, connection: AsyncConnection, row: Rebuild | None) -> bool:
        """Read what belongs to the row; whether a switch has left something to be done."""

    def _concerns(self, row: Rebuild) -> bool:
        """Whether the row is a rebuild, and nothing else that is done under the same name."""
        return True

    @abstractmethod
    async def _take_over(self, connection: AsyncConnection) -> None:
        """In the transaction that seizes the row: refuse whoever held it, wherever else it still writes."""

    @abstractmethod
    def _taken_up(self, row: Rebuild) -> None:
        """The row is held from here on. Raises Stopped where this code cannot go on with it."""

    @abstractmethod
    async def _work(self, phase: Phase) -> float:
        """One piece of work in this phase; returns how long to rest before the next. Raises Interrupted."""

    @abstractmethod
    def _pace(self) -> bytes:
        """How it goes, for the row."""

    # --- what is the same for all

    def wake(self) -> None:
        """Look at the row now."""
        self._woken.set()

    async def run(self) -> None:
        """Work on the rebuild whenever there is one, until cancelled."""
        while True:
            pause_seconds = await self._guarded()
            try:
                async with asyncio.timeout(pause_seconds):
                    await self._woken.wait()
            except TimeoutError:
                continue
            finally:
                self._woken.clear()

    async def _guarded(self) -> float:
        try:
            return await self._attend()
        except Interrupted:
            return 0.0
        except Fenced as error:
            self._held = None
            _log.info("rebuild held elsewhere", why=str(error))
        except Stopped as error:
            await self._fail(error)
        except Retryable as error:
            _log.info("rebuild waits", why=str(error))
        except Exception as error:
            self._held = None
            _log.error("rebuild stumbled", error=named(error))
        return IDLE_SECONDS

    async def _attend(self) -> float:
        """One piece of work; returns how long to rest before the next."""
        async with self._database.snapshot() as connection:
            row = await rebuild.load(connection, self._name)
            is_left = await self._look_at(connection, row)
        if row is None or not self._concerns(row):
            self._held = None
            return IDLE_SECONDS
        if row.phase in (SWITCHED, FAILED) and not row.wanted and not (is_left and row.phase == SWITCHED):
            return IDLE_SECONDS
        if (self._held is None or self._held.epoch != row.epoch) and not await self._seize(row):
            return IDLE_SECONDS
        self._held = replace(row, epoch=self._row().epoch)
        if row.wanted == "drop" and row.phase != DROPPING:
            await self._change(phase=DROPPING, wanted="")
            return 0.0
        return await self._work(row.phase)

    async def _seize(self, row: Rebuild) -> bool:
        """Take it up when nobody holds it, or whoever did is silent."""
        if not self._silence.look(row, self._clock.monotonic()):
            return False
        async with self._database.transaction() as connection:
            held = await rebuild.seize(connection, row)
            await self._take_over(connection)
        self._held = held
        self._taken_up(row)
        _log.info("rebuild taken up", phase=row.phase, generation=row.generation)
        return True

    async def _change(self, **changes: Any) -> None:
        """Beat and change the row. Raises Fenced."""
        async with self._database.transaction() as connection:
            self._held = await rebuild.hold(connection, self._row(), **changes)
        self._beaten_at = self._clock.monotonic()

    async def _beat(self) -> None:
        """Beat when it is time, with the pace. Raises Fenced, and Interrupted when the rebuild is to be dropped."""
        if self._clock.monotonic() - self._beaten_at >= BEAT_SECONDS:
            await self._change(pace=self._pace())
            if self._row().wanted == "drop":
                raise Interrupted

    async def _fail(self, error: Stopped) -> None:
        _log.error("rebuild failed", why=str(error))
        try:
            await self._change(phase=FAILED, why=str(error), wanted="drop" if self._row().wanted == "drop" else "")
        except (Fenced, Retryable) as lost:
            self._held = None
            _log.warning("the rebuild's failure was not noted", error=named(lost))

    def _row(self) -> Rebuild:
        if self._held is None:
            raise Fenced("the rebuild is not held here")
        return self._held
