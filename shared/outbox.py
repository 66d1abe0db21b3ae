"""Facts that leave with the transaction that caused them: rows written under the customer's lock, relayed after.

The row's number is given while its customer is locked, so one customer's rows are numbered in the order of their
versions. Rows are deleted only after the log acknowledged them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

from shared.database import Connection, fetch, insert_rows, is_sqlite


class Parcel(NamedTuple):
    """A fact to send: `key` is the customer (or leaf) whose order counts."""

    topic: str
    partition: int
    key: bytes
    value: bytes


class Pending(NamedTuple):
    """A parcel waiting in the outbox under its number."""

    seq: int
    topic: str
    partition: int
    key: bytes
    value: bytes


class OutboxSnapshot(NamedTuple):
    """Rows, frontiers and owners of one instant. `complete`: all rows are here · `epochs`: partition → its owner's."""

    rows: tuple[Pending, ...]
    frontiers: Mapping[int, int]
    complete: bool
    epochs: Mapping[int, int]


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of one service."""
    return Table(
        "outbox",
        metadata,
        # SQLite numbers only an INTEGER key by itself; AUTOINCREMENT never reuses a number.
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("key", LargeBinary, nullable=False),
        Column("value", LargeBinary, nullable=False),
        Index("outbox_by_partition", "partition", "seq"),
        sqlite_autoincrement=True,
    )


async def send(connection: Connection, outbox: Table, parcels: Sequence[Parcel]) -> None:
    """Put parcels into the outbox, numbered in the order given. Their customers' rows are locked by the caller."""
    await insert_rows(connection, outbox, ("topic", "partition", "key", "value"), parcels)


# On SQLite one worker has every partition: the first rows there are. The plus keeps it from sorting all that wait.
_OLDEST_SQLITE = """SELECT seq, topic, partition, key, value FROM outbox
WHERE +partition = ANY($1) ORDER BY seq LIMIT $2"""
_OLDEST = """SELECT one.* FROM unnest($1::integer[]) AS mine(number), LATERAL (
SELECT seq, topic, partition, key, value FROM outbox WHERE partition = mine.number ORDER BY seq LIMIT $2) AS one
ORDER BY seq"""


async def pending(connection: Connection, partitions: Collection[int], limit: int) -> tuple[list[Pending], bool]:
    """About `limit` of the oldest rows bound for these partitions, by number, and whether these are all.

    It reads what it returns and no more: a long outbox costs no more than a short one.
    """
    lite = is_sqlite(connection)
    each = limit if lite else -(-limit // max(1, len(partitions)))
    found = await fetch(connection, _OLDEST_SQLITE if lite else _OLDEST, sorted(partitions), each)
    rows = list(map(Pending._make, found))
    if lite:
        return rows, len(rows) < limit
    return rows, max(Counter(row.partition for row in rows).values(), default=0) < each


async def sent(connection: Connection, seqs: Sequence[int]) -> None:
    """Delete acknowledged rows."""
    await fetch(connection, "DELETE FROM outbox WHERE seq = ANY($1)", list(seqs))


def chunks(rows: Iterable[Pending]) -> Iterator[list[Pending]]:
    """Cut rows into chunks with at most one row per key, keeping each key's order.

    A log may acknowledge a later record of a chunk although an earlier one failed; with one row per customer in it,
    resending what failed never puts an older version behind a newer one. A row without a key is a barrier: it leaves
    alone, after everything before it and before everything behind it.
    """
    run: list[Pending] = []
    for row in rows:
        if row.key:
            run.append(row)
            continue
        yield from _by_key(run)
        yield [row]
        run = []
    yield from _by_key(run)


def _by_key(waiting: list[Pending]) -> Iterator[list[Pending]]:
    while waiting:
        seen: set[bytes] = set()
        chunk: list[Pending] = []
        rest: list[Pending] = []
        for row in waiting:
            (rest if row.key in seen else chunk).append(row)
            seen.add(row.key)
        yield chunk
        waiting = rest
