"""How fast profiles are rebuilt beside live ones, and how far live falls behind meanwhile, on SQLite and PostgreSQL.

`python -m tests.bench.bench_rebuild [--events N] [--traffic N]`: folds a log of N events live, then rebuilds it while
`traffic` events a second come in. Prints events/s of the rebuild, how long comparison and switch took, and live's lag
(age of the oldest record not folded) alone and beside the rebuild.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from services.profiles.comparing import positions
from shared.codec import encode
from shared.ids import derived_id, partition_of
from shared.log.port import Outgoing
from shared.rebuild import Pace
from shared.throttle import LagMeter
from shared.topics import TOUCHPOINTS
from tests.bench.bench_decide import on_postgresql
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.rebuilding import Beside, ended, profiles_beside
from tests.support.steps import PARTITIONS, fresh_database

CUSTOMERS = 2_000
RECORD = 10


def facts() -> Iterator[Outgoing]:
    """Records of ten page views and a purchase now and then, each of one customer."""
    number = 0
    while True:
        number += 1
        leaf = a_leaf(f"c{number * 7919 % CUSTOMERS}")
        views = [
            a_touchpoint(at=NOON_MS + number * 1_000 + n, leaf=leaf, id=derived_id(str(number), str(n)), path="/shop")
            for n in range(RECORD - 1)
        ]
        buy = a_touchpoint("purchased", at=NOON_MS + number, leaf=leaf, order_id=f"o{number}", amount=9, currency="EUR")
        yield Outgoing(partition_of(leaf, PARTITIONS), encode(a_record(*views, buy)))


async def traffic(beside: Beside, source: Iterator[Outgoing], per_second: float) -> None:
    """Records at a steady rate, for ever."""
    while True:
        await beside.log.append(TOUCHPOINTS, [next(source)])
        await asyncio.sleep(RECORD / per_second)


async def watch(beside: Beside, lags: list[float]) -> None:
    """Live's lag every 20 ms."""
    meter = LagMeter()
    while True:
        at = time.monotonic()
        ends = {partition: bounds.end for partition, bounds in (await beside.log.bounds(TOUCHPOINTS)).items()}
        async with beside.database.snapshot() as connection:
            lags.append(meter.look(at, ends, await positions(connection)))
        await asyncio.sleep(0.02)


@asynccontextmanager
async def watched(beside: Beside) -> AsyncIterator[list[float]]:
    """Lags seen during the block."""
    lags: list[float] = []
    task = asyncio.create_task(watch(beside, lags))
    try:
        yield lags
    finally:
        await ended(task)


def told(lags: list[float]) -> str:
    """p50, p99 and the largest, in milliseconds."""
    ordered = sorted(lags)
    p99 = ordered[int(len(ordered) * 0.99)]
    return f"p50 {1000 * statistics.median(ordered):.0f} ms, p99 {1000 * p99:.0f} ms, max {1000 * ordered[-1]:.0f} ms"


async def bench(name: str, url: str, events: int, per_second: float) -> None:
    """One database."""
    with tempfile.TemporaryDirectory(prefix="raftar-bench-") as folder:
        there = Path(folder)
        async with fresh_database(url, there, "profiles") as database, profiles_beside(there, database) as beside:
            beside.deadline_seconds = 900
            source = facts()
            await beside.log.append(TOUCHPOINTS, [next(source) for _ in range(events // RECORD)])
            began = time.monotonic()
            beside.work()
            await beside.settle()
            live_seconds = time.monotonic() - began
            print(f"{name}: live folded {events} events at {events / live_seconds:.0f}/s")
            flow = asyncio.create_task(traffic(beside, source, per_second))
            async with watched(beside) as alone:
                await asyncio.sleep(5)
            beside.rebuild()
            async with watched(beside) as during:
                await rebuilt(name, beside, events, during)
            await ended(flow)
            print(
                f"{name}: live lag at {per_second:.0f} events/s alone {told(alone)}; beside the rebuild {told(during)}"
            )


async def rebuilt(name: str, beside: Beside, events: int, lags: list[float]) -> None:
    """From the beginning to the switch, with live's lag in each phase."""
    began = time.monotonic()
    await beside.begin()
    row = await beside.until(lambda row: row is not None and row.phase != "filling")
    filled, until_filled = time.monotonic(), len(lags)
    assert row is not None
    pace = msgspec.json.decode(row.pace, type=Pace) if row.pace else Pace()
    await beside.phase("ready")
    compared, until_compared = time.monotonic(), len(lags)
    await beside.ask("switch")
    await beside.phase("switched")
    await asyncio.sleep(1)
    switched = time.monotonic() - 1
    print(
        f"{name}: rebuild {events / (filled - began):.0f} events/s (share of the time at the end {pace.share:.2f}), "
        f"compared in {compared - filled:.2f} s, switched in {switched - compared:.2f} s"
    )
    print(f"{name}: live lag while it folds {told(lags[:until_filled])}")
    print(f"{name}: live lag while it compares {told(lags[until_filled:until_compared])}")
    print(f"{name}: live lag around the switch {told(lags[until_compared:])}")


def main(events: int, per_second: float) -> None:
    """Both databases."""
    asyncio.run(bench("sqlite", "", events, per_second))
    with tempfile.TemporaryDirectory(prefix="raftar-bench-") as folder:
        on_postgresql(Path(folder), lambda url: asyncio.run(bench("postgresql", url, events, per_second)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--traffic", type=float, default=300)
    arguments = parser.parse_args()
    main(arguments.events, arguments.traffic)
