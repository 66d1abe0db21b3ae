"""The rebuild as a task of every scoring process: one of them holds it and carries it from phase to phase.

It reads what was said, compares everybody with what live has, keeps up, and puts right who differs when that is wanted.
It may be killed anywhere: positions, phase and wishes are in the database, and another process (or the next start)
takes it up where it was. A comparison that was interrupted begins anew.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import comparing, recall, switching
from services.scoring.comparing import Side
from services.scoring.domain.remaking import DIGEST_MODULUS
from services.scoring.recovering import read_on
from services.scoring.switching import NAME, REBUILD, House, NotYet, TooMany
from shared import rebuild
from shared.clock import Clock
from shared.database import fetch
from shared.errors import Retryable
from shared.rebuild import (
    COMPARING,
    DROPPING,
    FILLING,
    READY,
    SILENT_SECONDS,
    SWITCHED,
    Phase,
    Rebuild,
)
from shared.rebuild_holder import IDLE_SECONDS, RebuildHolder
from shared.throttle import LagMeter, adapted, pause_seconds
from shared.topics import PROFILE_CHANGES

FOLLOW_SECONDS = 0.25
SHARE_FIRST = 0.5
"""Of the time, before anything is known of live's lag; it is looked at after the first piece of work."""
LOOKS_MAX = 50
"""So often who differs is looked at again, if live speaks of them each time in between."""

_log = structlog.get_logger("rebuild")


class Found(msgspec.Struct, frozen=True):
    """What the comparison found: customers looked at, how many differ, and the digests of both sides."""

    customers: int
    differing: int
    digest_live: str
    digest_made: str

    @property
    def is_equal(self) -> bool:
        """Whether nobody differs."""
        return not self.differing


class Progress(msgspec.Struct, frozen=True):
    """How it goes: `done` and `goal` records of this phase (customers while comparing), `waiting`: live is behind."""

    done: int = 0
    goal: int = 0
    per_second: float = 0.0
    live_lag_seconds: float = 0.0
    waiting: bool = False


def found_of(row: Rebuild) -> Found | None:
    """What the comparison of a rebuild found; None before it."""
    return msgspec.json.decode(row.report, type=Found) if row.report else None


def progress_of(row: Rebuild) -> Progress:
    """How it went when its holder beat last."""
    return msgspec.json.decode(row.pace, type=Progress) if row.pace else Progress()


class Restraint:
    """How much of the time the rebuild may take: live's lag is measured at profile-changes."""

    def __init__(self, house: House, clock: Clock) -> None:
        self.lag_seconds, self.share = 0.0, SHARE_FIRST
        self._house, self._clock, self._meter = house, clock, LagMeter()

    async def rest(self, worked_seconds: float) -> None:
        """Rest after work, as live's lag allows."""
        at = self._clock.monotonic()
        ends = {partition: bounds.end for partition, bounds in (await self._house.log.bounds(PROFILE_CHANGES)).items()}
        async with self._house.database.snapshot() as connection:
            statement = "SELECT partition, position FROM checkpoint WHERE topic = $1"
            live = {row.partition: row.position for row in await fetch(connection, statement, PROFILE_CHANGES)}
        self.lag_seconds = self._meter.look(at, ends, live)
        self.share = adapted(self.share, self.lag_seconds)
        await asyncio.sleep(pause_seconds(self.share, worked_seconds))


class Rebuilder(RebuildHolder):
    """Carries out the rebuild of scoring, when there is one. `run()` until cancelled; `wake()` after a command.

    `patience_seconds`: a holder silent for so long is replaced.
    """

    def __init__(self, house: House, clock: Clock, patience_seconds: float = SILENT_SECONDS) -> None:
        super().__init__(NAME, house.database, clock, patience_seconds)
        self.house = house
        self._restraint = Restraint(house, clock)
        self._worked_at = self._began_at = float("-inf")
        self._done = self._goal = 0

    # --- what it adds to holding one --------------------------------------------------------------------------

    async def _look_at(self, connection: AsyncConnection, row: Rebuild | None) -> bool:
        return bool(await fetch(connection, "SELECT 1 FROM recalled LIMIT 1"))

    async def _take_over(self, connection: AsyncConnection) -> None:
        """It writes nowhere but under the row."""

    def _taken_up(self, row: Rebuild) -> None:
        """Whatever code began it, this goes on with it."""

    def _concerns(self, row: Rebuild) -> bool:
        return row.kind == REBUILD

    def _pace(self) -> bytes:
        return msgspec.json.encode(self._progress())

    async def _work(self, phase: Phase) -> float:
        if phase == FILLING:
            await self._fill()
        elif phase == COMPARING:
            await self._compare()
        elif phase == READY:
            return await self._follow()
        elif phase == SWITCHED:
            return await self._after_switch()
        elif phase == DROPPING:
            await self._drop()
        return 0.0

    async def _hold(self, connection: AsyncConnection) -> None:
        self._held = await rebuild.hold(connection, self._row())

    async def _breathe(self, done: int) -> None:
        """After a piece of work: rest as the throttle says, and beat. Raises Fenced, Interrupted."""
        now = self._clock.monotonic()
        self._done += done
        await self._restraint.rest(max(0.0, now - self._worked_at))
        self._worked_at = self._clock.monotonic()
        await self._beat()

    def _begin_phase(self, goal: int) -> None:
        self._done, self._goal = 0, goal
        self._began_at = self._worked_at = self._clock.monotonic()

    def _progress(self) -> Progress:
        passed_seconds = max(0.001, self._clock.monotonic() - self._began_at)
        rate, lag_seconds = self._done / passed_seconds, self._restraint.lag_seconds
        return Progress(self._done, self._goal, round(rate, 1), round(lag_seconds, 3), not self._restraint.share)

    # --- phases -----------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        """Read what was said, to the ends the topics have now."""
        bounds = [(topic, await self.house.log.bounds(topic)) for topic in recall.TOPICS]
        async with self._database.snapshot() as connection:
            known = await recall.positions(connection)
        left = [
            end - max(earliest, known.get((topic, partition), 0))
            for topic, ends in bounds
            for partition, (earliest, end) in ends.items()
        ]
        self._begin_phase(sum(left))
        await self._read_on()
        await self._change(phase=COMPARING, pace=b"")

    async def _read_on(self) -> None:
        await read_on(self.house.log, self._hold, self._database, self._breathe)

    async def _compare(self) -> None:
        """Everybody of both sides, page by page; who differs is kept by name."""
        async with self._database.transaction() as connection:
            await self._hold(connection)
            await comparing.forget(connection)
            rows = await fetch(connection, "SELECT count(*) AS customers FROM decision")
        self._begin_phase(int(rows[0].customers))
        after, live, made, differing, looked = b"", 0, 0, 0, 0
        while page := await self._page(after):
            seen = await self._look(page)
            sums = comparing.digests(seen.values())
            live, made = (live + sums[0]) % DIGEST_MODULUS, (made + sums[1]) % DIGEST_MODULUS
            differing += sum(bool(side.fields) for side in seen.values())
            looked, after = looked + len(page), page[-1]
            await self._breathe(len(page))
        found = Found(looked, differing, f"{live:064x}", f"{made:064x}")
        await self._change(phase=READY, compared_at=self._clock.now_ms(), report=msgspec.json.encode(found))
        _log.info("rebuild compared", equal=found.is_equal, customers=looked, differing=differing)

    async def _page(self, after: bytes) -> list[bytes]:
        async with self._database.snapshot() as connection:
            return await comparing.customers_after(connection, after)

    async def _look(self, page: Sequence[bytes]) -> Mapping[bytes, Side]:
        """Both sides of a page; who really differs is kept."""
        async with self._database.snapshot() as connection:
            seen = await comparing.sides(connection, page, self.house.rules, self.house.partitions)
        suspects = {customer: side for customer, side in seen.items() if side.fields}
        settled = await self._looked_again(suspects) if suspects else {}
        return {**seen, **settled}

    async def _looked_again(self, suspects: Mapping[bytes, Side]) -> Mapping[bytes, Side]:
        """Verdicts on who seemed to differ: on a row that stood still while all that was said of it was read."""
        before: dict[bytes, Side] = {}
        settled: dict[bytes, Side] = {}
        left = sorted(suspects)
        for _ in range(LOOKS_MAX):
            await self._read_on()
            async with self._database.transaction() as connection:
                await self._hold(connection)
                await comparing.lock(connection, left)
                await recall.hear_pending(connection, left)
                now = await comparing.sides(connection, left, self.house.rules, self.house.partitions)
                sure = {who: side for who, side in now.items() if not side.fields or side.stood_since(before.get(who))}
                await comparing.keep(connection, {who: side for who, side in sure.items() if side.fields})
            settled |= sure
            before = now
            left = [who for who in left if who in now and who not in sure]
            if not left:
                return settled
        raise Retryable("live does not stand still long enough to be compared")

    async def _follow(self) -> float:
        """Keep up with what is said; switch when that is wanted."""
        self._begin_phase(0)
        await self._read_on()
        await self._change()
        if self._row().wanted not in ("switch", "switch_anyway"):
            return FOLLOW_SECONDS
        found = found_of(self._row())
        if self._row().wanted == "switch" and (found is None or not found.is_equal):
            await self._change(wanted="", why="it differs from live: look at what differs, then accept it or abandon")
            return 0.0
        await self._switch()
        return 0.0

    async def _switch(self) -> None:
        try:
            async with self._database.transaction() as connection:
                held = await switching.switch(connection, self.house, self._row(), self._clock.now_ms())
        except NotYet:
            return
        except TooMany as error:
            await self._change(wanted="", why=str(error))
            return
        self._held = held
        _log.info("rebuild switched to", generation=held.generation, kind=held.kind)

    async def _after_switch(self) -> float:
        if self._row().wanted == "rollback":
            async with self._database.transaction() as connection:
                back = await switching.roll_back(connection, self._row())
            self._held = None
            _log.info("rebuild rolled back", customers=back)
            return IDLE_SECONDS
        await self._let_go()
        return IDLE_SECONDS

    async def _let_go(self) -> None:
        """Take away what was said, piece by piece, so that nobody waits for long."""
        went_on = True
        self._begin_phase(0)
        while went_on:
            async with self._database.transaction() as connection:
                await self._hold(connection)
                went_on = await recall.let_go_of_some(connection)
            await self._restraint.rest(max(0.0, self._clock.monotonic() - self._worked_at))
            self._worked_at = self._clock.monotonic()

    async def _drop(self) -> None:
        await self._let_go()
        async with self._database.transaction() as connection:
            await switching.finish(connection, self._row())
        self._held = None
        _log.info("rebuild dropped")
