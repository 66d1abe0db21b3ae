"""The workers of one process, kept running, and a watch that says how far behind they are."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from shared.checkpoint import NEVER, Claim
from shared.clock import Clock
from shared.database import Database, fetch
from shared.errors import RaftarError
from shared.lane import Lane, named
from shared.log.port import Log
from shared.loop import Worker

RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 0.5, 30.0
WATCH_SECONDS = 1.0
OUTBOX_ROWS_SEEN_MAX = 100_000
"""Beyond it the outbox is not counted on: a million rows would be read every second, just when all is slow."""
_WAITING = "SELECT count(*) AS n FROM (SELECT 1 FROM outbox LIMIT $1) AS waiting"

_log = structlog.get_logger("crew")


class Keeper:
    """Keeps one topic's worker running. `make` builds a fresh one, with an ownership of its own."""

    def __init__(self, topic: str, make: Callable[[], Worker]) -> None:
        self.topic = topic
        self.worker: Worker | None = None
        self.deaths = 0
        self._make = make

    @property
    def is_alive(self) -> bool:
        """Whether a worker is at work."""
        return self.worker is not None

    @property
    def lanes(self) -> Sequence[Lane]:
        """The partitions in its hands."""
        return () if self.worker is None else tuple(self.worker.lanes.values())

    def wake(self) -> None:
        """Something was put into the outbox."""
        if self.worker is not None:
            self.worker.wake()

    async def run(self) -> None:
        """Run until cancelled; a worker that dies is replaced after a pause."""
        loop, pause = asyncio.get_running_loop(), RESTART_SECONDS_MIN
        while True:
            self.worker, born_at = self._make(), loop.time()
            try:
                await self.worker.run()
            except Exception as error:
                _log.error("worker died", topic=self.topic, error=named(error))
            finally:
                self.worker = None
            self.deaths += 1
            if loop.time() - born_at > 2 * RESTART_SECONDS_MAX:
                pause = RESTART_SECONDS_MIN  # it lived: an old quarrel makes no new wait
            await asyncio.sleep(pause)
            pause = min(RESTART_SECONDS_MAX, pause * 2)


@dataclass(slots=True)
class Lag:
    """How far one partition is behind. `unread_since_ms`: all recorded before is folded · `position`: read up to it."""

    records: int
    unread_since_ms: int
    position: int


class Watch:
    """Looks every second where each topic ends and how full the outbox is; metrics and readiness show the last look."""

    def __init__(self, log: Log, database: Database, clock: Clock, keepers: Sequence[Keeper]) -> None:
        self.keepers = keepers
        self.lags: dict[tuple[str, int], Lag] = {}
        self.outbox_rows = 0
        self.looked_at: float | None = None
        self._source, self._database, self._clock = log, database, clock

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except (RaftarError, OSError) as error:
                _log.warning("the lag cannot be seen now", error=named(error))
            except Exception as error:
                _log.error("the watch stumbled", error=named(error))
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """Look once."""
        for keeper in self.keepers:
            asked_at = self._clock.now_ms()
            bounds = await self._source.bounds(keeper.topic)
            lanes = {lane.partition: lane for lane in keeper.lanes}
            for partition in bounds.keys() | lanes.keys():
                self._note(keeper.topic, partition, lanes.get(partition), bounds[partition].end, asked_at)
        async with self._database.snapshot() as connection:
            self.outbox_rows = (await fetch(connection, _WAITING, OUTBOX_ROWS_SEEN_MAX))[0].n
        self.looked_at = self._clock.monotonic()

    def age_seconds(self, lag: Lag) -> float:
        """An upper bound of the age of the oldest unread record; 0 where nothing is unread."""
        return max(0.0, (self._clock.now_ms() - lag.unread_since_ms) / 1000) if lag.records else 0.0

    def frontier_ages(self) -> Iterator[tuple[str, int, float]]:
        """(topic, partition, seconds) since T of every lane that ever had one."""
        for keeper in self.keepers:
            for lane in keeper.lanes:
                if lane.claim is not None and lane.claim.frontier != NEVER:
                    yield keeper.topic, lane.partition, (self._clock.now_ms() - lane.claim.frontier) / 1000

    def check(self, keeper: Keeper) -> dict[str, Any]:
        """Readiness of one topic: not ok without a worker or with a partition that waits for a person.

        The lag is null until every partition in its hands was looked at.
        """
        stopped = {str(lane.partition): lane.stopped for lane in keeper.lanes if lane.stopped}
        lags = [self.lags.get((keeper.topic, lane.partition)) for lane in keeper.lanes]
        known = [lag for lag in lags if lag is not None]
        unknown = self.looked_at is None or len(known) < len(lags)
        return {
            "ok": keeper.is_alive and not stopped,
            "stopped": stopped,
            "partitions": len(lags),
            "lag_records": None if unknown else sum(lag.records for lag in known),
            "oldest_unread_seconds": None if unknown else round(max(map(self.age_seconds, known), default=0.0), 3),
        }

    def _note(self, topic: str, partition: int, lane: Lane | None, end: int, asked_at: int) -> None:
        """One in nobody's hands here is somebody else's to watch; a stopped one falls behind from where it stopped."""
        known = self.lags.get((topic, partition))
        if lane is None:
            self.lags.pop((topic, partition), None)
        elif lane.claim is not None:
            self.lags[topic, partition] = _lag(lane.claim, end, asked_at, known)
        elif known is not None:
            self.lags[topic, partition] = replace(known, records=max(0, end - known.position))


def _lag(claim: Claim, end: int, asked_at: int, known: Lag | None) -> Lag:
    unread = max(0, end - claim.position)
    since = asked_at
    if unread and claim.frontier != NEVER:
        since = claim.frontier
    elif unread and known is not None:
        since = known.unread_since_ms
    return Lag(unread, since, claim.position)
