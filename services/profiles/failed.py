"""Folds `touchpoints-failed`: what the door refused in a good batch, whole and sealed, as long as the topic does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import tables
from services.profiles.domain.rows import ParkedRow
from services.profiles.store import SqlStore, SqlTransaction
from shared import checkpoint
from shared.checkpoint import Claim
from shared.codec import decode
from shared.database import execute, insert_rows
from shared.errors import Poison
from shared.events import Sealed, TouchpointFailed, TouchpointFailureClosed
from shared.ids import partition_of
from shared.lane import Portion
from shared.topics import DAY_MS, FAILED_PARTITIONS, TOUCHPOINTS_FAILED

KEPT_MS = 30 * DAY_MS
"""As long as the topic keeps them."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Sealed)


class FailedRow(NamedTuple):
    """One refused item; `item` is still sealed (see `sealed_of`)."""

    id: bytes
    workspace: str
    source: str
    received_at: int
    code: str
    path: str
    reason: str
    item: bytes
    sealing_key: str
    closed: str = ""
    closed_at: int = 0


def failed_partition(workspace: str, source: str) -> int:
    """The partition on which everything about a source's refused items lies, in order, as the door chooses it."""
    return partition_of(f"{workspace}\0{source}".encode(), FAILED_PARTITIONS)


def sealed_of(item: bytes) -> Sealed:
    """The sealed field a row keeps."""
    return _decoder.decode(item)


@dataclass(slots=True)
class FailedTally:
    """What folding failed items counts."""

    items: int = 0
    parked: int = 0


@dataclass(slots=True)
class FailedProjection:
    """Folds failed items into their table, once each."""

    store: SqlStore
    tally: FailedTally = field(default_factory=FailedTally)
    topic: str = TOUCHPOINTS_FAILED

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        """Fold batches of several partitions in one transaction. Raises Fenced, NewerVersion."""
        facts: list[TouchpointFailed | TouchpointFailureClosed] = []
        parked: list[ParkedRow] = []
        for claim, batch in portions:
            for record in batch.records:
                try:
                    fact = decode(record.value)
                except Poison as error:
                    at = (claim.topic, claim.partition, record.position, -1)
                    parked.append(ParkedRow(*at, "", "", str(error), record.value, record.recorded_at))
                    continue
                if isinstance(fact, TouchpointFailed | TouchpointFailureClosed):
                    facts.append(fact)
        async with self.store.database.transaction() as connection:
            moved = [
                await checkpoint.hold(connection, claim, claim.past(batch.records, batch.next_position))
                for claim, batch in portions
            ]
            kept = await keep_failed(connection, [fact for fact in facts if isinstance(fact, TouchpointFailed)])
            await _close(connection, [fact for fact in facts if isinstance(fact, TouchpointFailureClosed)])
            await SqlTransaction(connection, self.store.database.is_sqlite).park(parked)
        self.tally.items += kept
        self.tally.parked += len(parked)
        return moved

    async def turn(self, claim: Claim) -> Claim:
        """Nothing is due here."""
        return claim


def _row_of(fact: TouchpointFailed) -> FailedRow:
    path, reason = _storable(fact.path), _storable(fact.reason)
    item = _encode(fact.item)
    return FailedRow(
        fact.id, fact.workspace, fact.source, fact.received_at, fact.code, path, reason, item, fact.item.key
    )


def _storable(text: str) -> str:
    """A path quotes names as clients sent them, and PostgreSQL's text holds no NUL."""
    return text.replace("\0", "\ufffd")


async def keep_failed(connection: AsyncConnection, facts: Sequence[TouchpointFailed]) -> int:
    """Keep failed items, each once; those older than the topic keeps them go. Returns how many there were."""
    by_id = {fact.id: _row_of(fact) for fact in facts}
    rows = [by_id[key] for key in sorted(by_id)]
    await insert_rows(connection, tables.failed, FailedRow._fields, rows, "ON CONFLICT DO NOTHING")
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.workspace] = max(row.received_at, newest.get(row.workspace, 0))
    for workspace, at in sorted(newest.items()):
        statement = "DELETE FROM failed WHERE workspace = $1 AND received_at < $2"
        await execute(connection, statement, workspace, at - KEPT_MS)
    return len(rows)


async def _close(connection: AsyncConnection, facts: Sequence[TouchpointFailureClosed]) -> None:
    """A closed item is not opened any more, so nothing of it stays but its reason."""
    statement = """UPDATE failed SET closed = $3, closed_at = $4, item = $5, sealing_key = ''
WHERE id = $1 AND workspace = $2 AND closed = ''"""
    for fact in facts:
        await execute(connection, statement, fact.id, fact.workspace, fact.how, fact.closed_at, b"")
