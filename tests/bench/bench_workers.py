"""The profiles step as it runs: four lanes of one worker on SQLite, and one and two workers on PostgreSQL.

`python -m tests.bench.bench_workers [--batches N]`. Each lane folds its own partition and its own customers, three
touchpoints a customer and batch; the bare statements of the same transactions run the same way, in the same run. A
second worker is a process of its own; workers and server share this machine's cores.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from shared.codec import encode
from shared.database import Database, open_database
from tests.bench.bench_read import postgresql
from tests.bench.bench_step import BATCH, TARGETS, Recorded, bare, history, ours, record
from tests.support.postgres import _run
from tests.support.steps import fresh_database

LANES, PER_CUSTOMER = 4, 3

Encoded = list[list[bytes]]


def batches_of(lane: int, batches: int) -> Encoded:
    """What one lane folds: customers of its own."""
    return [[encode(fact) for fact in batch] for batch in history(batches, PER_CUSTOMER, f"lane{lane}-")]


async def in_lanes(database: Database, work: Sequence[Encoded], known: Sequence[Recorded] | None = None) -> float:
    """Touchpoints/s of all lanes together, bare where `known` has their rows; the first batch of each is left out."""
    began: list[float] = []
    ended: list[float] = []

    def on_batch(_seconds: float) -> None:
        (began if len(began) < len(work) else ended).append(time.perf_counter())

    async with asyncio.TaskGroup() as tasks:
        for lane, encoded in enumerate(work):
            if known is None:
                tasks.create_task(ours(database, encoded, on_batch, lane, [lane]))
            else:
                tasks.create_task(bare(database, known[lane], on_batch, lane, [lane]))
    return len(ended) * BATCH / (ended[-1] - began[-1])


async def lanes(name: str, url: Callable[[], str], batches: int) -> None:
    """Four lanes in one process, ours and bare in turn."""
    work = [batches_of(lane, batches) for lane in range(LANES)]
    with tempfile.TemporaryDirectory() as folder:
        known = [await record(encoded, Path(folder) / f"recorded{n}") for n, encoded in enumerate(work)]
        ratios, mine = [], 0.0
        for turn in range(3):
            async with fresh_database(url(), Path(folder) / f"ours{turn}", "profiles") as database:
                mine = await in_lanes(database, work)
            async with fresh_database(url(), Path(folder) / f"bare{turn}", "profiles") as database:
                ratios.append(mine / await in_lanes(database, work, known))
    ratio = statistics.median(ratios)
    print(f"{name:10} {LANES} lanes, one worker: step {mine:8,.0f}/s  ratio to bare {ratio:.2f}", flush=True)


def worker(
    url: str, lane: int, count: int, batches: int, barrier: Barrier, told: "multiprocessing.Queue[tuple[float, float]]"
) -> None:
    """One process of `count`, with a lane of its own; tells when its second batch began and its last ended."""
    encoded, targets = batches_of(lane, batches), [target for target in TARGETS if target % count == lane]
    moments: list[float] = []

    async def run() -> None:
        database = open_database(url, Path(), "profiles")
        barrier.wait()
        await ours(database, encoded, lambda _: moments.append(time.time()), lane, targets)
        await database.close()

    asyncio.run(run())
    told.put((moments[0], moments[-1]))


def workers(url: str, count: int, batches: int) -> float:
    """Touchpoints/s of `count` processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=worker, args=(url, lane, count, batches, barrier, told)) for lane in range(count)
    ]
    for process in processes:
        process.start()
    moments = [told.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    seconds = max(ended for _, ended in moments) - min(began for began, _ in moments)
    return count * (batches - 1) * BATCH / float(seconds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=10)
    batches = parser.parse_args().batches
    asyncio.run(lanes("sqlite", lambda: "", batches))
    with postgresql() as (server, _):
        made = iter(range(1_000))

        def url() -> str:
            name = f"bench{next(made)}"
            _run(server, f"CREATE DATABASE {name}")
            return server.replace("/postgres?", f"/{name}?")

        asyncio.run(lanes("postgresql", url, batches))
        figures: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(3):
            for count, found in figures.items():
                fresh = url()
                asyncio.run(_migrated(fresh))
                found.append(workers(fresh, count, batches))
        one, two = (statistics.median(found) for found in figures.values())
        print(f"postgresql one worker {one:8,.0f}/s, two workers {two:8,.0f}/s, {two / one:.2f} times", flush=True)


async def _migrated(url: str) -> None:
    async with fresh_database(url, Path(os.devnull).parent, "profiles"):
        pass


if __name__ == "__main__":
    main()
