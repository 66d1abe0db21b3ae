"""What lanes bring goes into one step; each hears of its own outcome; how much goes in follows how long it takes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from shared.checkpoint import Claim
from shared.clock import FrozenClock
from shared.database import Away
from shared.errors import Fenced, NotAccepting, Stopped
from shared.lane import Portion
from shared.log.port import Batch, Record
from shared.stepping import BATCH_RECORDS_MAX, STEP_BYTES_MAX, STEP_SECONDS_MAX, Stepping


@dataclass
class Folder:
    """Folds nothing, and notes what came together. `refuses`: what is raised for a step of these partitions."""

    clock: FrozenClock = field(default_factory=lambda: FrozenClock(0))
    steps: list[list[int]] = field(default_factory=list)
    refuses: Callable[[Sequence[int]], Exception | None] = lambda partitions: None
    seconds: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    steps_at_once: int = 1
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        partitions = [portion.claim.partition for portion in portions]
        self.steps.append(partitions)
        await self.gate.wait()
        self.clock.advance(int(self.seconds * 1000))
        if (error := self.refuses(partitions)) is not None:
            raise error
        return [replace(portion.claim, position=portion.batch.next_position) for portion in portions]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self.turns:
            yield


@asynccontextmanager
async def stepping(folder: Folder) -> AsyncIterator[Stepping]:
    steps = Stepping(folder, folder, folder.clock)
    task = asyncio.create_task(steps.run())
    try:
        yield steps
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def a_claim(partition: int) -> Claim:
    return Claim("things", partition, 1, 1, 0)


def a_batch(records: int = 1, size: int = 0) -> Batch:
    return Batch(tuple(Record(n, 0, bytes(size), b"") for n in range(records)), records)


async def brought(
    steps: Stepping, partitions: Sequence[int], records: int = 1, size: int = 0
) -> list[Claim | BaseException]:
    told = [steps.fold(a_claim(partition), a_batch(records, size)) for partition in partitions]
    return await asyncio.gather(*told, return_exceptions=True)


async def test_what_is_there_when_the_turn_comes_goes_into_one_step_in_the_order_of_partitions() -> None:
    folder = Folder()
    folder.gate.set()
    async with stepping(folder) as steps, folder.turns:
        told = asyncio.create_task(brought(steps, [3, 1, 2]))
        await asyncio.sleep(0.01)  # others write: all three are there when they have
        assert folder.steps == []
        folder.turns.release()
        assert await told == [replace(a_claim(partition), position=1) for partition in (3, 1, 2)]
        await folder.turns.acquire()
    assert folder.steps == [[1, 2, 3]]


@pytest.mark.parametrize(
    "error",
    [Fenced("2 is another's"), Stopped("2 must stop"), ValueError("2 has a bug"), NotAccepting("the key of 2 is away")],
)
async def test_who_cannot_be_folded_hears_of_it_alone(error: Exception) -> None:
    folder = Folder(refuses=lambda partitions: error if 2 in partitions else None)
    folder.gate.set()
    async with stepping(folder) as steps:
        told = await brought(steps, [1, 2, 3])
        assert steps.records_max == BATCH_RECORDS_MAX, "that it is too much was not the cause"
    assert told == [replace(a_claim(1), position=1), error, replace(a_claim(3), position=1)]
    assert folder.steps == [[1, 2, 3], [1], [2], [3]]


async def test_a_database_that_is_away_is_away_for_all_and_is_asked_for_less() -> None:
    error = Away("away")
    folder = Folder(refuses=lambda partitions: error)
    folder.gate.set()
    async with stepping(folder) as steps:
        assert await brought(steps, [1, 2, 3]) == [error] * 3
        assert (folder.steps, steps.records_max) == ([[1, 2, 3]], BATCH_RECORDS_MAX // 4)


async def test_a_step_holds_no_more_records_than_it_may_but_one_batch_always() -> None:
    folder = Folder()
    folder.gate.set()
    async with stepping(folder) as steps:
        steps.records_max = 10
        folder.seconds = STEP_SECONDS_MAX / 2  # of the right length: the bound stays
        await brought(steps, [0, 1, 2, 3], records=4)
        await brought(steps, [0, 1], records=40)
    assert folder.steps == [[0, 1], [2, 3], [0], [1]]


async def test_a_step_holds_no_more_bytes_than_one_read_may_bring() -> None:
    folder = Folder()
    folder.gate.set()
    async with stepping(folder) as steps:
        await brought(steps, [0, 1, 2, 3], records=2, size=STEP_BYTES_MAX // 6)
        await brought(steps, [0, 1], size=2 * STEP_BYTES_MAX)
    assert folder.steps == [[0, 1, 2], [3], [0], [1]]


async def test_who_is_cancelled_before_its_step_is_not_in_it() -> None:
    folder = Folder()
    folder.gate.set()
    async with stepping(folder) as steps, folder.turns:
        stays, goes = (asyncio.create_task(steps.fold(a_claim(n), a_batch())) for n in (1, 2))
        await asyncio.sleep(0)
        goes.cancel()
        await asyncio.gather(goes, return_exceptions=True)
        folder.turns.release()
        await stays
        await folder.turns.acquire()
    assert (goes.cancelled(), folder.steps) == (True, [[1]])


async def test_who_is_cancelled_in_its_step_goes_when_it_is_over_and_takes_nobody_along() -> None:
    folder = Folder()
    async with stepping(folder) as steps:
        stays, goes = (asyncio.create_task(steps.fold(a_claim(n), a_batch())) for n in (1, 2))
        while not folder.steps:
            await asyncio.sleep(0)
        goes.cancel()
        await asyncio.sleep(0.01)
        assert not goes.done()
        folder.gate.set()
        assert (await stays).position == 1
        await asyncio.gather(goes, return_exceptions=True)
    assert (goes.cancelled(), folder.steps) == (True, [[1, 2]])


async def test_several_steps_at_once_where_the_database_takes_them() -> None:
    folder = Folder(steps_at_once=2)
    folder.turn = lambda: asyncio.timeout(None)  # type: ignore[method-assign,assignment,return-value]
    async with stepping(folder) as steps:
        first = asyncio.create_task(brought(steps, [1]))
        while len(folder.steps) < 1:
            await asyncio.sleep(0)
        second = asyncio.create_task(brought(steps, [2, 3]))
        while len(folder.steps) < 2:
            await asyncio.sleep(0)
        folder.gate.set()
        await asyncio.gather(first, second)
    assert folder.steps == [[1], [2, 3]]


async def test_when_stepping_ends_nobody_waits_for_it() -> None:
    folder = Folder()
    async with stepping(folder) as steps:
        told = asyncio.create_task(steps.fold(a_claim(1), a_batch()))
        while not folder.steps:
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await told


# --- how much goes into a step --------------------------------------------------------------------------------


async def after_steps(folder: Folder, records: int, times: int, begin: int = BATCH_RECORDS_MAX) -> int:
    folder.gate.set()
    async with stepping(folder) as steps:
        steps.records_max = begin
        for _ in range(times):
            await brought(steps, [0], records)
        return steps.records_max


async def test_a_slow_step_is_halved_from_what_it_really_held() -> None:
    assert await after_steps(Folder(seconds=2 * STEP_SECONDS_MAX), 40, 1) == 20  # bytes had cut it to 40 records


async def test_it_never_falls_below_one_record() -> None:
    assert await after_steps(Folder(seconds=9.0), 1, 20) == 1
    assert await after_steps(Folder(refuses=lambda partitions: Away("away")), 1, 20) == 1


async def test_what_has_the_right_length_stays() -> None:
    assert await after_steps(Folder(seconds=STEP_SECONDS_MAX / 2), 50, 3, begin=50) == 50


async def test_quick_steps_grow_back_to_the_usual() -> None:
    assert await after_steps(Folder(), 1, 20, begin=1) == BATCH_RECORDS_MAX


async def test_who_was_in_a_step_reads_on_and_is_in_the_next_beside_who_came_meanwhile() -> None:
    """Else lanes fall into two halves that take turns, and each waits for the step of the other."""
    folder = Folder()

    async def lane(partition: int) -> None:
        await steps.fold(a_claim(partition), a_batch())
        for _ in range(3):  # as the worker does between its step and its next batch
            await asyncio.sleep(0)
        await steps.fold(a_claim(partition), a_batch())

    async with stepping(folder) as steps:
        first = asyncio.create_task(lane(1))
        while not folder.steps:
            await asyncio.sleep(0)
        second = asyncio.create_task(lane(2))
        await asyncio.sleep(0)
        folder.gate.set()
        await asyncio.gather(first, second)
    assert folder.steps[:2] == [[1], [1, 2]]


async def test_a_step_with_time_left_grows_though_most_of_it_was_waiting() -> None:
    assert await after_steps(Folder(seconds=0.4 * STEP_SECONDS_MAX), 1, 20, begin=1) == BATCH_RECORDS_MAX
