"""The house's state carried over: profiles folded anew from the new log, what is a store of record copied.

Decisions are rows of the customer and stay as they are, so nothing is decided twice; only where a customer's changes
lie is another. Versions never go back: what scoring knows must be older than what profiles says next.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sqlalchemy import Table

from services.profiles import tables as profiles
from services.profiles.digest import digest, fold_all
from services.profiles.store import SqlStore
from services.repartition.copying import Told
from services.repartition.placing import everywhere
from services.scoring import tables as scoring
from shared import checkpoint
from shared.database import Database, execute, fetch, insert_rows, update_rows
from shared.errors import LogMismatch
from shared.ids import partition_of
from shared.log.port import Log
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES, TOUCHPOINTS, TOUCHPOINTS_FAILED

PAGE_ROWS = 2_000

FOLDED = frozenset(
    ("leaf", "touchpoint", "edge", "customer", "sealing_use", "parked", "standing", "alert", "transition", "failed")
)
"""Tables of profiles that the new log fills: some here, those of decisions and failures when the house starts."""
BEGUN_ANEW = frozenset(
    ("checkpoint", "outbox", "import_passed", "projection", "rebuild", "rebuild_checkpoint", "rebuild_differing",
     "rebuild_touched")
)  # fmt: skip
"""Tables of either service that speak of the old log's partitions, or of a version made beside the live one."""

Change = Callable[[dict[str, Any]], dict[str, Any]]


async def check_at_rest(log: Log, databases: dict[str, Database]) -> None:
    """Raise LogMismatch, saying what to do, unless all that is in the log went all the way."""
    waiting: list[str] = []
    folded = {
        "profiles": (TOUCHPOINTS, SEGMENT_CHANGES, CHURN_ALERTS, TOUCHPOINTS_FAILED),
        "scoring": (PROFILE_CHANGES,),
    }
    for service, topics in folded.items():
        async with databases[service].snapshot() as connection:
            rows = await fetch(connection, "SELECT topic, partition, position FROM checkpoint")
            positions = {(row.topic, row.partition): row.position for row in rows}
            if (await fetch(connection, "SELECT count(*) AS n FROM outbox"))[0].n:
                waiting.append(f"{service} has facts to append")
        for topic in topics:
            for partition, bounds in (await log.bounds(topic)).items():
                at = positions.get((topic, partition), 0)
                if at < bounds.end and bounds.end > bounds.earliest:
                    waiting.append(f"{service} stands at {at} of {bounds.end} in {topic}/{partition}")
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        raise LogMismatch(
            f"the house is not at rest: {'; '.join(waiting[:3])}{more}. Start it without ingest, wait "
            "until /readyz of profiles and scoring shows `lag_records` 0, stop it, and repeat this"
        )


async def carry_profiles(old: Database, new: Database, log: Log, told: Told) -> str:
    """Fold the new log into the new database and copy what is kept beside it; returns the digest, equal on both.

    Raises LogMismatch where the states differ: then the live ones are not what the log says, or not of this version.
    """
    await fold_all(log, SqlStore(new), lambda done, of_all: told("folding", done, of_all))
    live, folded = await digest(old), await digest(new)
    if live != folded:
        raise LogMismatch(
            f"the profiles folded from the new log differ from the live ones ({folded[:12]}, {live[:12]}): start the "
            "old house, run `raftar verify` and, where it finds drift, `raftar rebuild profiles`; then repeat this"
        )
    async with new.transaction() as connection:
        await execute(connection, "DELETE FROM outbox")  # it was all said by the old house
    await _keep_versions(old, new)
    for table in profiles.metadata.sorted_tables:
        if table.name not in FOLDED | BEGUN_ANEW:
            await _copy(old, new, table, told)
    return live


async def carry_scoring(old: Database, new: Database, log: Log, partitions: int, told: Told) -> None:
    """Copy every decision to its customer's new partition, and begin every new partition of `profile-changes`."""

    def moved(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"partition": partition_of(row["customer"], partitions)} if "partition" in row else row

    for table in scoring.metadata.sorted_tables:
        if table.name not in BEGUN_ANEW:
            await _copy(old, new, table, told, moved)
    identity = await log.identity(PROFILE_CHANGES)
    async with old.snapshot() as connection:
        passed = await fetch(connection, "SELECT workspace, import_id, partition, from_partition FROM import_passed")
        counted = await fetch(connection, "SELECT count(*) AS n FROM checkpoint WHERE topic = $1", PROFILE_CHANGES)
    pairs: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for row in passed:
        pairs.setdefault((row.workspace, row.import_id), set()).add((row.partition, row.from_partition))
    async with new.transaction() as connection:
        for partition in range(partitions):
            await checkpoint.acquire(connection, PROFILE_CHANGES, partition, identity)
        columns = ("workspace", "import_id", "partition", "from_partition")
        await insert_rows(connection, scoring.import_passed, columns, everywhere(pairs, counted[0].n, partitions))


async def _keep_versions(old: Database, new: Database) -> None:
    """Versions, moves and times of change never go back; whose identifier is known stays known."""
    columns = ("version", "moves", "known", "changed_at")
    async for page in _pages(old, profiles.leaf):
        kept = {row["leaf"]: row for row in page}
        async with new.transaction() as connection:
            statement = "SELECT leaf, version, moves, changed_at FROM leaf WHERE leaf = ANY($1)"
            rows = [
                (
                    row.leaf,
                    max(row.version, kept[row.leaf]["version"]),
                    max(row.moves, kept[row.leaf]["moves"]),
                    bool(kept[row.leaf]["known"]),
                    max(row.changed_at, kept[row.leaf]["changed_at"]),
                )
                for row in await fetch(connection, statement, sorted(kept))
            ]
            await update_rows(connection, profiles.leaf, "leaf", columns, rows)


async def _copy(old: Database, new: Database, table: Table, told: Told, change: Change = dict) -> None:
    names = [column.name for column in table.columns]
    done = 0
    async with new.transaction() as connection:
        await execute(connection, f"DELETE FROM {table.name}")  # folding may have noted what is now copied as it was
    async for page in _pages(old, table):
        rows = [tuple(change(row)[name] for name in names) for row in page]
        async with new.transaction() as connection:
            await insert_rows(connection, table, names, rows)
        done += len(page)
        told(table.name, done, done)


async def _pages(database: Database, table: Table) -> AsyncIterator[list[dict[str, Any]]]:
    """Every row of a table as a map, in pages by its primary key."""
    keys = [column.name for column in table.primary_key]
    columns = [column.name for column in table.columns]
    after: Sequence[Any] = ()
    while True:
        marks = ", ".join(f"${n}" for n in range(1, len(after) + 1))
        where = f"WHERE ({', '.join(keys)}) > ({marks})" if after else ""
        statement = (
            f"SELECT {', '.join(columns)} FROM {table.name} {where} ORDER BY {', '.join(keys)} LIMIT {PAGE_ROWS}"
        )
        async with database.snapshot() as connection:
            page = [dict(zip(columns, row, strict=True)) for row in await fetch(connection, statement, *after)]
        if not page:
            return
        yield page
        after = [page[-1][key] for key in keys]
