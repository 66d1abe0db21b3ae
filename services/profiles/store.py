"""The profiles database on SQLite and PostgreSQL: every statement of the step, in sets (meanings: `ports.py`)."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, cast

from msgspec.structs import astuple

from services.profiles import tables
from services.profiles.domain.identity import Assertion
from services.profiles.domain.rows import (
    EdgeRow,
    ErasureRow,
    LeafRow,
    ListingRow,
    ParkedRow,
    PersonalRow,
    SealingUse,
    TouchpointKey,
    TouchpointRow,
)
from services.profiles.domain.terms import Wanted
from services.profiles.versions import LIVE, Version, blank_kept
from shared import checkpoint, outbox
from shared.checkpoint import Claim
from shared.database import Connection, execute, fetch, insert_missing, insert_rows, is_sqlite, savepoint, update_rows
from shared.errors import Conflict
from shared.ids import partition_of
from shared.outbox import OutboxSnapshot, Parcel
from shared.projection_store import SqlProjectionStore
from shared.topics import TOUCHPOINTS

CODE_VERSION = version("raftar")

_LEAF = (
    "leaf", "workspace", "root", "standing", "full_rank", "state", "merged", "version", "moves", "erased",
    "erased_at", "known", "changed_at",
)  # fmt: skip
_LEAF_WRITTEN = _LEAF[2:]
_TOUCHPOINT = (
    "day", "id", "scope", "workspace", "leaf", "partition", "position", "place", "kind", "channel", "occurred_at",
    "recorded_at", "body",
)  # fmt: skip
_EDGE = ("workspace", "a", "b", "tie", "alias", "operator", "occurred_at", "id", "recorded_at")
_LISTING = ("customer", "workspace", "first_seen_at", "last_seen_at", "purchases", "spend_minor", "currency")
_PERSONAL = ("leaf", "field", "workspace", "value", "at", "id")
_PARKED = (
    "topic", "partition", "position", "place", "workspace", "source", "reason", "bytes", "parked_at", "leaf",
    "sealing_key", "code_version", "closed", "closed_at",
)  # fmt: skip

ERASED = "erased"
_ERASURE = ("id", "workspace", "customer", "requested_at", "recorded_at", "scrubbed_at")
_ERASURE_LEAF = (
    "id", "erasure", "leaf", "erased_at", "personal_values", "bodies", "stages_at", "stages", "alerts_at", "alerts",
)  # fmt: skip
_ERASURE_FOLDED = """ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, recorded_at = excluded.recorded_at
WHERE erasure.recorded_at < 0"""
_LEAF_DONE = """UPDATE erasure_leaf SET erased_at = $2, personal_values = $3, bodies = $4
WHERE id = $1 AND erased_at < 0"""
_BLANK_PARKED = "UPDATE parked SET bytes = $1, closed = $2, closed_at = $3 WHERE leaf = $4 AND closed = ''"
_LATER_USE = """ON CONFLICT (workspace, key, partition) DO UPDATE SET last_at = excluded.last_at
WHERE excluded.last_at > sealing_use.last_at"""

_LATER_HOLDS = """ON CONFLICT (leaf, field) DO UPDATE SET value = excluded.value, at = excluded.at, id = excluded.id
WHERE (excluded.at, excluded.id) > (personal.at, personal.id)"""

_STAGE_KNOWN = "COALESCE((SELECT s.stage FROM standing s WHERE s.customer = new.customer), '')"
_LISTED = "ON CONFLICT (customer) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in _LISTING[2:])


def _select_edge(version: Version) -> str:
    leaf, edge = version.leaf.fullname, version.edge.fullname
    return f"""SELECT e.a, e.b, e.tie, e.alias, e.operator, e.occurred_at, e.id, e.workspace, e.recorded_at
FROM {edge} e
JOIN {leaf} one ON one.leaf = e.a AND e.recorded_at > one.erased_at
JOIN {leaf} other ON other.leaf = e.b AND e.recorded_at > other.erased_at"""


SELECT_EDGE = _select_edge(LIVE)


def select_members(columns: str, one: str = "= $1", leaf: str = LIVE.leaf.fullname) -> str:
    """All leaves of the customer whose root is `one` (or of several); a root itself is found without an index of its
    own.
    """
    return f"""SELECT {columns} FROM {leaf} WHERE leaf {one} AND root = leaf
UNION ALL SELECT {columns} FROM {leaf} WHERE root {one} AND root <> leaf"""


def _leaf_row(row: Any) -> LeafRow:
    values = list(row)
    values[9], values[11] = bool(values[9]), bool(values[11])  # SQLite keeps truth as 0 and 1
    return LeafRow(*values)


def _edge_row(row: Any) -> EdgeRow:
    said = Assertion(row[0], row[1], bool(row[2]), bool(row[3]), bool(row[4]), row[5], row[6])
    return EdgeRow(row[7], said, row[8])


class SqlTransaction:
    """One step on one connection. `version`: the tables of the projection it is folded into."""

    def __init__(self, connection: Connection, is_sqlite: bool, version: Version = LIVE) -> None:
        self._connection, self._is_sqlite, self._version = connection, is_sqlite, version
        self._leaf, self._touchpoint = version.leaf.fullname, version.touchpoint.fullname
        self._select_leaf = f"SELECT {', '.join(_LEAF)} FROM {self._leaf}"
        self._unmade: dict[bytes, LeafRow] = {}  # SQLite: locked leaves without a row, until they are saved

    async def move(self, claim: Claim, new: Claim) -> Claim:
        return await checkpoint.hold(self._connection, claim, new)

    async def remember(self, rows: Sequence[TouchpointRow]) -> set[TouchpointKey]:
        key = ("day", "id", "scope")
        fresh = await insert_missing(self._connection, self._version.touchpoint, _TOUCHPOINT, rows, key)
        return cast(set[TouchpointKey], fresh)

    async def forget(self, keys: Collection[TouchpointKey]) -> None:
        statement = f"DELETE FROM {self._touchpoint} WHERE day = $1 AND id = $2 AND scope = $3"
        for key in sorted(keys):
            await execute(self._connection, statement, *key)

    async def blank(self, keys: Collection[TouchpointKey]) -> None:
        statement = f"UPDATE {self._touchpoint} SET body = $4 WHERE day = $1 AND id = $2 AND scope = $3"
        for key in sorted(keys):
            await execute(self._connection, statement, *key, b"")

    async def blank_leaf(self, leaf: bytes, recorded_at: int, identity: bytes) -> None:
        statement = f"UPDATE {self._touchpoint} SET body = $2 WHERE leaf = $1 AND body <> $2"
        bodies = await execute(self._connection, statement, leaf, b"")
        values = await self.forget_personal(leaf)
        await blank_kept(self._connection, leaf)
        for side in ("a", "b"):
            statement = f"DELETE FROM {self._version.edge.fullname} WHERE {side} = $1 AND recorded_at <= $2"
            await execute(self._connection, statement, leaf, recorded_at)
        await execute(self._connection, _BLANK_PARKED, b"", ERASED, recorded_at, leaf)
        await execute(self._connection, _LEAF_DONE, identity, recorded_at, values, bodies)

    async def forget_personal(self, leaf: bytes) -> int:
        """Drop what is kept in the clear of a leaf; returns how many values."""
        return await execute(self._connection, "DELETE FROM personal WHERE leaf = $1", leaf)

    async def note_erasure(self, row: ErasureRow) -> None:
        known = (row.id, row.workspace, row.customer, row.requested_at, row.recorded_at, -1)
        await insert_rows(self._connection, tables.erasure, _ERASURE, [known], _ERASURE_FOLDED)
        leaves = [(identity, row.id, leaf, -1, 0, 0, -1, 0, -1, 0) for leaf, identity in row.leaves]
        await insert_rows(self._connection, tables.erasure_leaf, _ERASURE_LEAF, leaves, "ON CONFLICT DO NOTHING")

    async def note_sealing(self, uses: Sequence[SealingUse]) -> None:
        await insert_rows(self._connection, tables.sealing_use, SealingUse._fields, uses, _LATER_USE)

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        async with savepoint(self._connection, Wanted, Conflict):
            yield

    async def lock(self, leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        wanted = sorted(leaves)
        if self._is_sqlite:
            return await self._lock_sqlite(wanted, leaves)
        statement = f"SELECT leaf FROM {self._leaf} WHERE leaf = ANY($1)"
        present = {row.leaf for row in await fetch(self._connection, statement, wanted)}
        await self._insert_missing([leaf for leaf in wanted if leaf not in present], leaves)
        statement = (
            f"{self._select_leaf} WHERE leaf IN (SELECT root FROM {self._leaf} WHERE leaf = ANY($1)) "
            "ORDER BY leaf FOR UPDATE"
        )
        roots = [_leaf_row(row) for row in await fetch(self._connection, statement, wanted)]
        rows = {row.leaf: row for row in roots}
        others = [leaf for leaf in wanted if leaf not in rows]
        if others:
            found = await fetch(self._connection, f"{self._select_leaf} WHERE leaf = ANY($1)", others)
            rows.update((row.leaf, row) for row in map(_leaf_row, found))
        locked = {row.leaf for row in roots}
        if any(row.root not in locked for row in rows.values()):
            raise Conflict("a leaf changed its customer while we waited for the lock")
        return rows

    async def _lock_sqlite(self, wanted: list[bytes], leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        """BEGIN IMMEDIATE holds every lock there is: who is missing is made when it is saved."""
        found = map(_leaf_row, await fetch(self._connection, f"{self._select_leaf} WHERE leaf = ANY($1)", wanted))
        rows = {row.leaf: row for row in found}
        unmade = {leaf: LeafRow(leaf, leaves[leaf], leaf) for leaf in wanted if leaf not in rows}
        self._unmade |= unmade
        rows |= unmade
        roots = sorted({row.root for row in rows.values()} - rows.keys())
        if roots:
            found = map(_leaf_row, await fetch(self._connection, f"{self._select_leaf} WHERE leaf = ANY($1)", roots))
            rows.update((row.leaf, row) for row in found)
        return rows

    async def _insert_missing(self, missing: Sequence[bytes], leaves: Mapping[bytes, str]) -> None:
        rows = [_leaf_values(LeafRow(leaf, leaves[leaf], leaf)) for leaf in missing]
        await insert_rows(self._connection, self._version.leaf, _LEAF, rows, "ON CONFLICT DO NOTHING")

    async def members(self, roots: Collection[bytes]) -> list[LeafRow]:
        statement = select_members(", ".join(_LEAF), "= ANY($1)", self._leaf)
        rows = await fetch(self._connection, statement, sorted(roots))
        return [*map(_leaf_row, rows), *(row for leaf, row in self._unmade.items() if leaf in roots)]

    async def edges(self, leaves: Collection[bytes]) -> list[EdgeRow]:
        found: dict[tuple[bytes, bytes, bytes], EdgeRow] = {}
        for side in ("a", "b"):
            statement = f"{_select_edge(self._version)} WHERE e.{side} = ANY($1)"
            for row in map(_edge_row, await fetch(self._connection, statement, sorted(leaves))):
                found[row.said.a, row.said.b, row.said.id] = row
        return list(found.values())

    async def save_leaves(self, rows: Sequence[LeafRow]) -> None:
        made = self._unmade | {row.leaf: row for row in rows if row.leaf in self._unmade}
        await insert_rows(self._connection, self._version.leaf, _LEAF, list(map(_leaf_values, made.values())))
        known = [_leaf_written(row) for row in rows if row.leaf not in made]
        await update_rows(self._connection, self._version.leaf, "leaf", _LEAF_WRITTEN, known)
        self._unmade = {}

    async def add_edges(self, rows: Sequence[EdgeRow]) -> None:
        values = [
            (
                row.workspace,
                said.a,
                said.b,
                said.tie,
                said.alias,
                said.operator,
                said.occurred_at,
                said.id,
                row.recorded_at,
            )
            for row in rows
            for said in [row.said]
        ]
        await insert_rows(self._connection, self._version.edge, _EDGE, values, "ON CONFLICT DO NOTHING")

    async def list_customers(self, rows: Sequence[ListingRow], gone: Collection[bytes], partitions: int) -> None:
        if not self._is_sqlite:
            await _see_stages(self._connection, sorted({partition_of(row.customer, partitions) for row in rows}))
        ordered = sorted(rows)  # one order for everybody: two steps never wait for each other in a circle
        await insert_rows(self._connection, self._version.customer, _LISTING, ordered, _LISTED, {"stage": _STAGE_KNOWN})
        if gone:
            statement = f"DELETE FROM {self._version.customer.fullname} WHERE customer = ANY($1)"
            await fetch(self._connection, statement, sorted(gone))

    async def keep_personal(self, rows: Sequence[PersonalRow]) -> None:
        await insert_rows(self._connection, tables.personal, _PERSONAL, sorted(rows), _LATER_HOLDS)

    async def park(self, rows: Sequence[ParkedRow]) -> None:
        values = [(*row, CODE_VERSION, "", 0) for row in rows]
        await insert_rows(self._connection, tables.parked, _PARKED, values, "ON CONFLICT DO NOTHING")

    async def send(self, parcels: Sequence[Parcel]) -> None:
        await outbox.send(self._connection, tables.outbox, parcels)


async def _see_stages(connection: Connection, partitions: Sequence[int]) -> None:
    """List customers with the stage that stands: wait until nobody is at the stages of their partitions, and keep off
    who comes next. Else the one inserts a customer, the other its stage, and neither sees what the other does."""
    statement = "SELECT pg_advisory_xact_lock_shared(hashtext('raftar stages'), one) FROM unnest($1::integer[]) AS one"
    await fetch(connection, statement, list(partitions))


async def see_customers(connection: Connection, partition: int) -> None:
    """Before stages of a partition are written: wait for who lists its customers, and keep off who comes next."""
    if not is_sqlite(connection):
        await fetch(connection, "SELECT pg_advisory_xact_lock(hashtext('raftar stages'), $1)", partition)


def _leaf_written(row: LeafRow) -> tuple[Any, ...]:
    """The leaf, then what can change of its row."""
    return (
        row.leaf, row.root, row.standing, row.full, row.state, row.merged, row.version, row.moves, row.erased,
        row.erased_at, row.known, row.changed_at,
    )  # fmt: skip


def _leaf_values(row: LeafRow) -> tuple[Any, ...]:
    """In the order of `_LEAF`, which is that of its fields."""
    return astuple(row)


class SqlStore(SqlProjectionStore):
    """The profiles database. `topic` is the one whose frontiers it keeps."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlTransaction]:
        async with self.database.brief_transaction() as connection:
            yield SqlTransaction(connection, self.database.is_sqlite)

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        async with self.database.brief_snapshot() as connection:
            rows, complete = await outbox.pending(connection, partitions, limit)
            frontiers, epochs = await checkpoint.standing(connection, TOUCHPOINTS)
        return OutboxSnapshot(tuple(rows), frontiers, complete, epochs)
