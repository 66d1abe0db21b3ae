"""The scoring database on SQLite and PostgreSQL: every statement of the step, in sets (meanings: `ports.py`)."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from services.scoring import tables
from services.scoring.domain.deciding import Decision
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.step import Wanted
from services.scoring.ports import FIRST_ARMED, Armed
from shared import checkpoint, outbox
from shared.checkpoint import Claim
from shared.database import (
    Connection,
    Database,
    fetch,
    insert_missing,
    insert_rows,
    is_sqlite,
    savepoint,
    update_rows,
)
from shared.ids import partition_of
from shared.outbox import OutboxSnapshot, Parcel
from shared.projection_store import SqlProjectionStore

DECISION_COLUMNS = (
    "customer", "workspace", "partition", "version", "state", "decision", "due_at", "absorbed_into", "parked", "held",
    "armed_version",
)  # fmt: skip
ALERT_COLUMNS = (
    "id", "workspace", "customer", "leaf", "moves", "policy", "state", "revision", "raised_at", "risk_ppm", "body",
)  # fmt: skip
_UPDATED = ("version", "state", "decision", "due_at", "absorbed_into", "parked", "held", "armed_version")
_UPDATED_BY_TIME = tuple(column for column in _UPDATED if column != "state")
_STATE = 2  # in the values of a row
_PASSED = ("partition", "import_id", "from_partition", "workspace")

SELECT_DECISION = f"SELECT {', '.join(DECISION_COLUMNS[:9])} FROM decision"
"""What `decision_row` reads."""
SELECT_ALERT = f"SELECT {', '.join(ALERT_COLUMNS)} FROM alert"
"""In the order of AlertRow."""
_REPLACED = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in ALERT_COLUMNS[2:])

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(Decision).decode


def decision_row(row: Any) -> DecisionRow:
    """A row of `SELECT` over the first nine columns as a value."""
    return DecisionRow(row[0], row[1], row[2], row[3], row[4], _decode(row[5]), row[6], row[7], row[8])


def decision_values(row: DecisionRow) -> tuple[Any, ...]:
    """The columns of a row that a step writes, its customer first."""
    armed = row.decision.version
    return (
        row.customer, row.version, row.state, _encode(row.decision), row.due_at, row.absorbed_into, row.parked,
        len(row.decision.held), armed,
    )  # fmt: skip


def _all_values(row: DecisionRow) -> tuple[Any, ...]:
    return (row.customer, row.workspace, row.partition, *decision_values(row)[1:])


class SqlTransaction:
    """One step on one connection."""

    def __init__(self, connection: Connection, partitions: int) -> None:
        self._connection, self._partitions = connection, partitions
        self._locked: set[bytes] = set()  # alerts that were there
        self._states: dict[bytes, bytes] = {}  # as read under lock: what time decides leaves them as they are
        self._unmade: dict[bytes, DecisionRow] = {}  # SQLite: locked customers without a row, until they are saved

    async def move(self, claim: Claim, new: Claim) -> Claim:
        return await checkpoint.hold(self._connection, claim, new)

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        self._locked = set()
        async with savepoint(self._connection, Wanted):
            yield

    async def lock(self, customers: Mapping[bytes, str]) -> dict[bytes, DecisionRow]:
        wanted = sorted(customers)
        if is_sqlite(self._connection):  # BEGIN IMMEDIATE holds every lock there is
            found = await self._read(wanted)
            unmade = self._new({c: customers[c] for c in wanted if c not in found})
            self._unmade |= unmade
            found |= unmade
        else:
            known = "SELECT customer FROM decision WHERE customer = ANY($1)"
            present = {row[0] for row in await fetch(self._connection, known, wanted)}
            found = await self._made({c: customers[c] for c in wanted if c not in present})
            found |= await self._read([c for c in wanted if c not in found])
        self._states |= {c: row.state for c, row in found.items()}
        return found

    def _new(self, customers: Mapping[bytes, str]) -> dict[bytes, DecisionRow]:
        """Rows of customers nobody knew; of whom no workspace is known there is nothing to make."""
        made = {c: workspace for c, workspace in customers.items() if workspace}
        return {c: DecisionRow(c, workspace, partition_of(c, self._partitions)) for c, workspace in made.items()}

    async def _made(self, customers: Mapping[bytes, str]) -> dict[bytes, DecisionRow]:
        """New rows, without those another worker inserted: whoever inserts a row has locked it."""
        made = self._new(customers)
        rows = list(map(_all_values, made.values()))
        new = await insert_missing(self._connection, tables.decision, DECISION_COLUMNS, rows, ("customer",))
        return {c: row for c, row in made.items() if (c,) in new}

    async def _read(self, customers: Sequence[bytes]) -> dict[bytes, DecisionRow]:
        if not customers:
            return {}
        statement = f"{SELECT_DECISION} WHERE customer = ANY($1) ORDER BY customer FOR UPDATE"
        return {row[0]: decision_row(row) for row in await fetch(self._connection, statement, list(customers))}

    async def lock_alerts(self, ids: Collection[bytes]) -> dict[bytes, AlertRow | None]:
        found: dict[bytes, AlertRow | None] = dict.fromkeys(ids)
        statement = f"{SELECT_ALERT} WHERE id = ANY($1) ORDER BY id FOR UPDATE"
        present = {row[0]: AlertRow(*row) for row in await fetch(self._connection, statement, sorted(ids))}
        self._locked |= present.keys()
        return found | present

    async def alerts_of_leaves(self, leaves: Collection[bytes]) -> list[AlertRow]:
        rows = await fetch(self._connection, f"{SELECT_ALERT} WHERE leaf = ANY($1)", sorted(leaves))
        return [AlertRow(*row) for row in rows]

    async def save_decisions(self, rows: Sequence[DecisionRow]) -> None:
        made = self._unmade | {row.customer: row for row in rows if row.customer in self._unmade}
        await insert_rows(self._connection, tables.decision, DECISION_COLUMNS, list(map(_all_values, made.values())))
        self._unmade = {}
        rows = [row for row in rows if row.customer not in made]
        changed = [decision_values(row) for row in rows if row.state != self._states.get(row.customer)]
        passed = [decision_values(row) for row in rows if row.state == self._states.get(row.customer)]
        await update_rows(self._connection, tables.decision, "customer", _UPDATED, changed)
        timed = [values[:_STATE] + values[_STATE + 1 :] for values in passed]
        await update_rows(self._connection, tables.decision, "customer", _UPDATED_BY_TIME, timed)

    async def save_alerts(self, rows: Sequence[AlertRow]) -> None:
        values = sorted(msgspec.structs.astuple(row) for row in rows)
        known = [value for value in values if value[0] in self._locked]
        new = [value for value in values if value[0] not in self._locked]
        await insert_rows(self._connection, tables.alert, ALERT_COLUMNS, known, _REPLACED)
        inserted = await insert_missing(self._connection, tables.alert, ALERT_COLUMNS, new, ("id",))
        if clashing := [value[0] for value in new if (value[0],) not in inserted]:
            raise Wanted(alerts=clashing)  # another partition raised it since we looked: lock it and decide again

    async def blank_alerts(self, customers: Collection[bytes]) -> None:
        if customers:
            gone = sorted(customers)
            for table in ("alert", "recalled_alert"):
                statement = f"UPDATE {table} SET body = $1 WHERE customer = ANY($2)"
                await fetch(self._connection, statement, b"", gone)
            await fetch(self._connection, "DELETE FROM rebuild_differing WHERE customer = ANY($1)", gone)

    async def note_import(self, partition: int, import_id: str, from_partition: int, workspace: str) -> None:
        row = (partition, import_id, from_partition, workspace)
        await insert_rows(self._connection, tables.import_passed, _PASSED, [row], "ON CONFLICT DO NOTHING")

    async def send(self, parcels: Sequence[Parcel]) -> None:
        await outbox.send(self._connection, tables.outbox, parcels)


class SqlStore(SqlProjectionStore):
    """The scoring database of a house with `partitions` partitions."""

    def __init__(self, database: Database, partitions: int) -> None:
        super().__init__(database)
        self._partitions = partitions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlTransaction]:
        async with self.database.brief_transaction() as connection:
            yield SqlTransaction(connection, self._partitions)

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        async with self.database.brief_snapshot() as connection:
            rows, complete = await outbox.pending(connection, partitions, limit)
        return OutboxSnapshot(tuple(rows), {}, complete, {})

    async def due(self, partition: int, before: int, limit: int) -> list[tuple[bytes, str]]:
        statement = (
            "SELECT customer, workspace FROM decision "
            "WHERE partition = $1 AND due_at IS NOT NULL AND due_at < $2 ORDER BY due_at, customer LIMIT $3"
        )
        return [(row[0], row[1]) for row in await self._read(statement, partition, before, limit)]

    async def next_due(self, partition: int) -> int | None:
        statement = "SELECT min(due_at) FROM decision WHERE partition = $1 AND due_at IS NOT NULL"
        found: int | None = (await self._read(statement, partition))[0][0]
        return found

    async def held(self, partition: int, after: bytes, limit: int) -> list[tuple[bytes, str]]:
        statement = (
            "SELECT customer, workspace FROM decision "
            "WHERE partition = $1 AND held > 0 AND customer > $2 ORDER BY customer LIMIT $3"
        )
        return [(row[0], row[1]) for row in await self._read(statement, partition, after, limit)]

    async def armed_before(
        self, partition: int, workspace: str, version: int, after: Armed, limit: int
    ) -> list[tuple[int, bytes]]:
        statement = (
            "SELECT armed_version, customer FROM decision WHERE partition = $1 AND workspace = $2 "
            "AND armed_version < $3 AND (armed_version, customer) > ($4, $5) ORDER BY armed_version, customer LIMIT $6"
        )
        rows = await self._read(statement, partition, workspace, version, *after, limit)
        return [(row[0], row[1]) for row in rows]

    async def imports_passed(self, partition: int) -> dict[str, int]:
        statement = "SELECT import_id, count(*) FROM import_passed WHERE partition = $1 GROUP BY import_id"
        return {row[0]: row[1] for row in await self._read(statement, partition)}

    async def _read(self, statement: str, *values: Any) -> list[Any]:
        async with self.database.brief_snapshot() as connection:
            return await fetch(connection, statement, *values)


async def workspace_states(
    database: Database, partition: int, workspace: str, limit: int
) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Pages of (customer, profile bytes) of a workspace's customers on a partition, each page a read of its own."""
    statement = (
        "SELECT armed_version, customer, state FROM decision WHERE partition = $1 AND workspace = $2 "
        "AND (armed_version, customer) > ($3, $4) ORDER BY armed_version, customer LIMIT $5"
    )
    after = FIRST_ARMED
    while True:
        async with database.snapshot() as connection:
            rows = await fetch(connection, statement, partition, workspace, *after, limit)
        if not rows:
            return
        after = rows[-1][0], rows[-1][1]
        yield [(row[1], row[2]) for row in rows if row[2]]
