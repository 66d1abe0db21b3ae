"""Live's customers beside what was said of them: page by page, under no lock of live's, each verdict exact.

What live has and what was said are never seen at the same position at once: live goes on. Who seems to differ is looked
at again under the lock of their row, after everything that was said till then is read; a row that stood still between
two looks, with the topics read to their ends in between, really differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import recall, tables
from services.scoring.domain.recalling import Draft, recalled_row
from services.scoring.domain.remaking import SaidAlert, Stand, difference, digest_of, made_again
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.step import Rules
from services.scoring.store import ALERT_COLUMNS, DECISION_COLUMNS, decision_row, decision_values
from shared.database import execute, fetch, insert_rows

PAGE = 200
_LIVE = f"SELECT {', '.join(DECISION_COLUMNS)} FROM decision WHERE customer = ANY($1)"
_ALERT = f"SELECT {', '.join(ALERT_COLUMNS)} FROM alert"
_SAID = f"SELECT {', '.join(ALERT_COLUMNS)} FROM recalled_alert"
_INSTEAD = "ON CONFLICT (customer) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in DECISION_COLUMNS[1:])
_ALERT_INSTEAD = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in ALERT_COLUMNS[1:])
_DIFFERING = ("customer", "workspace", "fields", "before", "after")
STATE = DECISION_COLUMNS.index("state")
_VERSION, _ABSORBED, _PARKED = (DECISION_COLUMNS.index(name) for name in ("version", "absorbed_into", "parked"))

Columns = tuple[Any, ...]
"""A decision row as DECISION_COLUMNS."""


class Side(NamedTuple):
    """One customer on both sides. `raw`: live's columns as they stand, None without a row · `fields`: what differs."""

    workspace: str
    raw: Columns | None
    live: Stand
    made: Stand
    fields: tuple[str, ...]

    def stood_since(self, before: "Side | None") -> bool:
        """Whether live has decided nothing about the customer since they were seen so."""
        return before is not None and (self.raw, self.live.alerts) == (before.raw, before.live.alerts)


async def customers_after(connection: AsyncConnection, after: bytes, limit: int = PAGE) -> list[bytes]:
    """The next customers of either side behind `after`, in order."""
    statement = (
        "SELECT customer FROM (SELECT customer FROM decision WHERE customer > $1 "
        "UNION SELECT customer FROM recalled WHERE customer > $1) both_sides ORDER BY customer LIMIT $2"
    )
    return [row.customer for row in await fetch(connection, statement, after, limit)]


async def lock(connection: AsyncConnection, customers: Iterable[bytes]) -> None:
    """Nobody decides about these customers until the transaction ends."""
    statement = "SELECT customer FROM decision WHERE customer = ANY($1) ORDER BY customer FOR UPDATE"
    wanted = sorted(customers)
    await fetch(connection, statement, wanted)
    await fetch(connection, "SELECT id FROM alert WHERE customer = ANY($1) ORDER BY id FOR UPDATE", wanted)


async def sides(
    connection: AsyncConnection, customers: Sequence[bytes], rules: Callable[[str], Rules], partitions: int
) -> dict[bytes, Side]:
    """These customers as live has them and as what was said makes them."""
    raw = {row.customer: tuple(row) for row in await fetch(connection, _LIVE, list(customers))}
    drafts = await recall.drafts(connection, customers)
    alerts = await _alerts(connection, customers)
    return {
        customer: _side(raw.get(customer), drafts.get(customer), alerts.get(customer, ()), rules, partitions)
        for customer in customers
        if customer in raw or customer in drafts
    }


async def _alerts(connection: AsyncConnection, customers: Sequence[bytes]) -> Mapping[bytes, Sequence[SaidAlert]]:
    """The alerts of these customers: whose an alert is by now, live knows; else it is who it was said of."""
    mine = " WHERE customer = ANY($1)"
    live = _by_id(await fetch(connection, _ALERT + mine, list(customers)))
    said = _by_id(await fetch(connection, _SAID + mine, list(customers)))
    live |= _by_id(await fetch(connection, _ALERT + " WHERE id = ANY($1)", sorted(said.keys() - live.keys())))
    said |= _by_id(await fetch(connection, _SAID + " WHERE id = ANY($1)", sorted(live.keys() - said.keys())))
    found: dict[bytes, list[SaidAlert]] = {}
    for name in sorted(live.keys() | said.keys()):
        pair = SaidAlert(said.get(name), live.get(name))
        owner = live[name].customer if name in live else said[name].customer
        found.setdefault(owner, []).append(pair)
    return found


def _by_id(rows: Iterable[Any]) -> dict[bytes, AlertRow]:
    return {row[0]: AlertRow(*row) for row in rows}


def _side(
    raw: Columns | None,
    draft: Draft | None,
    alerts: Sequence[SaidAlert],
    rules: Callable[[str], Rules],
    partitions: int,
) -> Side:
    standing = tuple(one.live for one in alerts if one.live is not None)
    if raw is None:
        workspace = draft.workspace if draft is not None else ""
        made = made_again(None, draft, alerts, rules(workspace), partitions)
        return Side(workspace, None, Stand(None, standing), made, difference(Stand(None, standing), made))
    workspace = draft.workspace if draft is not None else str(raw[1])
    known_rules, is_ruined = rules(workspace), False
    try:
        row = decision_row(raw)
        live = Stand(row, standing)
        made = made_again(row, draft, alerts, known_rules, partitions)
    except Exception:  # whatever is wrong with what stands: it is what is to be found
        live, is_ruined = Stand(None, standing), True
        made = _from_ruins(raw, draft, alerts, known_rules, partitions)
    fields = set(difference(live, made))
    if is_ruined:
        fields = fields - {"row"} | {"unreadable"}
    elif not fields and raw != columns_of(made.row):
        fields.add("columns")
    return Side(workspace, raw, live, made, tuple(sorted(fields)))


def _from_ruins(
    raw: Columns,
    draft: Draft | None,
    alerts: Sequence[SaidAlert],
    rules: Rules,
    partitions: int,
) -> Stand:
    """A row whose decision or state cannot be read: its snapshot with what was said; without it when that is ruined."""
    said = [one.said for one in alerts if one.said is not None]
    bare = DecisionRow(raw[0], raw[1], raw[2]) if draft is None else recalled_row(draft, said, partitions)
    seen = msgspec.structs.replace(
        bare, version=raw[_VERSION], state=raw[STATE], absorbed_into=raw[_ABSORBED], parked=raw[_PARKED]
    )
    try:
        return made_again(seen, draft, alerts, rules, partitions)
    except Exception:  # not even the snapshot can be read: profiles is to tell the customer again
        return made_again(bare, draft, alerts, rules, partitions)


def digests(found: Iterable[Side]) -> tuple[int, int]:
    """The sums of the digests of live's and of the made customers; a row that cannot be read counts as it stands."""
    live = made = 0
    for side in found:
        live += digest_of(side.live)
        made += digest_of(side.made)
    return live, made


# --- what differs, kept -----------------------------------------------------------------------------------------


async def keep(connection: AsyncConnection, differing: Mapping[bytes, Side]) -> None:
    """Note who differs, and in what."""
    rows = [(who, side.workspace, " ".join(side.fields), b"", b"") for who, side in sorted(differing.items())]
    await insert_rows(connection, tables.rebuild_differing, _DIFFERING, rows, "ON CONFLICT DO NOTHING")


async def differing_customers(connection: AsyncConnection, limit: int) -> list[bytes]:
    """Who differs, as it was noted."""
    rows = await fetch(connection, "SELECT customer FROM rebuild_differing ORDER BY customer LIMIT $1", limit)
    return [row.customer for row in rows]


async def forget(connection: AsyncConnection) -> None:
    """Nothing was compared."""
    await execute(connection, "DELETE FROM rebuild_differing")


async def write(
    connection: AsyncConnection, customer: bytes, raw: Columns | None, alerts: Iterable[AlertRow], was: Iterable[bytes]
) -> None:
    """Put a customer's row and alerts in the place of those that stand. `raw`: None = no row · `was`: alert ids that go
    unless they are among `alerts`. What stands is locked by the caller.
    """
    told = sorted(msgspec.structs.astuple(row) for row in alerts)
    gone = sorted(set(was) - {values[0] for values in told})
    if raw is None:
        await execute(connection, "DELETE FROM decision WHERE customer = $1", customer)
    else:
        await insert_rows(connection, tables.decision, DECISION_COLUMNS, [raw], _INSTEAD)
    if gone:
        await fetch(connection, "DELETE FROM alert WHERE id = ANY($1)", gone)
    await insert_rows(connection, tables.alert, ALERT_COLUMNS, told, _ALERT_INSTEAD)


async def columns(connection: AsyncConnection, customer: bytes) -> Columns | None:
    """A customer's row as it stands."""
    rows = await fetch(connection, _LIVE, [customer])
    return tuple(rows[0]) if rows else None


async def alerts_of(connection: AsyncConnection, customer: bytes) -> tuple[AlertRow, ...]:
    """A customer's alerts as they stand, by id."""
    rows = await fetch(connection, f"{_ALERT} WHERE customer = $1 ORDER BY id", customer)
    return tuple(AlertRow(*row) for row in rows)


def columns_of(row: DecisionRow | None) -> Columns | None:
    """A row as DECISION_COLUMNS."""
    return None if row is None else (row.customer, row.workspace, row.partition, *decision_values(row)[1:])
