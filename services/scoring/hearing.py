"""Follows `watermarks` and lets partitions take their turn as soon as their watermark moved.

A statement that was missed does no harm: another one follows within a quarter of a second, and says more.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from services.scoring.domain.watermark import Heard
from shared.clock import Clock
from shared.codec import decode
from shared.crew import Keeper
from shared.ending import ended
from shared.errors import OutOfRange, Poison, Stopped
from shared.events import WatermarkStated
from shared.lane import named
from shared.log.port import Log, Record
from shared.topics import WATERMARKS

READ_WAIT_SECONDS = 0.5
PAUSE_SECONDS = 0.25
TURNS_AT_ONCE, UNTOLD_TURNS = 2, 4
"""Of all partitions together: while many have much to fire, folds and answers wait for few of them, and what they fired
is relayed before much more is: a new fact's alert stands behind it in the outbox."""

_log = structlog.get_logger("hearing")


class Hearing:
    """What is heard of the watermark, for the worker that `keeper` keeps. `run()` until cancelled."""

    def __init__(self, log: Log, clock: Clock, heard: Heard, keeper: Keeper, unfinished: Callable[[int], bool]) -> None:
        """`unfinished`: whether a partition's last turn left something to be done at once."""
        self.statements = self.undecodable = self.failures = 0
        self._source, self._clock, self._heard, self._keeper = log, clock, heard, keeper
        self._unfinished = unfinished
        self._places, self._untold = asyncio.Semaphore(TURNS_AT_ONCE), asyncio.Semaphore(UNTOLD_TURNS)
        self._moved: set[int] = set()
        self._turns: dict[int, asyncio.Task[None]] = {}
        self._since: dict[int, tuple[tuple[int, int | None], float]] = {}

    async def run(self) -> None:
        """Follow from the end of the topic on."""
        try:
            while True:
                try:
                    await self._follow()
                except Exception as error:
                    self.failures += 1
                    _log.warning("watermarks cannot be read now", error=named(error))
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            await ended(self._turns.values())

    def lags(self) -> dict[int, float]:
        """Owned partition → seconds between now and its watermark; without those that heard none yet."""
        now = self._clock.now_ms()
        marks = {partition: self._heard.watermark(partition) for partition in self._owned()}
        return {partition: (now - mark) / 1000 for partition, mark in marks.items() if mark is not None}

    def known_until(self) -> int:
        """Everything recorded up to then is decided on here (epoch ms); now, where no watermark was heard."""
        marks = [self._heard.watermark(partition) for partition in self._owned()]
        return min((mark for mark in marks if mark is not None), default=self._clock.now_ms())

    def unheard_seconds(self) -> dict[int, float]:
        """Owned partition → seconds since its watermark last moved, or since it was acquired."""
        self._note()
        now = self._clock.monotonic()
        return {partition: now - since for partition, (_, since) in self._since.items()}

    def check(self, stale_seconds: float) -> Mapping[str, Any]:
        """Readiness: not ok when an owned partition heard nothing new for `stale_seconds`; says who holds it back."""
        unheard = self.unheard_seconds()
        late = sorted(partition for partition, seconds in unheard.items() if seconds > stale_seconds)
        holding = {self._heard.holding_back(partition) for partition in late}
        return {
            "ok": not late,
            "unheard_seconds": round(max(unheard.values(), default=0.0), 3),
            "lag_seconds": round(max(self.lags().values(), default=0.0), 3),
            "late_partitions": late,
            "held_back_by_touchpoints_partitions": sorted(one for one in holding if one is not None),
        }

    async def _follow(self) -> None:
        position = (await self._source.bounds(WATERMARKS))[0].end
        while True:
            try:
                batch = await self._source.read(WATERMARKS, 0, position, wait_seconds=READ_WAIT_SECONDS)
            except OutOfRange as error:  # retention was quicker; what was missed is said again
                _log.info("watermarks skipped", position=position, end=error.end)
                position = error.end
                continue
            for record in batch.records:
                self._hear(record)
            position = batch.next_position
            self._note()

    def _hear(self, record: Record) -> None:
        try:
            stated = decode(record.value)
        except (Poison, Stopped) as error:
            self.undecodable += 1
            _log.error("a statement cannot be read", position=record.position, why=str(error))
            return
        if isinstance(stated, WatermarkStated):
            self.statements += 1
            for partition in self._heard.hear(stated):
                self._let_turn(partition)

    def _let_turn(self, partition: int) -> None:
        """One turn at a time for a partition; a slow one holds up no other."""
        self._moved.add(partition)
        if partition not in self._turns:
            self._turns[partition] = asyncio.create_task(self._take_turns(partition), name=f"turns of {partition}")

    async def _take_turns(self, partition: int) -> None:
        try:
            while partition in self._moved:
                self._moved.discard(partition)
                async with self._untold:
                    worker = self._keeper.worker
                    async with self._places:
                        taken = worker is not None and await worker.turn(partition)
                    if worker is None or not taken or not self._unfinished(partition):
                        continue
                    await worker.relayed()
                self._moved.add(partition)  # at the end of the queue: the others, and new facts, go first
        except Exception as error:  # the next statement brings the next turn
            self.failures += 1
            _log.warning("a turn failed", partition=partition, error=named(error))
        finally:
            del self._turns[partition]

    def _owned(self) -> list[int]:
        return [lane.partition for lane in self._keeper.lanes if lane.claim is not None]

    def _note(self) -> None:
        """Remember when each owned partition's watermark last moved, and forget partitions that were lost."""
        now, lanes = self._clock.monotonic(), {lane.partition: lane for lane in self._keeper.lanes}
        for partition in self._since.keys() - lanes.keys():
            del self._since[partition]
            self._heard.lost(partition)
        for partition, lane in lanes.items():
            if lane.claim is None:
                continue
            key = lane.claim.epoch, self._heard.watermark(partition)
            if partition not in self._since or self._since[partition][0] != key:
                self._since[partition] = key, now
