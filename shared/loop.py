"""The one loop of every folding service: read → step (one transaction) → relay the outbox.

A `Worker` runs one lane per partition it owns; what lanes have read goes into one step (`stepping`). A lane folds and
takes its turns under one lock, so folds, timers and frontier of a partition never overlap; the relay goes on beside
them, under the lanes' epochs. Whoever is refused by the database (`Fenced`) forgets its claim, waits a random moment
and acquires again if the partition is still assigned to it. Nothing here decides anything.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from zlib import crc32

import structlog

from shared.checkpoint import NEVER, Claim
from shared.clock import Clock
from shared.ending import ended
from shared.errors import Fenced, LogMismatch, NotAccepting, Stopped
from shared.lane import Lane, Tally, named
from shared.log.port import Log, Ownership
from shared.relay import Relay, Relaying, RelayStore
from shared.stepping import AT_ONCE, Folding, Pace, Stepping, Turns
from shared.topics import PROFILE_CHANGES

READ_WAIT_SECONDS = 0.5
PAUSE_SECONDS_MAX = 5.0

_RESTORE = "restore the log that belongs to this database, or rebuild the projection"

_log = structlog.get_logger()


class ProjectionStore(RelayStore, Turns, Protocol):
    """A folding service's database, as far as the loop knows it."""

    async def acquire(self, topic: str, partition: int, log_identity: str) -> Claim:
        """Become the owner of a partition (`checkpoint.acquire`)."""


class Projection(Folding, Protocol):
    """What one topic is folded into."""

    @property
    def topic(self) -> str: ...

    @property
    def store(self) -> ProjectionStore: ...

    async def turn(self, claim: Claim) -> Claim:
        """Take what is due without a new record (timers). Called after folds and when asked for.

        Raises Fenced, and Stopped where the partition must not go on.
        """


class Worker:
    """Folds every partition its ownership names. `run()` until cancelled; `lanes` shows where it stands."""

    def __init__(
        self,
        log: Log,
        ownership: Ownership,
        projection: Projection,
        clock: Clock,
        relaying: Relaying | None,
        pace: Pace = AT_ONCE,
    ) -> None:
        self.lanes: dict[int, Lane] = {}
        self.tally = Tally()
        self._log, self._ownership, self._projection, self._clock = log, ownership, projection, clock
        self._states_watermarks = relaying is not None and relaying.states_watermarks
        self._pace = pace
        self._steps = Stepping(projection, projection.store, clock, pace)
        self._identity = ""
        self._relay_task: asyncio.Task[None] | None = None
        self._relay = (
            Relay(log, projection.store, clock, relaying, projection.topic, self.lanes, self.tally)
            if relaying is not None
            else None
        )

    @property
    def topic(self) -> str:
        """The topic this worker folds."""
        return self._projection.topic

    def wake(self) -> None:
        """Something was put into the outbox: relay it now."""
        if self._relay is not None:
            self._relay.wake()

    async def relayed(self) -> None:
        """Return when what is in the outbox now was relayed, or could not be."""
        if self._relay is not None and self._relay_task is not None and not self._relay_task.done():
            await self._relay.passed()

    async def run(self) -> None:
        """Fold until cancelled; then leave the group, so that others take over at once.

        Whatever ends it, also a log that is away before the first fold: who stays in the group keeps partitions that
        nobody folds.
        """
        try:
            await self._ownership.start()
            self._identity = await self._log.identity(self.topic)
            await self._work()
        finally:
            await self._ownership.close()

    async def _work(self) -> None:
        steps = asyncio.create_task(self._steps.run())
        relay = asyncio.create_task(self._relay.run()) if self._relay is not None else None
        self._relay_task = relay
        try:
            while not steps.done():
                await self._follow_assignment()
                await asyncio.sleep(0.05)
            await steps  # it ends by an error only
        finally:
            if relay is not None:
                await ended([relay])
            await self._drop(list(self.lanes.values()))
            await ended([steps])

    async def turn(self, partition: int) -> bool:
        """Let one partition take its turn now (the watermark moved). False when it could not.

        A lane being acquired takes its turn afterwards, by itself.
        """
        lane = self.lanes.get(partition)
        if lane is None or lane.claim is None:
            return False
        async with lane.lock:
            try:
                lane.claim = await self._projection.turn(lane.held())
            except Fenced:
                self._refuse(lane)
                return False
        self.wake()
        return True

    # --- partitions come and go ---------------------------------------------------------------------------

    async def _follow_assignment(self) -> None:
        assigned = self._ownership.assigned()
        await self._drop([lane for partition, lane in self.lanes.items() if partition not in assigned])
        for partition in sorted(assigned - self.lanes.keys()):
            lane = self.lanes[partition] = Lane(partition)
            lane.task = asyncio.create_task(self._lane(lane), name=f"{self.topic}/{partition}")

    async def _drop(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            self.lanes.pop(lane.partition, None)
            if lane.task is not None:
                await ended([lane.task])
            await self._log.release(self.topic, lane.partition)

    async def _lane(self, lane: Lane) -> None:
        pause = 0.05
        while True:
            try:
                await self._acquire(lane)
                pause = 0.05
                await self._fold_on(lane)
            except Fenced as error:
                self._refuse(lane)
                pause = 0.05 + random.random() * 0.5  # noqa: S311  # spreads rivals, keeps no secret
                _log.info("partition refused", topic=self.topic, partition=lane.partition, why=str(error))
            except Stopped as error:
                lane.claim, lane.stopped = None, str(error)
                _log.error("partition stopped", topic=self.topic, partition=lane.partition, why=str(error))
                return
            except Exception as error:
                lane.claim = None
                self.tally.failures += 1
                pause = min(PAUSE_SECONDS_MAX, pause * 2)
                _log.warning("lane paused", topic=self.topic, partition=lane.partition, error=named(error))
            await asyncio.sleep(pause)

    def _refuse(self, lane: Lane) -> None:
        lane.claim = None
        self.tally.refused += 1

    async def _acquire(self, lane: Lane) -> None:
        """Raise the epoch; void if the assignment changed meanwhile (somebody else may own it by now)."""
        generation = self._ownership.generation()
        lane.probe = None
        claim = await self._projection.store.acquire(self.topic, lane.partition, self._identity)
        await self._verify(claim)
        if claim.position == 0:
            claim = replace(claim, position=(await self._log.bounds(self.topic))[lane.partition].earliest)
        if self._states_watermarks:
            lane.appended_to((await self._log.bounds(PROFILE_CHANGES))[lane.partition].end)
        if generation != self._ownership.generation():
            raise Fenced("the assignment changed while the partition was acquired")
        lane.claim = claim

    async def _verify(self, claim: Claim) -> None:
        """The log must still hold what was folded last: a log restored behind its checkpoint stops the partition."""
        if claim.last_position == NEVER:
            return
        bounds = (await self._log.bounds(claim.topic))[claim.partition]
        if claim.last_position < bounds.earliest:
            return  # retention took it; reading on will say OutOfRange if it took too much
        if claim.last_position >= bounds.end:
            raise LogMismatch(f"{_place(claim)}: the log ends at {bounds.end}, before what was folded; {_RESTORE}")
        batch = await self._log.read(claim.topic, claim.partition, claim.last_position, records_max=1, wait_seconds=5.0)
        if not batch.records and batch.next_position == claim.last_position:
            raise NotAccepting(f"{_place(claim)}: the log does not answer")  # it has the record, and went away
        first = batch.records[0] if batch.records else None
        if first is None or first.position != claim.last_position or crc32(first.value) != claim.last_checksum:
            raise LogMismatch(
                f"{_place(claim)}: another record is at {claim.last_position} than was folded; {_RESTORE}"
            )

    async def _fold_on(self, lane: Lane) -> None:
        self.wake()
        await self._take_turn(lane)
        while True:
            position, most = lane.held().position, self._steps.records_max
            batch = await self._log.read(
                self.topic,
                lane.partition,
                position,
                records_max=most,
                wait_seconds=READ_WAIT_SECONDS,
            )
            if batch.next_position == position:
                lane.held()
                continue
            if self._relay is not None:
                await self._relay.level()
            async with lane.lock:
                lane.claim = await self._steps.fold(lane.held(), batch)
                lane.claim = await self._projection.turn(lane.claim)
            self.tally.folded_records += len(batch.records)
            self.wake()
            self._ownership.progress(self.topic, {lane.partition: batch.next_position})
            await asyncio.sleep(rest_seconds(self._pace, self._clock) if len(batch.records) < most else 0)

    async def _take_turn(self, lane: Lane) -> None:
        async with lane.lock:
            lane.claim = await self._projection.turn(lane.held())


def rest_seconds(pace: Pace, clock: Clock) -> float:
    """About so long a rest as the pace wants, until an instant that all lanes rest until: then they share a step.

    Half of it to one and a half.
    """
    if not pace.rest_seconds:
        return 0.0
    left = pace.rest_seconds - clock.monotonic() % pace.rest_seconds
    return left if left > pace.rest_seconds / 2 else left + pace.rest_seconds


def _place(claim: Claim) -> str:
    return f"{claim.topic}/{claim.partition}"
