"""Parked facts taken up again: the cause is mended, so the same touchpoint goes to the log once more, under its id.

The mark on the row and the outbox's parcel are one transaction: a crash, a repeat and a rival find it replayed. What is
no touchpoint is folded again where it belongs: personal data that did not open, a decision that was none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import tables
from services.profiles.decisions import keep_decision
from services.profiles.domain.personal import Newest
from services.profiles.failed import keep_failed
from services.profiles.keeping import Open
from services.profiles.reading_failed import Parked
from services.profiles.store import SqlStore, SqlTransaction
from shared import outbox
from shared.access import Workspace
from shared.clock import Clock
from shared.codec import Unknown, decode
from shared.codec import encode as encode_fact
from shared.database import execute, fetch
from shared.errors import OutOfRange, Poison, RaftarError
from shared.events import Fact, Sealed, TouchpointFailed, TouchpointsRecorded
from shared.ids import dedup_scope, partition_of
from shared.log.port import Log
from shared.outbox import Parcel
from shared.sealing import PersonalFields, Sealer
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES, TOUCHPOINTS, TOUCHPOINTS_FAILED

REPLAYED, DISCARDED = "replayed", "discarded"
WHOLE_RECORD = -1
HOUR_MS = 3_600_000

Status = Literal["replayed", "closed", "still_failing", "missing"]


class Place(NamedTuple):
    """Where a parked fact lies."""

    topic: str
    partition: int
    position: int
    place: int


class Replayed(NamedTuple):
    """What became of one. `reason`: why it still fails, or how it was closed."""

    status: Status
    reason: str = ""


class Feed(Protocol):
    """Workspaces as `definitions` tell them."""

    @property
    def workspaces(self) -> Mapping[str, Workspace]:
        """By name."""


class _StillFailing(Exception):
    """Not an error: the cause is not mended; `args` say why."""


@dataclass(slots=True)
class Replaying:
    """Replays and discards parked facts. `wake`: something lies in the outbox."""

    store: SqlStore
    log: Log
    clock: Clock
    feed: Feed
    open_sealed: Open
    partitions: int
    wake: Callable[[], None]

    async def replay(self, workspaces: Sequence[str], place: Place) -> Replayed:
        """Replay one parked fact of these workspaces; a closed one stays as it is. Raises Retryable."""
        record = await self._recorded(place) if place.topic == TOUCHPOINTS and place.place >= 0 else None
        try:
            async with self.store.database.transaction() as connection:
                row = await _locked(connection, workspaces, place)
                if row is None:
                    return Replayed("missing")
                if row.closed:
                    return Replayed("closed", row.closed)
                await self._take_up(connection, place, row, record)
                await _close(connection, place, REPLAYED, self.clock.now_ms(), row.bytes)
        except _StillFailing as why:
            return Replayed("still_failing", str(why))
        self.wake()
        return Replayed("replayed")

    async def discard(self, workspaces: Sequence[str], place: Place) -> Replayed:
        """Close a parked fact for good; what it held is dropped."""
        async with self.store.database.transaction() as connection:
            row = await _locked(connection, workspaces, place)
            if row is None:
                return Replayed("missing")
            if row.closed:
                return Replayed("closed", row.closed)
            await _close(connection, place, DISCARDED, self.clock.now_ms(), b"")
        return Replayed("closed", DISCARDED)

    async def opened(self, row: Parked) -> dict[str, Any]:
        """The personal fields of a parked touchpoint, from the log; {} where there are none that can be read."""
        if row.topic != TOUCHPOINTS or row.place < 0 or row.closed:
            return {}
        fact = await self._recorded(Place(row.topic, row.partition, row.position, row.place))
        try:
            return self._fields(fact).get(row.place, {}) if fact is not None else {}
        except RaftarError:
            return {}

    # --- what is taken up -------------------------------------------------------------------------------------

    async def _take_up(
        self, connection: AsyncConnection, place: Place, row: Parked, record: TouchpointsRecorded | None
    ) -> None:
        if place.topic == PROFILE_CHANGES:
            raise _StillFailing("the customer is told again with their next change; there is nothing to replay")
        if place.topic in (SEGMENT_CHANGES, CHURN_ALERTS):
            await self._decide(connection, place, row)
        elif place.topic == TOUCHPOINTS_FAILED:
            fact = _decoded(row.bytes)
            if not isinstance(fact, TouchpointFailed):
                raise _StillFailing("it is no failed item")
            await keep_failed(connection, [fact])
        elif place.place >= 0:
            await self._again(connection, place, row, record)
        elif row.sealing_key:
            await self._keep_personal(connection, row)
        else:
            _decoded(row.bytes)
            await _send(connection, Parcel(TOUCHPOINTS, place.partition, b"", row.bytes))

    async def _again(
        self, connection: AsyncConnection, place: Place, row: Parked, record: TouchpointsRecorded | None
    ) -> None:
        """The same touchpoint in a record of its own, its personal fields sealed to the key now in use."""
        kept = _decoded(row.bytes)
        if not isinstance(kept, TouchpointsRecorded):
            raise _StillFailing("what is kept of it is no touchpoint")
        [touchpoint] = kept.touchpoints
        fields = self._fields(record).get(place.place, {}) if _holds(record, place.place, touchpoint.id) else {}
        sealed = self._sealed(kept.workspace, {0: fields}) if fields else None
        fact = msgspec.structs.replace(kept, personal=sealed)
        leaf = touchpoint.leaves[0]
        await _send(connection, Parcel(TOUCHPOINTS, partition_of(leaf, self.partitions), leaf, encode_fact(fact)))

    def _fields(self, record: TouchpointsRecorded | None) -> PersonalFields:
        if record is None or record.personal is None:
            return {}
        try:
            return self.open_sealed(record.workspace, record.personal)
        except Poison as error:
            raise _StillFailing(f"its personal data does not open: {error}") from error

    def _sealed(self, workspace: str, fields: PersonalFields) -> Sealed:
        told = self.feed.workspaces[workspace]
        return Sealer(told.sealing_key, told.sealing_public).seal(fields, self.clock.now_ms() // HOUR_MS)

    async def _keep_personal(self, connection: AsyncConnection, row: Parked) -> None:
        """The touchpoints of the record count; their personal values could not be opened, and now can."""
        fact = _decoded(row.bytes)
        if not isinstance(fact, TouchpointsRecorded):
            raise _StillFailing("it is no record of touchpoints")
        opened = self._fields(fact)
        transaction = SqlTransaction(connection, self.store.database.is_sqlite)
        leaves = {leaf: fact.workspace for one in fact.touchpoints for leaf in one.leaves}
        rows = await transaction.lock(leaves)
        newest = Newest(rows)
        for place, touchpoint in enumerate(fact.touchpoints):
            key = (touchpoint.day, touchpoint.id, dedup_scope(fact.workspace, fact.source, touchpoint.leaves[0]))
            if opened.get(place) and await _is_kept(connection, key):
                newest.add(fact.workspace, touchpoint, opened[place])
        since = row.parked_at
        await transaction.keep_personal([one for one in newest.rows() if rows[one.leaf].erased_at < since])

    async def _decide(self, connection: AsyncConnection, place: Place, row: Parked) -> None:
        try:
            await keep_decision(connection, place.topic, place.partition, place.position, row.parked_at, row.bytes)
        except Poison as error:
            raise _StillFailing(str(error)) from error

    async def _recorded(self, place: Place) -> TouchpointsRecorded | None:
        """The record as the log has it; None where the log does not keep it any more."""
        topic, partition, position, _ = place
        try:
            batch = await self.log.read(topic, partition, position, records_max=1, wait_seconds=5.0)
            await self.log.release(topic, partition, batch.next_position)
            found = [decode(record.value) for record in batch.records[:1] if record.position == position]
        except (OutOfRange, Poison):
            return None
        return found[0] if found and isinstance(found[0], TouchpointsRecorded) else None


def _holds(record: TouchpointsRecorded | None, place: int, identity: bytes) -> bool:
    """Whether the log still has this very touchpoint there: in a copied log another may be."""
    return record is not None and place < len(record.touchpoints) and record.touchpoints[place].id == identity


def _decoded(value: bytes) -> Fact:
    try:
        fact = decode(value)
    except Poison as error:
        raise _StillFailing(str(error)) from error
    if isinstance(fact, Unknown):
        raise _StillFailing(f"this version knows no fact {fact.name!r}")
    return fact


async def _locked(connection: AsyncConnection, workspaces: Sequence[str], place: Place) -> Parked | None:
    statement = f"""SELECT {", ".join(Parked._fields)}, workspace FROM parked
WHERE topic = $1 AND partition = $2 AND position = $3 AND place = $4 FOR UPDATE"""
    rows = [row for row in await fetch(connection, statement, *place) if row.workspace in workspaces]
    return Parked(*rows[0][:-1]) if rows else None


async def _close(connection: AsyncConnection, place: Place, how: str, at: int, kept: bytes) -> None:
    statement = """UPDATE parked SET closed = $5, closed_at = $6, bytes = $7
WHERE topic = $1 AND partition = $2 AND position = $3 AND place = $4"""
    await execute(connection, statement, *place, how, at, kept)


async def _is_kept(connection: AsyncConnection, key: tuple[int, bytes, bytes]) -> bool:
    statement = "SELECT 1 FROM touchpoint WHERE day = $1 AND id = $2 AND scope = $3 AND body <> $4"
    return bool(await fetch(connection, statement, *key, b""))


async def _send(connection: AsyncConnection, parcel: Parcel) -> None:
    await outbox.send(connection, tables.outbox, [parcel])
