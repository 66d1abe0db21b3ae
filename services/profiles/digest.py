"""One number for all leaf states and customers, and the same number folded anew from the log: equal, or a bug."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import migrations
from services.profiles.domain.drift import digest_into
from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from services.profiles.store import SqlStore
from shared.database import Database, fetch, open_database
from shared.events import Sealed
from shared.log.port import RECORD_BYTES_MAX, Log
from shared.sealing import PersonalFields
from shared.topics import TOUCHPOINTS

PAGE_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Refolded:
    """What the log folds to. `touchpoints`: distinct ones · `parked`: facts that could not be folded."""

    digest: str
    leaves: int
    customers: int
    touchpoints: int
    parked: int


async def digest(database: Database) -> str:
    """SHA-256 over (leaf, state, root) of every leaf, by leaf, each framed by its length; hexadecimal.

    An erased leaf counts with an empty state, one of which nothing was folded yet not at all. Versions, positions and
    times never count (design §7).
    """
    total, after = sha256(), b""
    rows: list[Any] = [()]
    statement = f"SELECT leaf, state, root, erased FROM leaf WHERE leaf > $1 ORDER BY leaf LIMIT {PAGE_ROWS}"
    async with database.snapshot() as connection:
        while rows:
            rows = await fetch(connection, statement, after)
            for row in rows:
                after = row.leaf
                digest_into(total, row.leaf, row.state, row.root, bool(row.erased))
    return total.hexdigest()


async def refold(log: Log) -> Refolded:
    """Fold the touchpoints log from its start into a fresh database by the same code, and say what that gives.

    Nothing leaves it: its outbox is never relayed. Personal values are not opened. Raises Stopped, Retryable.
    """
    with TemporaryDirectory(prefix="raftar-refold-") as folder:
        database = open_database("", Path(folder), "profiles")
        try:
            await migrations.migrate(database, "profiles")
            await fold_all(log, SqlStore(database))
            return Refolded(await digest(database), **await _counts(database))
        finally:
            await database.close()


async def fold_all(log: Log, store: SqlStore, told: Callable[[int, int], None] = lambda done, of_all: None) -> None:
    """Fold the touchpoints log from its start into an empty database, partition by partition; nothing is relayed.

    `told`: progress, in records done and of how many.
    """
    bounds = await log.bounds(TOUCHPOINTS)
    done, of_all = 0, sum(end - earliest for earliest, end in bounds.values())
    projection = TouchpointsProjection(store, House(len(bounds), RECORD_BYTES_MAX), _open_nothing)
    identity = await log.identity(TOUCHPOINTS)
    for partition, (earliest, end) in sorted(bounds.items()):
        claim = await store.acquire(TOUCHPOINTS, partition, identity)
        position = earliest
        while position < end:
            batch = await log.read(TOUCHPOINTS, partition, position, wait_seconds=10)
            claim = await projection.fold(claim, batch)
            done, position = done + claim.position - position, claim.position
            told(done, of_all)
        await log.release(TOUCHPOINTS, partition)


def _open_nothing(_workspace: str, _sealed: Sealed) -> PersonalFields:
    return {}


async def _counts(database: Database) -> Mapping[str, Any]:
    async with database.snapshot() as connection:
        tables = {"leaves": "leaf", "customers": "customer", "touchpoints": "touchpoint", "parked": "parked"}
        return {
            name: (await fetch(connection, f"SELECT count(*) AS n FROM {table}"))[0].n for name, table in tables.items()
        }
