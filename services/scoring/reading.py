"""Reads of the scoring database for people: lists of alerts by keyset, one alert, one decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.store import SELECT_ALERT, SELECT_DECISION, decision_row
from shared.cursors import Bytes, Cursor, Int64
from shared.database import fetch

ABSORPTIONS_MAX = 100


class AlertCursor(Cursor, frozen=True, array_like=True, tag="a"):
    """The place of an alert in the list: newest raised first, then by id."""

    raised_at: Int64
    id: Bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """Which alerts. Times in epoch ms: raised at or after `raised_after`, before `raised_before`."""

    limit: int
    state: str | None = None
    policy: str | None = None
    customer: bytes | None = None
    raised_after: int | None = None
    raised_before: int | None = None
    risk_min_ppm: int | None = None
    after: AlertCursor | None = None


async def alerts(connection: AsyncConnection, workspace: str, wish: Wish) -> list[AlertRow]:
    """A page of alerts, newest raised first."""
    filters: tuple[tuple[str, Any], ...] = (
        ("workspace =", workspace),
        ("state =", wish.state),
        ("policy =", wish.policy),
        ("customer =", wish.customer),
        ("raised_at >=", wish.raised_after),
        ("raised_at <", wish.raised_before),
        ("risk_ppm >=", wish.risk_min_ppm),
    )
    asked = [(text, value) for text, value in filters if value is not None]
    where = [f"{text} ${n}" for n, (text, _) in enumerate(asked, 1)]
    values = [value for _, value in asked]
    if wish.after is not None:
        where.append(f"(raised_at, id) < (${len(values) + 1}, ${len(values) + 2})")
        values += [wish.after.raised_at, wish.after.id]
    statement = f"{SELECT_ALERT} WHERE {' AND '.join(where)} ORDER BY raised_at DESC, id DESC LIMIT ${len(values) + 1}"
    return [AlertRow(*row) for row in await fetch(connection, statement, *values, wish.limit)]


async def alert(connection: AsyncConnection, workspace: str, alert_id: bytes) -> AlertRow | None:
    """One alert; None where there is none in this workspace."""
    statement = f"{SELECT_ALERT} WHERE id = $1 AND workspace = $2"
    rows = await fetch(connection, statement, alert_id, workspace)
    return AlertRow(*rows[0]) if rows else None


async def alerts_by_id(connection: AsyncConnection, ids: Sequence[bytes]) -> list[AlertRow]:
    """These alerts, newest raised first."""
    rows = await fetch(connection, f"{SELECT_ALERT} WHERE id = ANY($1)", list(ids)) if ids else []
    return sorted((AlertRow(*row) for row in rows), key=lambda row: (-row.raised_at, row.id))


async def decision(connection: AsyncConnection, workspace: str, customer: bytes) -> DecisionRow | None:
    """The decision about a customer, or about the one they became part of; None where nothing is known."""
    for _ in range(ABSORPTIONS_MAX):
        rows = await fetch(connection, f"{SELECT_DECISION} WHERE customer = $1 AND workspace = $2", customer, workspace)
        if not rows:
            return None
        row = decision_row(rows[0])
        if not row.absorbed_into:
            return row if row.state or row.parked else None
        customer = row.absorbed_into
    return None


@dataclass(frozen=True, slots=True)
class Census:
    """How many customers, on some partitions: due before now, held by an import, parked."""

    due: int = 0
    held: int = 0
    parked: int = 0


async def census(connection: AsyncConnection, partitions: Sequence[int], now: int) -> Census:
    """Count them; each count walks an index of just those rows."""
    if not partitions:
        return Census()
    of_ours = "SELECT count(*) FROM decision WHERE partition = ANY($1)"
    ours = list(partitions)
    due = await fetch(connection, f"{of_ours} AND due_at IS NOT NULL AND due_at < $2", ours, now)
    held = await fetch(connection, f"{of_ours} AND held > 0", ours)
    parked = await fetch(connection, f"{of_ours} AND parked <> ''", ours)
    return Census(due[0][0], held[0][0], parked[0][0])
