"""A relay that is cancelled in the moment it is woken ends: an orderly stop waits for it. And how much a pass takes."""

import asyncio
from collections.abc import Sequence
from random import Random

from shared.checkpoint import Claim
from shared.clock import FrozenClock
from shared.lane import Lane, Tally
from shared.outbox import OutboxSnapshot, Pending
from shared.relay import GROWTH, OUTBOX_ROWS_MAX, ROWS_UNSEEN, Relay, Relaying, rows_after
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from tests.simulation.memory_log import MemoryLog


async def test_a_relay_that_is_woken_and_cancelled_at_once_ends() -> None:
    clock = FrozenClock()
    log = MemoryLog(clock, 1, Random(1))
    relay = Relay(log, None, clock, Relaying(1, True, 0), TOUCHPOINTS, {}, Tally())  # type: ignore[arg-type]  # nothing is owned
    for turns in range(6):  # from the waking to the end of the waiting take some turns of the loop
        task = asyncio.create_task(relay.run())
        await _turns(10)
        relay.wake()
        await _turns(turns)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, f"a cancelling {turns} turns after the waking was lost"


def test_a_pass_takes_fewer_rows_where_they_are_large() -> None:
    assert rows_after(_rows(10, 1_000), 100_000) == 100
    assert rows_after([*_rows(9, 0), *_rows(1, 10_000)], 50_000) == 50, "by the mean"
    assert rows_after(_rows(3, 1_000), 100) == 1
    assert rows_after(_rows(OUTBOX_ROWS_MAX, 1), 100_000) == OUTBOX_ROWS_MAX


def test_a_pass_takes_few_rows_before_it_is_known_how_large_they_are() -> None:
    assert rows_after([], 1 << 30) == ROWS_UNSEEN
    assert rows_after(_rows(ROWS_UNSEEN, 1), 1 << 30) == GROWTH * ROWS_UNSEEN


async def test_a_relay_that_begins_reads_few_rows_however_many_wait() -> None:
    store = _Asked()
    task = asyncio.create_task(_relay_of(store).run())
    await _turns(20)
    task.cancel()
    await asyncio.wait([task])
    assert store.limits == [ROWS_UNSEEN]


async def test_while_steps_wait_for_the_outbox_to_be_emptied_nothing_is_deleted_at_leisure() -> None:
    store = _Filled()
    relay = _relay_of(store)
    task = asyncio.create_task(relay.run())
    async with asyncio.timeout(5):
        while len(store.hurried) < 3:
            await asyncio.sleep(0)
            relay.wake()
    task.cancel()
    await asyncio.wait([task])
    assert store.hurried == [True, True, False]


def _relay_of(store: object) -> Relay:
    """Of one owned partition."""
    clock, lane = FrozenClock(), Lane(0, Claim(TOUCHPOINTS, 0, 1, 1, 0))
    log = MemoryLog(clock, 1, Random(1))
    return Relay(log, store, clock, Relaying(1, False, 0), TOUCHPOINTS, {0: lane}, Tally())  # type: ignore[arg-type]


def _rows(count: int, size: int) -> list[Pending]:
    return [Pending(n, PROFILE_CHANGES, 0, b"k", b"x" * size) for n in range(count)]


class _Asked:
    """An empty outbox that notes how much was asked for."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        self.limits.append(limit)
        return OutboxSnapshot((), {}, True, {})


class _Filled:
    """An outbox of one row a pass, after the first more is left; it notes whether steps waited for the deletion."""

    def __init__(self) -> None:
        self.hurried: list[bool] = []

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        passes = len(self.hurried)
        return OutboxSnapshot(tuple(_rows(1 if passes < 3 else 0, 10)), {}, passes > 0, {})

    async def relayed(self, claims: Sequence[Claim], seqs: Sequence[int], hurried: bool) -> None:
        self.hurried.append(hurried)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
