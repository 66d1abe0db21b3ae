"""Folding the log into the version in the slot `next`: never beyond where live stands, and never in live's way."""

import asyncio
from collections.abc import Mapping

from services.profiles.candidate import parked_places, projection_beside, up_to
from services.profiles.comparing import positions
from shared.checkpoint import Claim
from shared.clock import Clock
from shared.database import Database
from shared.log.port import Log
from shared.rebuild import Pace
from shared.throttle import SHARE_MIN, LagMeter, adapted, pause_seconds, size_next
from shared.topics import TOUCHPOINTS

RECORDS_MAX = 500
LOOK_SECONDS = 0.1
PATIENCE_SECONDS, PATIENT_RECORDS = 1.0, 25
"""While live is behind, so many records are folded so often, and no more."""
PACE_SECONDS = 5.0
"""The rate shown is of the last so many seconds, about."""


class Filling:
    """One holder's work on the version in the slot `next`. `claims`: of all its partitions, under its epoch."""

    def __init__(self, log: Log, database: Database, clock: Clock, partitions: int, claims: dict[int, Claim]) -> None:
        self.claims = claims
        self._log, self._database, self._clock = log, database, clock
        self._projection = projection_beside(database, partitions)
        self._meter = LagMeter()
        self._share, self._lag_seconds, self._size = SHARE_MIN, 0.0, 50
        self._looked_at = float("-inf")
        self._worked_at = clock.monotonic()
        self._live: Mapping[int, int] = {}
        self._paced_at = clock.monotonic()
        self._paced = (0, 0)
        self._records = 0
        self._rates = (0.0, 0.0)

    @property
    def events(self) -> int:
        """Touchpoints folded by this holder."""
        return self._projection.tally.touchpoints

    async def look(self) -> Mapping[int, int]:
        """Where live stands, by partition; measures live's lag when it is time. Raises NotAccepting."""
        at = self._clock.monotonic()
        if at - self._looked_at >= LOOK_SECONDS or not self._live:
            ends = {partition: bounds.end for partition, bounds in (await self._log.bounds(TOUCHPOINTS)).items()}
            async with self._database.snapshot() as connection:
                self._live = await positions(connection)
            self._lag_seconds = self._meter.look(at, ends, self._live)
            self._share = adapted(self._share, self._lag_seconds)
            self._looked_at = at
        return self._live

    def behind(self, goals: Mapping[int, int]) -> dict[int, int]:
        """Partitions that are not yet at their goal, and how far they are from it."""
        left = {partition: goals.get(partition, 0) - claim.position for partition, claim in self.claims.items()}
        return {partition: count for partition, count in left.items() if count > 0}

    async def piece(self, goals: Mapping[int, int]) -> bool:
        """Fold one batch of the partition that is furthest behind its goal, then rest as the throttle says.

        While live is behind next to nothing is folded. Returns whether anything was. Raises Fenced, Stopped.
        """
        await self.look()
        left = self.behind(goals)
        if not left or not self._may_work():
            await asyncio.sleep(pause_seconds(0.0, 0.0))
            return False
        partition = max(left, key=lambda one: left[one])
        began = self._clock.monotonic()
        went_on = await self._fold(partition, goals[partition])
        self._worked_at = self._clock.monotonic()
        worked_seconds = self._worked_at - began
        self._size = size_next(self._size, worked_seconds, RECORDS_MAX)
        await asyncio.sleep(pause_seconds(self._share, worked_seconds))
        return went_on

    def _may_work(self) -> bool:
        """Not while live is behind; but a house that is always behind gets its rebuild too, a small piece at a time."""
        if self._share:
            return True
        if self._clock.monotonic() - self._worked_at < PATIENCE_SECONDS:
            return False
        self._size = min(self._size, PATIENT_RECORDS)
        return True

    async def rest(self, worked_seconds: float) -> None:
        """Rest after other work, as the throttle says, and wait while live is behind."""
        await self.look()
        await asyncio.sleep(pause_seconds(self._share, worked_seconds))

    async def _fold(self, partition: int, goal: int) -> bool:
        claim = self.claims[partition]
        batch = await self._log.read(TOUCHPOINTS, partition, claim.position, records_max=self._size, wait_seconds=1.0)
        if batch.next_position == claim.position:
            return False
        async with self._database.snapshot() as connection:
            whole, places = await parked_places(connection, partition, batch)
        self._projection.skipped = places
        cut = up_to(batch, goal, whole)
        self.claims[partition] = await self._projection.fold(claim, cut)
        self._records += len(cut.records)
        return True

    async def release(self) -> None:
        """Read no more: let go of what the log holds ready."""
        for partition in self.claims:
            await self._log.release(TOUCHPOINTS, partition)

    def pace(self) -> Pace:
        """How it goes."""
        now = self._clock.monotonic()
        passed = now - self._paced_at
        if passed >= PACE_SECONDS or (passed > 0.2 and self._rates == (0.0, 0.0)):
            records, events = self._paced
            self._rates = (self._records - records) / passed, (self.events - events) / passed
            self._paced_at, self._paced = now, (self._records, self.events)
        records_rate, events_rate = self._rates
        lag, share = round(self._lag_seconds, 3), round(self._share, 2)
        return Pace(round(records_rate, 1), round(events_rate, 1), lag, share, not self._share)
