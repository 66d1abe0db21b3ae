"""Known bugs, each planted into a service process before it starts, to show that the harness would find it.

Where a bug needs a crash at a bad moment to show, it sleeps in that moment, so that whoever drives it can hit it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from services.ingest.intake import Intake
from services.profiles.domain.rows import LeafRow, TouchpointKey, TouchpointRow
from services.profiles.fold import TouchpointsProjection
from services.profiles.store import SqlTransaction
from services.scoring.domain.watermark import Heard
from services.scoring.store import SqlStore
from shared.checkpoint import Claim
from shared.database import fetch
from shared.lane import Portion
from shared.log.port import Outgoing
from shared.outbox import Pending
from shared.relay import Relay, append_chunk
from shared.topics import PROFILE_CHANGES

GAP_SECONDS = 2.0
"""How long a planted bug stays in its bad moment."""
OVERSTEPPED_MS = 60_000


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug: the service it lives in, what it does, and how it is put there."""

    room: str
    does: str
    put: Callable[[], None]

    def plant(self, room: str) -> None:
        """Put it there, if this is its service."""
        if room == self.room:
            self.put()


# --- ingest ---------------------------------------------------------------------------------------------------


def _acknowledge_before_the_write() -> None:
    append, waiting = Intake._append, set[asyncio.Task[None]]()

    async def append_later(intake: Intake, topic: str, records: list[Outgoing]) -> None:
        await asyncio.sleep(GAP_SECONDS)
        await append(intake, topic, records)

    async def acknowledge(intake: Intake, topic: str, records: list[Outgoing]) -> None:
        task = asyncio.create_task(append_later(intake, topic, records))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    Intake._append = acknowledge  # type: ignore[assignment,method-assign]


# --- profiles -------------------------------------------------------------------------------------------------


class _Moved:
    """A transaction whose checkpoint is somebody else's matter: it was committed before."""

    def __init__(self, transaction: SqlTransaction, claims: Mapping[int, Claim]) -> None:
        self._transaction, self._claims = transaction, claims

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    async def move(self, claim: Claim, _new: Claim) -> Claim:
        return self._claims[claim.partition]


class _MovedStore:
    """The store of a fold whose checkpoint was committed before."""

    def __init__(self, store: Any, claims: Mapping[int, Claim]) -> None:
        self._store, self._claims = store, claims

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Moved]:
        async with self._store.transaction() as transaction:
            yield _Moved(transaction, self._claims)


def _commit_the_checkpoint_first() -> None:
    fold = TouchpointsProjection.fold_together

    async def checkpoint_first(projection: TouchpointsProjection, portions: Sequence[Portion]) -> list[Claim]:
        store: Any = projection.store
        moved: dict[int, Claim] = {}
        async with store.transaction() as transaction:
            for claim, batch in portions:
                new = claim.past(batch.records, batch.next_position)
                moved[claim.partition] = await transaction.move(claim, new)
        await asyncio.sleep(GAP_SECONDS)
        effects: Any = _MovedStore(store, moved)
        rest = TouchpointsProjection(effects, projection.house, projection.open_sealed)
        return await fold(rest, portions)

    TouchpointsProjection.fold_together = checkpoint_first  # type: ignore[method-assign]


def _skip_dedup() -> None:
    remember = SqlTransaction.remember

    async def everything_is_new(transaction: SqlTransaction, rows: Sequence[TouchpointRow]) -> set[TouchpointKey]:
        await remember(transaction, rows)
        return {row.key for row in rows}

    SqlTransaction.remember = everything_is_new  # type: ignore[assignment,method-assign]


def _delete_before_the_ack() -> None:
    async def delete_first(relay: Relay, chunk: Sequence[Pending], claims: Mapping[int, Claim]) -> None:
        await relay._store.relayed([claims[row.partition] for row in chunk], [row.seq for row in chunk], True)
        await asyncio.sleep(GAP_SECONDS)
        for (topic, partition), end in (await append_chunk(relay._log, chunk)).items():
            if topic == PROFILE_CHANGES and partition in relay._lanes:
                relay._lanes[partition].relayed_to = end

    Relay._relay = delete_first  # type: ignore[assignment,method-assign]


def _keep_a_cache_after_acquiring() -> None:
    lock, save, cache = SqlTransaction.lock, SqlTransaction.save_leaves, dict[bytes, LeafRow]()

    async def believing(transaction: SqlTransaction, leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        return {leaf: cache.get(leaf, row) for leaf, row in (await lock(transaction, leaves)).items()}

    async def remembering(transaction: SqlTransaction, rows: Sequence[LeafRow]) -> None:
        await save(transaction, rows)
        cache.update((row.leaf, row) for row in rows)

    SqlTransaction.lock = believing  # type: ignore[assignment,method-assign]
    SqlTransaction.save_leaves = remembering  # type: ignore[assignment,method-assign]


# --- scoring --------------------------------------------------------------------------------------------------


def _overstep_the_watermark() -> None:
    watermark = Heard.watermark

    def hasty(heard: Heard, partition: int) -> int | None:
        until = watermark(heard, partition)
        return None if until is None else until + OVERSTEPPED_MS

    Heard.watermark = hasty  # type: ignore[assignment,method-assign]


def _forget_what_was_due() -> None:
    """Deleting the due times in a transaction of their own: whoever crashes before the alert was written loses it."""
    due = SqlStore.due

    async def taken(store: SqlStore, partition: int, before: int, limit: int) -> list[tuple[bytes, str]]:
        found = await due(store, partition, before, limit)
        if found:
            async with store.database.transaction() as connection:
                statement = "UPDATE decision SET due_at = NULL WHERE customer = ANY($1)"
                await fetch(connection, statement, [customer for customer, _ in found])
            await asyncio.sleep(GAP_SECONDS)
        return found

    SqlStore.due = taken  # type: ignore[assignment,method-assign]


PLANTS = {
    "ack_before_flush": Plant("ingest", "answers 200 before the log has it", _acknowledge_before_the_write),
    "checkpoint_before_commit": Plant(
        "profiles", "commits the checkpoint, then the effects", _commit_the_checkpoint_first
    ),
    "dedup_skipped": Plant("profiles", "counts whatever is sent twice", _skip_dedup),
    "relay_deletes_before_ack": Plant("profiles", "empties the outbox before the log has it", _delete_before_the_ack),
    "cache_kept_after_acquiring": Plant(
        "profiles", "believes rows from before another worker had them", _keep_a_cache_after_acquiring
    ),
    "due_deleted_before_the_alert": Plant(
        "scoring", "takes a due time before its alert is written", _forget_what_was_due
    ),
    "watermark_overstepped": Plant("scoring", "decides silence on evidence not read yet", _overstep_the_watermark),
}
