"""What scoring said, read again from its two topics into tables of their own, beside the live ones or before them.

Each batch is written with its positions in one transaction under the rebuild's row, so that a replaced process is
refused and whoever follows goes on where it was. Any order and any repetition of what was said gives the same rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import tables
from services.scoring.domain.recalling import Draft, Said, joined, recalled_row, said_of
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.store import ALERT_COLUMNS, DECISION_COLUMNS, decision_values
from shared.checkpoint import NEVER, REBUILD_CHECKPOINT
from shared.database import execute, fetch, insert_rows
from shared.errors import Poison
from shared.log.port import Batch
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES

TOPICS = (SEGMENT_CHANGES, CHURN_ALERTS)
BEFORE = "profile-changes before"
MARGIN_MS = 3_600_000
"""How much longer than the longest wait in an outbox profile-changes are read again."""

_encode = msgspec.msgpack.Encoder().encode
_draft = msgspec.msgpack.Decoder(Draft).decode

_NEWER_DRAFT = "ON CONFLICT (customer) DO UPDATE SET draft = excluded.draft"
_NEWER_ALERT = (
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in ALERT_COLUMNS[1:])
    + " WHERE excluded.revision > recalled_alert.revision"
)
_POSITION = "ON CONFLICT (topic, partition) DO UPDATE SET position = excluded.position, frontier = excluded.frontier"
_CHECKPOINT = (
    "topic", "partition", "epoch", "revision", "position", "frontier", "last_position", "last_checksum", "log_identity",
)  # fmt: skip

Places = dict[tuple[str, int], int]
"""(topic, partition) → next position."""


async def positions(connection: AsyncConnection) -> Places:
    """How far everything is read."""
    rows = await fetch(connection, f"SELECT topic, partition, position FROM {REBUILD_CHECKPOINT}")
    return {(row.topic, row.partition): row.position for row in rows}


async def note_positions(connection: AsyncConnection, places: Mapping[tuple[str, int], int]) -> None:
    """Write how far it is."""
    await _note(connection, {place: (position, NEVER) for place, position in places.items()})


async def _note(connection: AsyncConnection, places: Mapping[tuple[str, int], tuple[int, int]]) -> None:
    rows = [(*place, 0, 0, position, stamp, NEVER, 0, "") for place, (position, stamp) in places.items()]
    await insert_rows(connection, tables.rebuild_checkpoint, _CHECKPOINT, sorted(rows), _POSITION)


async def _note_read(connection: AsyncConnection, read: Sequence[tuple[int, int, int]]) -> None:
    """Where decisions were taken last, by partition, and where they were at least MARGIN_MS before that was said.

    A customer's later statement may have been on the log before another's earlier one; both waited in one outbox.
    """
    if not read:
        return
    statement = f"SELECT topic, partition, position, frontier FROM {REBUILD_CHECKPOINT} WHERE topic = ANY($1)"
    rows = await fetch(connection, statement, [PROFILE_CHANGES, BEFORE])
    marks = {(row.topic, row.partition): (row.position, row.frontier) for row in rows}
    for partition, position, said_at in read:
        last = marks.get((PROFILE_CHANGES, partition))
        if last is None or said_at - last[1] >= MARGIN_MS:
            if last is not None:
                marks[BEFORE, partition] = last
            marks[PROFILE_CHANGES, partition] = position, said_at
    await _note(connection, marks)


async def begin_at(connection: AsyncConnection, at: int) -> dict[int, int]:
    """Where to read profile-changes again from, by partition; none where nothing is known. `at`: now, epoch ms."""
    rows = await fetch(connection, f"SELECT topic, partition, position, frontier FROM {REBUILD_CHECKPOINT}")
    marks = {(row.topic, row.partition): (row.position, row.frontier) for row in rows}
    found: dict[int, int] = {}
    for (topic, partition), (position, said_at) in marks.items():
        if topic == PROFILE_CHANGES:
            found[partition] = position if at - said_at >= MARGIN_MS else marks.get((BEFORE, partition), (0, 0))[0]
    return found


async def take(connection: AsyncConnection, topic: str, partition: int, batch: Batch) -> int:
    """Keep what a batch says, and its position; returns how many records were no decision of ours."""
    told: list[Said] = []
    foreign = 0
    for record in batch.records:
        try:
            said = said_of(record.value)
        except Poison:
            foreign += 1
            continue
        told += [said] if said is not None else []
    await _keep(connection, told)
    await note_positions(connection, {(topic, partition): batch.next_position})
    return foreign


async def hear_pending(connection: AsyncConnection, customers: Iterable[bytes]) -> None:
    """Keep what live said of these customers and the log does not have yet; it will come by the log once more."""
    statement = "SELECT value FROM outbox WHERE key = ANY($1) ORDER BY seq"
    found = (said_of(row.value) for row in await fetch(connection, statement, sorted(customers)))
    await _keep(connection, [said for said in found if said is not None])


async def _keep(connection: AsyncConnection, told: Sequence[Said]) -> None:
    known = await drafts(connection, {said.draft.customer for said in told})
    alerts: dict[bytes, AlertRow] = {}
    for said in told:
        customer = said.draft.customer
        known[customer] = joined(known.get(customer), said.draft)
        if said.draft.erased_sequence:
            await _forget(connection, customer, alerts)
        if said.alert is not None:
            before = alerts.get(said.alert.id)
            if before is None or said.alert.revision > before.revision:
                alerts[said.alert.id] = said.alert
    rows = [(draft.customer, draft.workspace, _encode(draft)) for _, draft in sorted(known.items())]
    await insert_rows(connection, tables.recalled, ("customer", "workspace", "draft"), rows, _NEWER_DRAFT)
    await _keep_alerts(connection, alerts.values())
    await _note_read(connection, [said.read for said in told if said.read is not None])


async def _forget(connection: AsyncConnection, customer: bytes, alerts: dict[bytes, AlertRow]) -> None:
    """What was said of an erased customer's alerts before is not brought back."""
    for alert_id, row in alerts.items():
        if row.customer == customer:
            alerts[alert_id] = msgspec.structs.replace(row, body=b"")
    await fetch(connection, "UPDATE recalled_alert SET body = $1 WHERE customer = $2", b"", customer)


async def _keep_alerts(connection: AsyncConnection, rows: Iterable[AlertRow]) -> None:
    values = sorted(msgspec.structs.astuple(row) for row in rows)
    await insert_rows(connection, tables.recalled_alert, ALERT_COLUMNS, values, _NEWER_ALERT)


async def drafts(connection: AsyncConnection, customers: Iterable[bytes]) -> dict[bytes, Draft]:
    """What is known of these customers."""
    rows = await fetch(connection, "SELECT customer, draft FROM recalled WHERE customer = ANY($1)", sorted(customers))
    return {row.customer: _draft(row.draft) for row in rows}


async def page(connection: AsyncConnection, after: bytes, limit: int) -> list[Draft]:
    """Customers behind `after`, by customer."""
    statement = "SELECT draft FROM recalled WHERE customer > $1 ORDER BY customer LIMIT $2"
    return [_draft(row.draft) for row in await fetch(connection, statement, after, limit)]


async def recalled_rows(
    connection: AsyncConnection, known: Iterable[Draft], partitions: int
) -> tuple[list[DecisionRow], list[AlertRow]]:
    """Decision rows of these customers as they were said, and all alerts said of them."""
    by_customer = {draft.customer: draft for draft in known}
    statement = f"SELECT {', '.join(ALERT_COLUMNS)} FROM recalled_alert WHERE customer = ANY($1)"
    found = [AlertRow(*row) for row in await fetch(connection, statement, sorted(by_customer))]
    alerts: dict[bytes, list[AlertRow]] = {customer: [] for customer in by_customer}
    for row in sorted(found, key=lambda one: one.id):
        alerts[row.customer].append(row)
    return [recalled_row(draft, alerts[customer], partitions) for customer, draft in by_customer.items()], found


async def bring_back(connection: AsyncConnection, known: Sequence[Draft], partitions: int) -> None:
    """Write a page of customers into the live tables; who is there already stays as they are."""
    rows, alerts = await recalled_rows(connection, known, partitions)
    values: list[tuple[Any, ...]] = [
        (row.customer, row.workspace, row.partition, *decision_values(row)[1:]) for row in rows
    ]
    await insert_rows(connection, tables.decision, DECISION_COLUMNS, values, "ON CONFLICT DO NOTHING")
    told = sorted(msgspec.structs.astuple(row) for row in alerts)
    await insert_rows(connection, tables.alert, ALERT_COLUMNS, told, "ON CONFLICT DO NOTHING")


async def let_go_of_some(connection: AsyncConnection, rows_max: int = 2_000) -> bool:
    """Take away a piece of what was said; False once nothing is left of it."""
    for table, key in (("recalled", "customer"), ("recalled_alert", "id")):
        inner = f"SELECT {key} FROM {table} LIMIT {rows_max}"
        if await execute(connection, f"DELETE FROM {table} WHERE {key} IN ({inner})"):
            return True
    await execute(connection, f"DELETE FROM {REBUILD_CHECKPOINT}")
    return False


async def let_go(connection: AsyncConnection) -> None:
    """Empty the tables of what was said."""
    for table in ("recalled", "recalled_alert", REBUILD_CHECKPOINT):
        await fetch(connection, f"DELETE FROM {table}")  # names of ours
