"""Fitting the model: seconds by number of customers, and the whole run beside it (reading, fitting, holdout, process).

`python -m tests.bench.bench_fit [--customers N ...]`. Shops are simulated with CDNOW's parameters, 78 weeks.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import msgspec

from services.scoring import store, tables
from services.scoring.domain import mbg
from services.scoring.domain.deciding import INITIAL
from services.scoring.domain.definitions import DEFAULT_MODEL
from services.scoring.domain.fitting import fit, histories_at
from services.scoring.domain.refitting import refit
from services.scoring.fit_order import FitOrder
from services.scoring.fits import answers
from shared import profile
from shared.database import Database, insert_rows
from shared.events import SECRET
from shared.ids import partition_of
from tests.builders import a_leaf, a_touchpoint
from tests.support.shops import WEEK_MS, a_shop, orders_of
from tests.support.steps import PARTITIONS, fresh_database

WEEKS = 78
AT = WEEKS * WEEK_MS


def pure(customers: int) -> None:
    """The fit alone, and with its holdout and figures."""
    ledger = a_shop(customers, mbg.CDNOW, WEEKS)
    known = histories_at(ledger, AT, WEEK_MS)
    before = time.perf_counter()
    found = fit(known)
    between = time.perf_counter()
    refit(ledger, AT, dict(DEFAULT_MODEL), 0.01)
    after = time.perf_counter()
    p = found.parameters
    print(
        f"{customers:9,} customers: fit {between - before:6.3f} s, with holdout and figures {after - between:6.3f} s   "
        f"r {p.r:.3f} alpha {p.alpha:.3f} a {p.a:.3f} b {p.b:.3f}, {found.starts_agreeing} starts agree",
        flush=True,
    )


async def filled(database: Database, customers: int) -> None:
    """A decision row for each customer, with their purchases in the state."""
    rows, decision = [], msgspec.msgpack.encode(INITIAL)
    for n, times in enumerate(orders_of(customers, mbg.CDNOW, WEEKS)):
        leaf, made = a_leaf(f"c{n}"), profile.new()
        for k, at in enumerate(times):
            profile.fold(made, a_touchpoint("purchased", at=at, leaf=leaf, order_id=f"{n}-{k}"), "shop", SECRET)
        state = profile.encode(made)
        rows.append((leaf, "main", partition_of(leaf, PARTITIONS), 1, state, decision, None, b"", "", 0, 1))
    async with database.transaction() as connection:
        for start in range(0, len(rows), 5_000):
            await insert_rows(connection, tables.decision, store.DECISION_COLUMNS, rows[start : start + 5_000])


async def whole(customers: int, folder: Path) -> None:
    """A run as the service does it: a process that reads the database and fits."""
    async with fresh_database("", folder, "scoring") as database:
        await filled(database, customers)
        order = FitOrder("", str(folder), PARTITIONS, "main", "UTC", 0, None, AT, dict(DEFAULT_MODEL), 0.01, 200_000)
        before = time.perf_counter()
        read_seconds = 0.0
        async for answer in answers(order):
            if answer.read_all and not read_seconds:
                read_seconds = time.perf_counter() - before
        seconds = time.perf_counter() - before
        said = "fitted" if answer.model is not None else answer.refused or answer.failed
        print(f"{customers:9,} customers: the whole run {seconds:6.3f} s ({said}), of it reading {read_seconds:6.3f} s")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, nargs="*", default=[2_500, 25_000, 200_000])
    for customers in parser.parse_args().customers:
        pure(customers)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(whole(25_000, Path(folder)))


if __name__ == "__main__":
    main()
