"""Driving the profiles step without a log: records made by hand, a database made fresh."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from migrations import migrate
from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from services.profiles.store import SqlStore
from shared.checkpoint import Claim
from shared.codec import encode
from shared.database import Database, open_database
from shared.events import Fact
from shared.log.port import RECORD_BYTES_MAX, Batch, Record
from shared.outbox import Pending
from shared.topics import TOUCHPOINTS

PARTITIONS = 4
START_MS = 1_700_060_000_000


@asynccontextmanager
async def fresh_database(url: str, folder: Path, service: str) -> AsyncIterator[Database]:
    """A migrated database of `service`: PostgreSQL at `url`, or SQLite in `folder` when it is empty."""
    database = open_database(url, folder, service)
    try:
        await migrate(database, service)
        yield database
    finally:
        await database.close()


def a_projection(database: Database) -> TouchpointsProjection:
    """The profiles step on `database`; sealed fields stay closed."""
    return TouchpointsProjection(
        SqlStore(database), House(PARTITIONS, RECORD_BYTES_MAX), open_sealed=lambda workspace, sealed: {}
    )


def a_batch(claim: Claim, facts: Sequence[Fact], at: int = START_MS) -> Batch:
    """A batch of `facts` right behind the claim, a millisecond apart."""
    records = [Record(claim.position + n, at + n, encode(fact)) for n, fact in enumerate(facts)]
    return Batch(tuple(records), claim.position + len(records))


async def fold_all(
    projection: TouchpointsProjection, facts: Sequence[Fact], partition: int = 0, batch: int = 100, at: int = START_MS
) -> Claim:
    """Acquire a partition and fold `facts` on it in batches of `batch` records; returns the claim."""
    claim = await projection.store.acquire(TOUCHPOINTS, partition, "test")
    for start in range(0, len(facts), batch):
        claim = await projection.fold(claim, a_batch(claim, facts[start : start + batch], at + start))
    return claim


async def outbox_of(projection: TouchpointsProjection) -> list[Pending]:
    """Everything waiting in the outbox, in order."""
    return list((await projection.store.outbox(range(PARTITIONS), 100_000)).rows)
