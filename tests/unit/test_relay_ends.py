"""A relay that is cancelled in the moment it is woken ends: an orderly stop waits for it. And how much a pass takes."""

import asyncio
from collections.abc import Sequence
from random import Random

from shared.checkpoint import Claim
from shared.clock import FrozenClock
from shared.lane import Lane, Tally
from shared.outbox import OutboxSnapshot, Pending
from shared.relay import GROWTH, OUTBOX_ROWS_MAX, ROWS_UNSEEN, Relay, Relaying, rows_after
from shared.topics import TOUCHPOINTS
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
    clock = FrozenClock()
    log = MemoryLog(clock, 1, Random(1))
    store, lane = _Asked(), Lane(0, Claim(TOUCHPOINTS, 0, 1, 1, 0))
    relay = Relay(log, store, clock, Relaying(1, False, 0), TOUCHPOINTS, {0: lane}, Tally())  # type: ignore[arg-type]
    task = asyncio.create_task(relay.run())
    await _turns(20)
    task.cancel()
    await asyncio.wait([task])
    assert store.limits == [ROWS_UNSEEN]


def _rows(count: int, size: int) -> list[Pending]:
    return [Pending(n, "t", 0, b"k", b"x" * size) for n in range(count)]


class _Asked:
    """An empty outbox that notes how much was asked for."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        self.limits.append(limit)
        return OutboxSnapshot((), {}, True, {})


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
