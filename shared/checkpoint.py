"""Who may write a partition, and how far it is folded: an epoch per owner, a revision per transaction.

Acquiring raises `epoch`; every transaction of a worker compares and raises `revision` under its epoch. A worker that
was frozen and replaced finds another epoch and is refused (`Fenced`): it can read, never write.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from shared.database import Connection, fetch
from shared.errors import Fenced, LogMismatch
from shared.log.port import Record

NEVER = -1
"""A frontier that was never set, and the position of a last record that never was."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker holds of one partition. `position` is where to read on; `frontier` is T of design §4 (ms)."""

    topic: str
    partition: int
    epoch: int
    revision: int
    position: int
    frontier: int = NEVER
    last_position: int = NEVER
    last_checksum: int = 0

    def past(self, records: Sequence[Record], next_position: int) -> "Claim":
        """The claim after folding `records` (may be empty: a gap in the log)."""
        if not records:
            return replace(self, position=next_position)
        last = records[-1]
        return replace(self, position=next_position, last_position=last.position, last_checksum=crc32(last.value))

    def recorded_at(self, record: Record) -> int:
        """When `record` counts as recorded: its stamp, or just behind the frontier where it surfaced too late."""
        return max(record.recorded_at, self.frontier + 1)


CHECKPOINT, REBUILD_CHECKPOINT = "checkpoint", "rebuild_checkpoint"
"""Tables of checkpoints: of the live projections, and of a version that is being made beside them."""


def checkpoint_table(metadata: MetaData, name: str = CHECKPOINT) -> Table:
    """The checkpoint table of one service."""
    return Table(
        name,
        metadata,
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("epoch", BigInteger, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("frontier", BigInteger, nullable=False),
        Column("last_position", BigInteger, nullable=False),
        Column("last_checksum", BigInteger, nullable=False),
        Column("log_identity", Text, nullable=False),
    )


_FIELDS = "topic, partition, epoch, revision, position, frontier, last_position, last_checksum"

_ACQUIRE = f"""
INSERT INTO checkpoint ({_FIELDS}, log_identity) VALUES ($1, $2, 1, 1, 0, {NEVER}, {NEVER}, 0, $3)
ON CONFLICT (topic, partition) DO UPDATE SET epoch = checkpoint.epoch + 1, revision = checkpoint.revision + 1
RETURNING {_FIELDS}, log_identity
"""

_HOLD = """
UPDATE {table} SET revision = revision + 1, position = $5, frontier = $6, last_position = $7, last_checksum = $8
WHERE topic = $1 AND partition = $2 AND epoch = $3 AND revision = $4
RETURNING revision
"""


async def acquire(connection: Connection, topic: str, partition: int, log_identity: str) -> Claim:
    """Become the owner: whoever held the partition before is refused from here on.

    Raises LogMismatch when the checkpoint was made on another log.
    """
    row = (await fetch(connection, _ACQUIRE, topic, partition, log_identity))[0]
    if row.log_identity != log_identity:
        raise LogMismatch(
            f"{topic}/{partition}: the checkpoint belongs to log {row.log_identity}, this is log {log_identity}; "
            "point the service at the right log, or rebuild the projection"
        )
    return Claim(*row[:-1])


async def hold(connection: Connection, claim: Claim, new: Claim, table: str = CHECKPOINT) -> Claim:
    """Move the checkpoint from `claim` to `new` in the transaction of the effect. Raises Fenced."""
    values: tuple[Any, ...] = (new.position, new.frontier, new.last_position, new.last_checksum)
    where = (claim.topic, claim.partition, claim.epoch, claim.revision)
    if not await fetch(connection, _HOLD.format(table=table), *where, *values):
        raise Fenced(_refusal(claim))
    return replace(new, revision=claim.revision + 1)


async def check(connection: Connection, claims: Sequence[Claim]) -> None:
    """Raises Fenced when a claim's partition has another owner by now. Nothing moves, nothing is locked."""
    for topic in {claim.topic for claim in claims}:
        _, epochs = await standing(connection, topic)
        for claim in claims:
            if claim.topic == topic and epochs.get(claim.partition) != claim.epoch:
                raise Fenced(_refusal(claim))


async def standing(connection: Connection, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """Every partition's T and its owner's epoch, as far as partitions were ever acquired: two maps by partition."""
    rows = await fetch(connection, "SELECT partition, frontier, epoch FROM checkpoint WHERE topic = $1", topic)
    return {row.partition: row.frontier for row in rows}, {row.partition: row.epoch for row in rows}


def _refusal(claim: Claim) -> str:
    return f"{claim.topic}/{claim.partition}: another worker has it (epoch {claim.epoch} is over)"
