"""A relay that is cancelled in the moment it is woken ends: an orderly stop waits for it. And how much a pass takes."""

import asyncio
from random import Random

from shared.clock import FrozenClock
from shared.lane import Tally
from shared.outbox import Pending
from shared.relay import OUTBOX_ROWS_MAX, Relay, Relaying, rows_within
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
    def rows(count: int, size: int) -> list[Pending]:
        return [Pending(n, "t", 0, b"k", b"x" * size) for n in range(count)]

    assert rows_within(1_000, []) == OUTBOX_ROWS_MAX
    assert rows_within(100_000, rows(10, 1)) == OUTBOX_ROWS_MAX
    assert rows_within(100_000, rows(10, 1_000)) == 100
    assert rows_within(100_000, [*rows(9, 0), *rows(1, 10_000)]) == 100, "by the mean"
    assert rows_within(100, rows(3, 1_000)) == 1


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
