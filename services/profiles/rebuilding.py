"""The rebuild as a task of every profiles process: one of them holds it and carries it from phase to phase.

It may be killed anywhere: positions, phase and wishes are in the database, and another process (or the next start)
takes it up where it was. A comparison that was interrupted begins anew.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import structlog
from sqlalchemy import text

from services.profiles import candidate, comparing, switching, telling, versions
from services.profiles.comparing import Comparing, DifferingRow, RaisedRow, decoded_report
from services.profiles.filling import Filling
from services.profiles.switching import NAME, Differs, House, NotYet
from shared import rebuild
from shared.clock import Clock
from shared.database import Database, fetch
from shared.errors import Conflict, Fenced, LogMismatch, Retryable, Stopped
from shared.lane import named
from shared.log.port import Log
from shared.profile import FOLD_VERSION
from shared.rebuild import (
    COMPARING,
    DROPPING,
    FAILED,
    FILLING,
    READY,
    SILENT_SECONDS,
    SWITCHED,
    Live,
    Pace,
    Rebuild,
    Silence,
    done_share,
    seconds_left,
)

IDLE_SECONDS = 1.0
BEAT_SECONDS = 0.5
NEAR_RECORDS = 100
"""So near to live the comparison begins."""

_log = structlog.get_logger("rebuild")


class Interrupted(Exception):
    """Not an error: a person wants something else."""


class Rebuilder:
    """Carries out the rebuild of profiles, when there is one. `run()` until cancelled; `wake()` after a command.

    `relay`: wakes the relay when something was put into the outbox · `patience_seconds`: a holder silent for so long
    is replaced.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        clock: Clock,
        partitions: int,
        relay: Callable[[], None],
        patience_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.house = House(log, database, partitions)
        self._database, self._clock, self._relay = database, clock, relay
        self._silence = Silence(patience_seconds)
        self._woken = asyncio.Event()
        self._held: Rebuild | None = None
        self._filling: Filling | None = None
        self._beaten_at = float("-inf")
        self._live: Live | None = None
        self._phase = ""

    async def declare(self) -> None:
        """Note, at the first start, by which fold this projection is made; later, say when the code's is another."""
        async with self._database.transaction() as connection:
            self._live = await rebuild.declare(connection, NAME, FOLD_VERSION)
        if self._live.fold_version != FOLD_VERSION:
            _log.warning(
                "the code folds otherwise than what is live was folded: rebuild profiles",
                live_fold_version=self._live.fold_version,
                fold_version=FOLD_VERSION,
            )

    def check(self) -> dict[str, Any]:
        """For readiness: which fold made what is live, and what the rebuild does. It never makes a service unready."""
        live = self._live.fold_version if self._live is not None else FOLD_VERSION
        return {"ok": True, "fold_version": live, "outdated": live != FOLD_VERSION, "rebuild": self._phase}

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
            row = await rebuild.load(connection, NAME)
            self._live = await rebuild.live(connection, NAME)
            left = bool(await fetch(connection, "SELECT 1 FROM rebuild_differing LIMIT 1"))
        self._phase = row.phase if row is not None else ""
        if row is None:
            self._held = None
            return IDLE_SECONDS
        if row.phase in (SWITCHED, FAILED) and not row.wanted and not (left and row.phase == SWITCHED):
            return IDLE_SECONDS
        if (self._held is None or self._held.epoch != row.epoch) and not await self._seize(row):
            return IDLE_SECONDS
        self._held = replace(row, epoch=self._row().epoch)
        if row.wanted == "drop" and row.phase != DROPPING:
            await self._change(phase=DROPPING, wanted="")
            return 0.0
        return await self._work(row.phase)

    async def _work(self, phase: str) -> float:
        if phase == FILLING:
            await self._fill()
        elif phase == COMPARING:
            await self._compare()
        elif phase == READY:
            await self._follow()
        elif phase == SWITCHED:
            return await self._after_switch()
        elif phase == DROPPING:
            await self._drop()
        return 0.0

    # --- holding ----------------------------------------------------------------------------------------------

    async def _seize(self, row: Rebuild) -> bool:
        """Take it up when nobody holds it, or whoever did is silent."""
        if not self._silence.look(row, self._clock.monotonic()):
            return False
        async with self._database.transaction() as connection:
            held = await rebuild.seize(connection, row)
            claims = await candidate.claims(connection, raise_epoch=True)
        if row.phase in (FILLING, COMPARING, READY) and row.kind == "rebuild" and row.fold_version != FOLD_VERSION:
            self._held = held
            raise LogMismatch("the code's fold version changed since this rebuild began: abandon it and start again")
        self._held = held
        self._filling = Filling(self.house.log, self._database, self._clock, self.house.partitions, claims)
        _log.info("rebuild taken up", phase=row.phase, generation=row.generation)
        return True

    async def _change(self, **changes: Any) -> None:
        """Beat and change the row."""
        async with self._database.transaction() as connection:
            self._held = await rebuild.hold(connection, self._row(), **changes)
        self._beaten_at = self._clock.monotonic()

    async def _beat(self) -> None:
        """Beat when it is time, with the pace. Raises Interrupted when the rebuild is to be dropped."""
        if self._clock.monotonic() - self._beaten_at >= BEAT_SECONDS:
            await self._change(pace=msgspec.json.encode(self._work_beside().pace()))
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

    def _work_beside(self) -> Filling:
        if self._filling is None:
            raise Fenced("the rebuild is not held here")
        return self._filling

    # --- phases -----------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        filling = self._work_beside()
        goals = await filling.look()
        while sum(filling.behind(goals).values()) > NEAR_RECORDS:
            await filling.piece(goals)
            await self._beat()
            goals = await filling.look()
        await self._change(phase=COMPARING)

    async def _compare(self) -> None:
        """Compare at equal positions: live as one snapshot sees it, the made version brought exactly there."""
        await self._prepare()
        async with self._database.snapshot() as live:
            await comparing.patient(live)
            goals = await comparing.positions(live)
            await self._fill_to(goals)
            async with self._database.snapshot() as made:
                await comparing.patient(made)
                found = await Comparing(self._breathe, self._keep).run(live, made)
        async with self._database.snapshot() as connection:
            await comparing.patient(connection)
            reports = await comparing.reports(connection)
        report = msgspec.structs.replace(found, workspaces=reports)
        await self._change(phase=READY, compared_at=self._clock.now_ms(), report=report.encoded())
        _log.info("rebuild compared", equal=report.is_equal, leaves=report.leaves, differing=report.leaves_differing)

    async def _prepare(self) -> None:
        """Note what is written from here on; what an earlier comparison found is forgotten."""
        async with self._database.transaction() as connection:
            await comparing.patient(connection)
            self._held = await rebuild.hold(connection, self._row())
            await versions.note_touched(connection)
            await fetch(connection, "DELETE FROM rebuild_differing")
            if not self._database.is_sqlite:
                for table in versions.beside("next", False).all:
                    await connection.execute(text(f"ANALYZE {table.fullname}"))

    async def _fill_to(self, goals: Mapping[int, int]) -> None:
        filling = self._work_beside()
        while filling.behind(goals):
            await filling.piece(goals)
            await self._beat()

    async def _breathe(self, worked_seconds: float = 0.02) -> None:
        await self._work_beside().rest(worked_seconds)
        await self._beat()

    async def _keep(self, differing: Sequence[DifferingRow], behind: Sequence[RaisedRow]) -> None:
        """Both sides stand at the same positions now: what the made version takes over of live is exact."""
        async with self._database.transaction() as connection:
            self._held = await rebuild.hold(connection, self._row())
            await comparing.keep_differing(connection, differing)
            await comparing.raise_to(connection, behind)

    async def _follow(self) -> None:
        """Keep up with live; switch when that is wanted."""
        filling = self._work_beside()
        goals = await filling.look()
        if filling.behind(goals):
            await filling.piece(goals)
        elif self._row().wanted in ("switch", "switch_anyway"):
            await self._switch()
        else:
            await filling.rest(0.05)
            await asyncio.sleep(0.05)
        await self._beat()

    async def _switch(self) -> None:
        accept, report = self._row().wanted == "switch_anyway", decoded_report(self._row().report)
        if not accept and (report is None or not report.is_equal):
            await self._change(wanted="", why="it differs from live: look at what differs, then accept it or abandon")
            return
        async with self._database.snapshot() as connection:
            waiting = await comparing.touched(connection, switching.TOUCHED_MAX)
        if len(waiting) > switching.TOUCHED_MAX:
            await self._change(phase=COMPARING)
            return
        try:
            async with self._database.transaction() as connection:
                held = await switching.switch(connection, self.house, self._row(), self._clock.now_ms(), accept)
        except NotYet:
            return
        except Differs as error:
            await self._change(phase=COMPARING, wanted="", why=str(error))
            return
        self._held = held
        await self._work_beside().release()
        _log.info("rebuild switched to", generation=held.generation, kind=held.kind)

    async def _after_switch(self) -> float:
        if self._row().wanted == "rollback":
            try:
                async with self._database.transaction() as connection:
                    self._held = await switching.roll_back(connection, self._row())
                    claims = await candidate.claims(connection, raise_epoch=True)
            except Fenced:
                raise
            except Conflict as error:
                await self._change(wanted="", why=str(error))
                return 0.0
            self._filling = Filling(self.house.log, self._database, self._clock, self.house.partitions, claims)
            return 0.0
        began = self._clock.monotonic()
        if not await telling.tell_page(self._database, self._row(), self.house.partitions, self._clock.now_ms()):
            return IDLE_SECONDS
        self._relay()
        await self._breathe(self._clock.monotonic() - began)
        return 0.0

    async def _drop(self) -> None:
        """Take away what is not live: on SQLite row by row before the tables, so that nobody waits for long."""
        for slot in ("next", "previous"):
            went_on = True
            while went_on:
                began = self._clock.monotonic()
                async with self._database.transaction() as connection:
                    self._held = await rebuild.hold(connection, self._row())
                    went_on = await versions.clear(connection, slot)
                await self._work_beside().rest(self._clock.monotonic() - began)
        async with self._database.transaction() as connection:
            await switching.finish(connection, self._row())
        await self._work_beside().release()
        self._held = self._filling = None
        _log.info("rebuild dropped")


def progress(row: Rebuild, live: Mapping[int, int], made: Mapping[int, int], pace: Pace) -> tuple[float, float | None]:
    """(share done 0..1, seconds left or None) of a rebuild that folds."""
    if row.phase in (SWITCHED, DROPPING):
        return 1.0, 0.0
    return done_share(dict(made), dict(live)), seconds_left(dict(made), dict(live), pace.records_per_second)
