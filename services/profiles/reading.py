"""What people read of the profiles database: every query of REST, in sets, each bound to one workspace.

All functions take a connection of `Database.snapshot()`, so that one answer shows one instant.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.cursors import CustomerCursor, TimelineCursor
from services.profiles.domain.decided import NO_RISK
from services.profiles.domain.identity import Assertion, Place
from services.profiles.domain.past import PRESENT, Cut
from services.profiles.store import SELECT_EDGE, select_members
from shared.database import fetch

EDGES_MAX = 20_000
"""So many ties are read to explain a place; who has more is no person, and is explained by these."""
SEPARATE_LEAVES_MAX = 50
"""Up to so many leaves, a timeline page is cut from each leaf's own index range."""

_SORTS = {
    "last_seen": ("c.last_seen_at", "c.customer"),
    "spend": ("c.spend_minor", "c.first_seen_at", "c.customer"),  # most of a site's visitors have spent the same: 0
    "risk": ("s.risk_ppm", "s.customer"),
}
_ORDERS = {"last_seen": ("place", "id"), "spend": ("place", "first_seen_at", "id"), "risk": ("place", "id")}
_STAGE_OF = {"last_seen": "c.stage", "spend": "c.stage", "risk": "s.stage"}
_LISTED = """SELECT {key} AS id, c.first_seen_at, c.last_seen_at, c.purchases, c.spend_minor, c.currency,
s.stage, s.stage_at, s.risk_ppm, s.risk_at, {place} AS place FROM {tables}"""
_FROM_CUSTOMER = "customer c LEFT JOIN standing s ON s.customer = c.customer WHERE c.workspace = $1"
_FROM_STANDING = f"""standing s JOIN customer c ON c.customer = s.customer
WHERE s.workspace = $1 AND s.risk_ppm > {NO_RISK}"""
_LISTS = {
    "last_seen": _LISTED.format(key="c.customer", place="c.last_seen_at", tables=_FROM_CUSTOMER),
    "spend": _LISTED.format(key="c.customer", place="c.spend_minor", tables=_FROM_CUSTOMER),
    "risk": _LISTED.format(key="s.customer", place="s.risk_ppm", tables=_FROM_STANDING),
}


class Values(list[Any]):
    """Parameters of a statement under construction."""

    def add(self, value: Any) -> str:
        """Its place, `$n`."""
        self.append(value)
        return f"${len(self)}"

    def each(self, values: Iterable[Any]) -> str:
        """The places of all, for `IN (…)`."""
        return ", ".join(map(self.add, values))


class Standing(NamedTuple):
    """A decided stage and risk (parts per million, NO_RISK for none)."""

    stage: str
    stage_at: int
    risk_ppm: int
    risk_at: int
    reasons: bytes


class Listed(NamedTuple):
    """A customer as lists show it; the last four are None before the first decision."""

    customer: bytes
    first_seen_at: int
    last_seen_at: int
    purchases: int
    spend_minor: int
    currency: str
    stage: str | None
    stage_at: int | None
    risk_ppm: int | None
    risk_at: int | None


class Kept(NamedTuple):
    """A personal value; `value` is msgpack."""

    leaf: bytes
    field: str
    value: bytes
    at: int
    id: bytes


class Happened(NamedTuple):
    """A touchpoint of a timeline; `body` is blank once erased."""

    day: int
    id: bytes
    scope: bytes
    leaf: bytes
    kind: str
    channel: str
    occurred_at: int
    recorded_at: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """A customer's own rows. `state`: of all leaves together, b"" while nothing was folded."""

    customer: bytes
    version: int
    state: bytes
    leaves: tuple[bytes, ...]
    places: Mapping[bytes, Place]


@dataclass(frozen=True, slots=True)
class Wish:
    """Which customers are listed. `descending`: the greatest first · `after`: where the last page ended."""

    sort: str = "last_seen"
    descending: bool = True
    stage: str | None = None
    seen_after: int | None = None
    seen_before: int | None = None
    spend_min: int | None = None
    risk_min_ppm: int | None = None
    after: CustomerCursor | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Window:
    """Which touchpoints of a timeline: `since` ≤ occurred < `until` (epoch ms), as far as they count under `cut`."""

    kinds: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    after: TimelineCursor | None = None
    limit: int = 50
    cut: Cut = PRESENT


# --- customers ------------------------------------------------------------------------------------------------


async def root_of(connection: AsyncConnection, workspace: str, leaf: bytes) -> bytes | None:
    """The customer a leaf belongs to; None for a leaf that is unknown here, of another workspace, or erased."""
    statement = "SELECT root, erased FROM leaf WHERE leaf = $1 AND workspace = $2"
    rows = await fetch(connection, statement, leaf, workspace)
    return None if not rows or rows[0].erased else bytes(rows[0].root)


async def whole(connection: AsyncConnection, workspace: str, root: bytes) -> Whole:
    """The rows of the customer with this root (known to be there)."""
    statement = "SELECT version, state, merged FROM leaf WHERE leaf = $1 AND workspace = $2"
    row = (await fetch(connection, statement, root, workspace))[0]
    members = f"{select_members('leaf, root, standing, full_rank')} ORDER BY leaf"
    places = {one.leaf: Place(*one[1:]) for one in await fetch(connection, members, root)}
    return Whole(root, row.version, row.merged or row.state, tuple(places), places)


async def standing(connection: AsyncConnection, workspace: str, root: bytes) -> Standing | None:
    """What was decided last about a customer."""
    columns = ", ".join(Standing._fields)
    statement = f"SELECT {columns} FROM standing WHERE customer = $1 AND workspace = $2"
    rows = await fetch(connection, statement, root, workspace)
    return Standing(*rows[0]) if rows else None


async def open_alerts(connection: AsyncConnection, workspace: str, root: bytes) -> list[bytes]:
    """Events of the open alerts of a customer, also of those raised while one of its leaves was another customer."""
    statement = f"""SELECT a.body FROM ({select_members("leaf")}) AS l JOIN alert a ON a.customer = l.leaf
WHERE a.workspace = $2 AND a.state IN ('open', 'acknowledged') ORDER BY a.id"""
    return [row.body for row in await fetch(connection, statement, root, workspace)]


async def customers(connection: AsyncConnection, workspace: str, wish: Wish) -> list[Listed]:
    """One page of customers. Sorted by risk, only those about whom a risk was decided.

    Every sort is an index under each stage: a page is cut from each stage's own range.
    """
    stages = [wish.stage] if wish.stage is not None else await _stages(connection, workspace, wish.sort)
    if not stages:
        return []
    values = Values([workspace])
    limit, direction = values.add(wish.limit), "DESC" if wish.descending else "ASC"
    tests = "".join(f" AND {test}" for test in _tests(wish, values))
    order = f"ORDER BY {', '.join(f'{one} {direction}' for one in _ORDERS[wish.sort])} LIMIT {limit}"
    pages = [
        f"SELECT * FROM ({_LISTS[wish.sort]}{tests} AND {_STAGE_OF[wish.sort]} = {values.add(stage)} {order}) AS page"
        for stage in stages
    ]
    rows = await fetch(connection, f"SELECT * FROM ({' UNION ALL '.join(pages)}) AS pages {order}", *values)
    return [Listed(*row[:-1]) for row in rows]


async def _stages(connection: AsyncConnection, workspace: str, sort: str) -> list[str]:
    """The stages customers are in ("" before the first), one step in the index for each."""
    listed = f"standing WHERE risk_ppm > {NO_RISK} AND" if sort == "risk" else "customer WHERE"
    least = f"SELECT min(stage) FROM {listed} workspace = $1"
    statement = f"""WITH RECURSIVE found(stage) AS (
{least} UNION ALL SELECT ({least} AND stage > found.stage) FROM found WHERE found.stage IS NOT NULL)
SELECT stage FROM found WHERE stage IS NOT NULL"""
    return [row.stage for row in await fetch(connection, statement, workspace)]


def _tests(wish: Wish, values: Values) -> Iterable[str]:
    bounds = (
        ("c.last_seen_at >=", wish.seen_after),
        ("c.last_seen_at <", wish.seen_before),
        ("c.spend_minor >=", wish.spend_min),
        ("s.risk_ppm >=", wish.risk_min_ppm),
    )
    yield from (f"{test} {values.add(bound)}" for test, bound in bounds if bound is not None)
    if wish.after is not None:
        key, after = _SORTS[wish.sort], wish.after
        last = (after.value, after.first_seen_at, after.customer) if len(key) == 3 else (after.value, after.customer)
        yield f"({', '.join(key)}) {'<' if wish.descending else '>'} ({values.each(last)})"


# --- personal values and ties ----------------------------------------------------------------------------------


async def personal(connection: AsyncConnection, workspace: str, leaves: Sequence[bytes]) -> list[Kept]:
    """What is kept of these leaves, without the texts of single touchpoints."""
    statement = f"""SELECT {", ".join(Kept._fields)} FROM personal
WHERE leaf = ANY($1) AND workspace = $2 AND field NOT LIKE 'text:%'"""
    return [Kept(*row) for row in await fetch(connection, statement, list(leaves), workspace)]


async def fields(
    connection: AsyncConnection, workspace: str, leaves: Collection[bytes], names: Collection[str]
) -> dict[tuple[bytes, str], bytes]:
    """Values under these names of these leaves."""
    if not leaves or not names:
        return {}
    values = Values([workspace])
    statement = f"""SELECT leaf, field, value FROM personal WHERE workspace = $1
AND leaf IN ({values.each(leaves)}) AND field IN ({values.each(names)})"""
    return {(row.leaf, row.field): row.value for row in await fetch(connection, statement, *values)}


async def edges(connection: AsyncConnection, workspace: str, leaves: Sequence[bytes]) -> list[Assertion]:
    """Assertions that count about pairs that touch one of these leaves, EDGES_MAX from each side at most."""
    found = []
    for side in ("a", "b"):
        statement = f"""{SELECT_EDGE} WHERE e.{side} = ANY($1) AND e.workspace = $2 LIMIT {EDGES_MAX}"""
        found += await fetch(connection, statement, list(leaves), workspace)
    return [Assertion(row[0], row[1], bool(row[2]), bool(row[3]), bool(row[4]), row[5], row[6]) for row in found]


async def places(connection: AsyncConnection, workspace: str, leaves: Collection[bytes]) -> dict[bytes, Place]:
    """Where these leaves stand; those without a row are left out."""
    statement = "SELECT leaf, root, standing, full_rank FROM leaf WHERE leaf = ANY($1) AND workspace = $2"
    rows = await fetch(connection, statement, sorted(leaves), workspace) if leaves else []
    return {row.leaf: Place(*row[1:]) for row in rows}


# --- timeline --------------------------------------------------------------------------------------------------


async def timeline(
    connection: AsyncConnection, workspace: str, leaves: Sequence[bytes], window: Window
) -> list[Happened]:
    """One page of the touchpoints of these leaves, newest first."""
    values = Values([workspace])
    tests = "".join(f" AND {test}" for test in _window_tests(window, values))
    limit = values.add(window.limit)
    order = f"ORDER BY occurred_at DESC, id DESC, scope DESC, day DESC LIMIT {limit}"
    select = f"SELECT {', '.join(Happened._fields)} FROM touchpoint WHERE workspace = $1{tests}"
    if len(leaves) <= SEPARATE_LEAVES_MAX:
        pages = [f"SELECT * FROM ({select} AND leaf = {values.add(leaf)} {order}) AS page" for leaf in leaves]
        statement = f"SELECT * FROM ({' UNION ALL '.join(pages)}) AS pages {order}"
    else:
        statement = f"{select} AND leaf IN ({values.each(leaves)}) {order}"
    return [Happened(*row) for row in await fetch(connection, statement, *values)]


def _window_tests(window: Window, values: Values) -> Iterable[str]:
    if window.kinds:
        yield f"kind IN ({values.each(window.kinds)})"
    if window.channels:
        yield f"channel IN ({values.each(window.channels)})"
    if window.since is not None:
        yield f"occurred_at >= {values.add(window.since)}"
    if window.until is not None:
        yield f"occurred_at < {values.add(window.until)}"
    if window.cut.as_of is not None:
        yield f"occurred_at <= {values.add(window.cut.as_of)}"
    if window.cut.known_at is not None:
        yield f"recorded_at <= {values.add(window.cut.known_at)}"
    if window.after is not None:
        last = values.each((window.after.occurred_at, window.after.id, window.after.scope, window.after.day))
        # The first test alone lets the index begin where the page begins.
        yield f"occurred_at <= {values.add(window.after.occurred_at)}"
        yield f"(occurred_at, id, scope, day) < ({last})"
