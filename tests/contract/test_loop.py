"""A worker before its first fold: the log must be the one it folded, and a log that is silent is no reason to stop."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.profiles.failed import FailedProjection
from services.profiles.store import SqlStore
from shared.checkpoint import Claim
from shared.clock import FrozenClock, SystemClock
from shared.codec import encode
from shared.ending import ended
from shared.errors import NotAccepting
from shared.events import ImportStarted
from shared.lane import Portion
from shared.log.ownership import AllPartitions
from shared.log.port import Batch, Outgoing, Topic
from shared.log.sqlite import SqliteLog
from shared.loop import Worker, rest_seconds
from shared.stepping import Pace
from shared.topics import TOUCHPOINTS_FAILED
from tests.support.steps import fresh_database

FACTS = [Outgoing(0, encode(ImportStarted("main", f"import-{n}", "shop", n))) for n in range(3)]
"""Of no matter to the projection: only positions and bytes count here."""


class Falling(SqliteLog):
    """A log that goes silent between saying its bounds and being read, as a broker killed at that moment does."""

    silences = 0

    async def read(self, topic: str, partition: int, position: int, **limits: Any) -> Batch:
        if self.silences:
            self.silences -= 1
            return Batch((), position)
        return await super().read(topic, partition, position, **limits)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with fresh_database("", tmp_path, "profiles") as database:
        yield SqlStore(database)


@asynccontextmanager
async def a_log(folder: Path) -> AsyncIterator[Falling]:
    log = Falling(folder, SystemClock())
    await log.ensure([Topic(TOUCHPOINTS_FAILED, 1)])
    yield log
    await log.close()


@asynccontextmanager
async def working(log: SqliteLog, store: SqlStore) -> AsyncIterator[Worker]:
    worker = Worker(log, AllPartitions(1), FailedProjection(store), SystemClock(), None)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.01)


def stands_at(worker: Worker, position: int) -> Callable[[], bool]:
    def met() -> bool:
        claim = worker.lanes[0].claim if 0 in worker.lanes else None
        return claim is not None and claim.position == position

    return met


async def stopped(log: SqliteLog, store: SqlStore) -> str:
    """Why a fresh worker stops."""
    async with working(log, store) as worker:
        await until(lambda: 0 in worker.lanes and worker.lanes[0].stopped != "")
        return worker.lanes[0].stopped


async def fold_all(log: SqliteLog, store: SqlStore) -> None:
    await log.append(TOUCHPOINTS_FAILED, FACTS)
    async with working(log, store) as worker:
        await until(stands_at(worker, len(FACTS)))


async def test_a_restart_goes_on(tmp_path: Path, store: SqlStore) -> None:
    async with a_log(tmp_path / "log") as log:
        await fold_all(log, store)
        await log.append(TOUCHPOINTS_FAILED, FACTS[:1])
        async with working(log, store) as worker:
            await until(stands_at(worker, len(FACTS) + 1))


async def test_another_log_stops_the_partition(tmp_path: Path, store: SqlStore) -> None:
    async with a_log(tmp_path / "log") as log:
        await fold_all(log, store)
    async with a_log(tmp_path / "other") as other:
        await other.append(TOUCHPOINTS_FAILED, FACTS)
        assert "belongs to log" in await stopped(other, store)


@pytest.mark.parametrize(("since", "said"), [(0, "ends at 0, before what was folded"), (3, "another record is at 2")])
async def test_a_log_restored_behind_its_checkpoint_stops_the_partition(
    since: int, said: str, tmp_path: Path, store: SqlStore
) -> None:
    backup, live = tmp_path / "backup", tmp_path / "log"
    async with a_log(backup):
        pass
    shutil.copytree(backup, live)
    async with a_log(live) as log:
        await fold_all(log, store)
    async with a_log(backup) as restored:
        if since:
            await restored.append(TOUCHPOINTS_FAILED, [*FACTS[:2], FACTS[0]])
        why = await stopped(restored, store)
    assert said in why
    assert "restore the log" in why


async def test_a_log_that_falls_silent_while_it_is_verified_is_asked_again(tmp_path: Path, store: SqlStore) -> None:
    async with a_log(tmp_path / "log") as log:
        await fold_all(log, store)
        log.silences = 2
        await log.append(TOUCHPOINTS_FAILED, FACTS[:1])
        async with working(log, store) as worker:
            await until(stands_at(worker, len(FACTS) + 1))
            assert (log.silences, worker.lanes[0].stopped) == (0, "")


class Noting(FailedProjection):
    """Notes how many records each step held."""

    steps: list[int]

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        self.steps.append(sum(len(portion.batch.records) for portion in portions))
        return await super().fold_together(portions)


async def test_who_rests_folds_the_first_at_once_and_what_comes_meanwhile_together(
    tmp_path: Path, store: SqlStore
) -> None:
    projection = Noting(store)
    projection.steps = []
    async with a_log(tmp_path / "log") as log:
        worker = Worker(log, AllPartitions(1), projection, SystemClock(), None, Pace(50, 0.5))
        task = asyncio.create_task(worker.run())
        await log.append(TOUCHPOINTS_FAILED, FACTS[:1])
        await until(stands_at(worker, 1))
        for fact in FACTS[1:]:
            await log.append(TOUCHPOINTS_FAILED, [fact])
        await until(stands_at(worker, len(FACTS)))
        await ended([task])
    assert projection.steps == [1, len(FACTS) - 1]


async def test_who_rests_does_not_while_more_is_waiting(tmp_path: Path, store: SqlStore) -> None:
    projection = Noting(store)
    projection.steps = []
    async with a_log(tmp_path / "log") as log:
        await log.append(TOUCHPOINTS_FAILED, FACTS)
        worker = Worker(log, AllPartitions(1), projection, SystemClock(), None, Pace(1, 3600.0))
        task = asyncio.create_task(worker.run())
        await until(stands_at(worker, len(FACTS)))
        await ended([task])
    assert projection.steps == [1] * len(FACTS)


@pytest.mark.parametrize("now", [0.0, 0.1, 7.3, 7.399, 12345.678])
def test_lanes_rest_until_the_same_instant(now: float) -> None:
    clock = FrozenClock(round(now * 1000))
    seconds = rest_seconds(Pace(50, 0.2), clock)
    assert 100 <= round(seconds * 1000) <= 300
    assert round((now + seconds) * 1000) % 200 == 0
    assert rest_seconds(Pace(50, 0.0), clock) == 0.0


class Leaving(AllPartitions):
    """An ownership that knows whether it is in its group."""

    joined = False

    async def start(self) -> None:
        self.joined = True

    async def close(self) -> None:
        self.joined = False


class Away(SqliteLog):
    """A log whose cluster went away between the joining of its group and the first question."""

    async def identity(self, topic: str) -> str:
        raise NotAccepting("the cluster does not answer")


async def test_a_worker_that_dies_before_its_first_fold_leaves_the_group(tmp_path: Path, store: SqlStore) -> None:
    """Else the one that replaces it in the same process gets what is left, and the rest is nobody's for ever."""
    log, ownership = Away(tmp_path / "log", SystemClock()), Leaving(1)
    await log.ensure([Topic(TOUCHPOINTS_FAILED, 1)])
    with pytest.raises(NotAccepting):
        await Worker(log, ownership, FailedProjection(store), SystemClock(), None).run()
    assert not ownership.joined
    await log.close()
