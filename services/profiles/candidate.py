"""The version that is being made beside the live one: the same step on other tables, and nothing leaves it.

It writes no personal value and no outbox row. What live could not fold is no touchpoint for it either; what live
counts and it cannot fold stops it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.domain.rows import ParkedRow, PersonalRow
from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from services.profiles.store import SqlStore, SqlTransaction
from services.profiles.versions import beside
from shared import checkpoint
from shared.checkpoint import REBUILD_CHECKPOINT, Claim
from shared.codec import Unknown, decode
from shared.database import Database, execute, fetch
from shared.errors import Stopped
from shared.events import Sealed, TouchpointsRecorded
from shared.ids import dedup_scope
from shared.log.port import RECORD_BYTES_MAX, Batch
from shared.outbox import Parcel
from shared.sealing import PersonalFields
from shared.topics import TOUCHPOINTS

WHOLE_RECORD = -1


class CandidateTransaction(SqlTransaction):
    """One step of the version in the slot `next`."""

    async def move(self, claim: Claim, new: Claim) -> Claim:
        return await checkpoint.hold(self._connection, claim, new, REBUILD_CHECKPOINT)

    async def keep_personal(self, rows: Sequence[PersonalRow]) -> None:
        """Personal values are a store of record: live keeps them."""

    async def blank_leaf(self, leaf: bytes, recorded_at: int, identity: bytes = b"") -> None:
        """Bodies and edges of this version. Personal values, parked facts and receipts were seen to when live folded
        the erasure, and may speak of what came after it.
        """
        await execute(self._connection, f"UPDATE {self._touchpoint} SET body = $2 WHERE leaf = $1", leaf, b"")
        for side in ("a", "b"):
            statement = f"DELETE FROM {self._version.edge.fullname} WHERE {side} = $1 AND recorded_at <= $2"
            await execute(self._connection, statement, leaf, recorded_at)

    async def note_erasure(self, row: object) -> None:
        """Receipts are live's."""

    async def note_sealing(self, uses: object) -> None:
        """So is what was noted of sealing keys."""

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Everything was said when live folded it."""

    async def park(self, rows: Sequence[ParkedRow]) -> None:
        """Nothing is parked here. Raises Stopped for a touchpoint that live counts."""
        for row in rows:
            if row.topic == TOUCHPOINTS and row.place != WHOLE_RECORD and await self._counts_live(row):
                raise Stopped(
                    f"{row.topic}/{row.partition}: the touchpoint at {row.position}/{row.place} is counted live and "
                    f"cannot be folded now ({row.reason}); mend the fold, abandon this rebuild and start again"
                )

    async def _counts_live(self, row: ParkedRow) -> bool:
        fact = decode(row.bytes)
        if isinstance(fact, Unknown) or not isinstance(fact, TouchpointsRecorded):
            return False
        touchpoint = fact.touchpoints[0]
        key = (touchpoint.day, touchpoint.id, dedup_scope(fact.workspace, fact.source, touchpoint.leaves[0]))
        statement = "SELECT partition, position FROM touchpoint WHERE day = $1 AND id = $2 AND scope = $3"
        found = await fetch(self._connection, statement, *key)
        return bool(found) and tuple(found[0]) == (row.partition, row.position)

    async def _insert_missing(self, missing: Sequence[bytes], leaves: Mapping[bytes, str]) -> None:
        """Whether an identifier is known in the clear is what live's store of personal values says."""
        await super()._insert_missing(missing, leaves)
        if missing:
            known = await fetch(self._connection, "SELECT leaf FROM leaf WHERE leaf = ANY($1) AND known", list(missing))
            statement = f"UPDATE {self._leaf} SET known = TRUE WHERE leaf = ANY($1)"
            await fetch(self._connection, statement, [row.leaf for row in known])


class CandidateStore(SqlStore):
    """The version in the slot `next`. `connection`: every step runs inside its transaction, not in one of its own."""

    def __init__(self, database: Database, connection: AsyncConnection | None = None) -> None:
        super().__init__(database)
        self._on = connection
        self._version = beside("next", database.is_sqlite)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[CandidateTransaction]:
        if self._on is not None:
            yield CandidateTransaction(self._on, self.database.is_sqlite, self._version)
            return
        async with self.database.transaction() as connection:
            yield CandidateTransaction(connection, self.database.is_sqlite, self._version)


def projection_beside(
    database: Database, partitions: int, connection: AsyncConnection | None = None
) -> TouchpointsProjection:
    """The profiles step on the version in the slot `next`; sealed fields stay closed."""
    return TouchpointsProjection(
        CandidateStore(database, connection), House(partitions, RECORD_BYTES_MAX), _open_nothing
    )


def _open_nothing(_workspace: str, _sealed: Sealed) -> PersonalFields:
    return {}


async def claims(connection: AsyncConnection, raise_epoch: bool = False) -> dict[int, Claim]:
    """The claims of the version in the slot `next`, by partition. `raise_epoch`: whoever held them is refused."""
    fields = "topic, partition, epoch, revision, position, frontier, last_position, last_checksum"
    if raise_epoch:
        await fetch(connection, f"UPDATE {REBUILD_CHECKPOINT} SET epoch = epoch + 1")
    rows = await fetch(connection, f"SELECT {fields} FROM {REBUILD_CHECKPOINT} WHERE topic = $1", TOUCHPOINTS)
    return {row.partition: Claim(*row) for row in rows}


async def parked_places(
    connection: AsyncConnection, partition: int, batch: Batch
) -> tuple[frozenset[int], frozenset[tuple[int, int, int]]]:
    """What live could not fold of a batch: positions of records that are no facts, and (partition, position, place).

    A record whose personal data did not open was folded without it, and is not among them.
    """
    if not batch.records:
        return frozenset(), frozenset()
    statement = """SELECT position, place, workspace FROM parked
WHERE topic = $1 AND partition = $2 AND position >= $3 AND position <= $4"""
    rows = await fetch(
        connection, statement, TOUCHPOINTS, partition, batch.records[0].position, batch.records[-1].position
    )
    whole = frozenset(row.position for row in rows if row.place == WHOLE_RECORD and not row.workspace)
    places = frozenset((partition, row.position, row.place) for row in rows if row.place != WHOLE_RECORD)
    return whole, places


def up_to(batch: Batch, position: int, without: frozenset[int]) -> Batch:
    """The part of a batch before `position`, without the records at the positions `without`."""
    records = tuple(one for one in batch.records if one.position < position and one.position not in without)
    return Batch(records, min(batch.next_position, position))
