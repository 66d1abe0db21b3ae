"""The rebuild as a task of every profiles process: one of them holds it and carries it from phase to phase.

It may be killed anywhere: positions, phase and wishes are in the database, and another process (or the next start)
takes it up where it was. A comparison that was interrupted begins anew.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import candidate, comparing, switching, telling, versions
from services.profiles.comparing import Comparing, DifferingRow, RaisedRow, decoded_report
from services.profiles.filling import Filling
from services.profiles.switching import NAME, Differs, House, NotYet
from shared import rebuild
from shared.checkpoint import Claim
from shared.clock import Clock
from shared.database import Database, fetch
from shared.errors import Conflict, Fenced, LogMismatch
from shared.log.port import Log
from shared.profile import FOLD_VERSION
from shared.rebuild import (
    COMPARING,
    DROPPING,
    FILLING,
    READY,
    SILENT_SECONDS,
    SWITCHED,
    Live,
    Pace,
    Phase,
    Rebuild,
    done_share,
    seconds_left,
)
from shared.rebuild_holder import IDLE_SECONDS, RebuildHolder

NEAR_RECORDS = 100
"""So near to live the comparison begins."""

_log = structlog.get_logger("rebuild")


class Rebuilder(RebuildHolder):
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
        super().__init__(NAME, database, clock, patience_seconds)
        self.house = House(log, database, partitions)
        self._relay = relay
        self._claims: dict[int, Claim] = {}
        self._filling: Filling | None = None
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

    # --- what it adds to holding one --------------------------------------------------------------------------

    async def _look_at(self, connection: AsyncConnection, row: Rebuild | None) -> bool:
        self._live = await rebuild.live(connection, NAME)
        self._phase = row.phase if row is not None else ""
        return bool(await fetch(connection, "SELECT 1 FROM rebuild_differing LIMIT 1"))

    async def _take_over(self, connection: AsyncConnection) -> None:
        self._claims = await candidate.claims(connection, raise_epoch=True)

    def _taken_up(self, row: Rebuild) -> None:
        if row.phase in (FILLING, COMPARING, READY) and row.kind == "rebuild" and row.fold_version != FOLD_VERSION:
            raise LogMismatch("the code's fold version changed since this rebuild began: abandon it and start again")
        self._fill_from(self._claims)

    def _fill_from(self, claims: dict[int, Claim]) -> None:
        self._filling = Filling(self.house.log, self._database, self._clock, self.house.partitions, claims)

    def _pace(self) -> bytes:
        return msgspec.json.encode(self._work_beside().pace())

    async def _work(self, phase: Phase) -> float:
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
            self._fill_from(claims)
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
