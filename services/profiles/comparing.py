"""Comparing the version in the slot `next` with the live one, at equal positions, leaf by leaf, never all at once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import tables
from services.profiles.domain.drift import MISSING, Compared, differences, digest_into
from services.profiles.domain.identity import ALONE, NOT_FULL
from services.profiles.versions import LIVE, beside
from shared.checkpoint import REBUILD_CHECKPOINT
from shared.database import execute, fetch, insert_rows, update_rows
from shared.topics import TOUCHPOINTS

PAGE_LEAVES = 1_000
EXAMPLES_MAX = 20

_SIDE = "leaf, workspace, root, state, merged, erased, version, moves, known, changed_at"
_DIFFERING = ("customer", "leaf", "was", "workspace", "features")

DifferingRow = tuple[bytes, bytes, bytes, str, str]
"""A row of `rebuild_differing`: customer (of the made version), leaf, its customer live, workspace, features."""


RaisedRow = tuple[bytes, int, int, bool, int]
"""Leaf, and the version, moves, known and changed_at it has from now on."""


class Side(NamedTuple):
    """A leaf on one side: what is compared, and what only never goes back."""

    row: Compared
    version: int
    moves: int
    known: bool
    changed_at: int


class Example(msgspec.Struct, frozen=True):
    """A customer who differs, and in what."""

    customer: str
    features: tuple[str, ...]


class Report(msgspec.Struct):
    """What differs in one workspace: customers, how many of them by feature, and some of them."""

    customers: int = 0
    features: dict[str, int] = {}
    examples: list[Example] = []


class Comparison(msgspec.Struct, frozen=True):
    """The outcome. Digests are over leaf states and components, at the same positions of every partition."""

    digest_live: str = ""
    digest_made: str = ""
    leaves: int = 0
    leaves_differing: int = 0
    workspaces: dict[str, Report] = {}

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.leaves_differing

    def encoded(self) -> bytes:
        """As the rebuild's row keeps it."""
        return msgspec.json.encode(self)


def decoded_report(report: bytes) -> Comparison | None:
    """The comparison a row keeps; None before there was one."""
    return msgspec.json.decode(report, type=Comparison) if report else None


async def patient(connection: AsyncConnection) -> None:
    """Let this one transaction take its time: it reads a snapshot and holds nobody up."""
    if connection.dialect.name != "sqlite":
        for setting in ("transaction_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"SET LOCAL {setting} = 0"))


# --- the whole of both ----------------------------------------------------------------------------------------


class Comparing:
    """One pass over both versions. `breathe`: called between pages; it beats and waits for live.

    `keep`: writes rows that differ, and what the made version takes over.
    """

    def __init__(
        self,
        breathe: Callable[[], Awaitable[None]],
        keep: Callable[[Sequence[DifferingRow], Sequence[RaisedRow]], Awaitable[None]],
    ) -> None:
        self._breathe, self._keep = breathe, keep
        self._live, self._made = sha256(), sha256()
        self._leaves = 0
        self._found: list[DifferingRow] = []
        self._raised: list[RaisedRow] = []
        self.leaves_differing = 0

    async def run(self, live: AsyncConnection, made: AsyncConnection) -> Comparison:
        """Compare what these two snapshots see. The reports by workspace are made by `reports` afterwards."""
        ours, theirs = _leaves(live, LIVE.leaf.fullname), _leaves(made, _next_leaf(made))
        one, other = await anext(ours, None), await anext(theirs, None)
        while one is not None or other is not None:
            at = min(side.row.leaf for side in (one, other) if side is not None)
            left = one if one is not None and one.row.leaf == at else None
            right = other if other is not None and other.row.leaf == at else None
            self._take(left, right)
            if left is not None:
                one = await anext(ours, None)
            if right is not None:
                other = await anext(theirs, None)
            if self._leaves % PAGE_LEAVES == 0:
                await self._rest()
        await self._rest()
        digests = self._live.hexdigest(), self._made.hexdigest()
        return Comparison(*digests, self._leaves, self.leaves_differing)

    def _take(self, live: Side | None, made: Side | None) -> None:
        self._leaves += 1
        for total, side in ((self._live, live), (self._made, made)):
            if side is not None:
                digest_into(total, side.row.leaf, side.row.state, side.row.root, side.row.erased)
        differing = differing_row(live.row if live else None, made.row if made else None)
        if differing is not None:
            self._found.append(differing)
        behind = raised(live, made) if live is not None and made is not None else None
        if behind is not None:
            self._raised.append(behind)

    async def _rest(self) -> None:
        found, behind = self._found, self._raised
        self._found, self._raised = [], []
        self.leaves_differing += len(found)
        if found or behind:
            await self._keep(found, behind)
        await self._breathe()


def differing_row(live: Compared | None, made: Compared | None) -> DifferingRow | None:
    """What is kept of a leaf that differs; None when it does not."""
    features = differences(live, made)
    known = made or live
    if not features or known is None:
        return None
    return known.root, known.leaf, (live or known).root, known.workspace, ",".join(features)


async def _leaves(connection: AsyncConnection, table: str) -> AsyncIterator[Side]:
    after: bytes = b""
    statement = f"SELECT {_SIDE} FROM {table} WHERE leaf > $1 ORDER BY leaf LIMIT {PAGE_LEAVES}"
    while rows := await fetch(connection, statement, after):
        for row in rows:
            yield _side(row)
        after = rows[-1].leaf


def _side(row: Any) -> Side:
    """A row of `leaf`; SQLite keeps truth as 0 and 1."""
    compared = Compared(row.leaf, row.workspace, row.root, row.state, row.merged, bool(row.erased))
    return Side(compared, row.version, row.moves, bool(row.known), row.changed_at)


def _next_leaf(connection: AsyncConnection) -> str:
    return beside("next", connection.dialect.name == "sqlite").leaf.fullname


# --- what was written since -----------------------------------------------------------------------------------


async def touched(connection: AsyncConnection, limit: int) -> list[bytes]:
    """Leaves that either side wrote since the comparison, at most `limit` + 1 of them."""
    rows = await fetch(connection, f"SELECT DISTINCT leaf FROM rebuild_touched LIMIT {limit + 1}")
    return [row.leaf for row in rows]


async def compare_some(
    connection: AsyncConnection, leaves: Collection[bytes]
) -> tuple[list[DifferingRow], list[RaisedRow]]:
    """What differs among these leaves and what is behind, both sides read on one connection at equal positions."""
    both: list[dict[bytes, Side]] = []
    for table in (LIVE.leaf.fullname, _next_leaf(connection)):
        rows = await fetch(connection, f"SELECT {_SIDE} FROM {table} WHERE leaf = ANY($1)", sorted(leaves))
        both.append({row.leaf: _side(row) for row in rows})
    differing, behind = [], []
    for leaf in sorted(leaves):
        live, made = (side.get(leaf) for side in both)
        differing.append(differing_row(live.row if live else None, made.row if made else None))
        behind.append(raised(live, made) if live and made else None)
    return [one for one in differing if one is not None], [one for one in behind if one is not None]


async def keep_differing(
    connection: AsyncConnection, rows: Sequence[DifferingRow], instead_of: Collection[bytes] = ()
) -> None:
    """Keep what differs; what was kept of the leaves `instead_of` is forgotten."""
    if instead_of:
        await fetch(connection, "DELETE FROM rebuild_differing WHERE leaf = ANY($1)", sorted(instead_of))
    await insert_rows(connection, tables.rebuild_differing, _DIFFERING, rows, "ON CONFLICT DO NOTHING")


async def reports(connection: AsyncConnection) -> dict[str, Report]:
    """Differing customers counted, by workspace; read page by page."""
    found: dict[str, Report] = {}
    at: tuple[bytes, bytes] = (b"", b"")
    customer: tuple[str, bytes, set[str]] | None = None
    statement = f"""SELECT customer, leaf, workspace, features FROM rebuild_differing
WHERE (customer, leaf) > ($1, $2) ORDER BY customer, leaf LIMIT {PAGE_LEAVES}"""
    while rows := await fetch(connection, statement, *at):
        for row in rows:
            if customer is None or customer[1] != row.customer:
                _count(found, customer)
                customer = row.workspace, row.customer, set()
            customer[2].update(row.features.split(","))
        at = rows[-1].customer, rows[-1].leaf
    _count(found, customer)
    return found


def _count(found: dict[str, Report], customer: tuple[str, bytes, set[str]] | None) -> None:
    if customer is None:
        return
    workspace, root, features = customer
    report = found.setdefault(workspace, Report())
    report.customers += 1
    for name in sorted(features):
        report.features[name] = report.features.get(name, 0) + 1
    if len(report.examples) < EXAMPLES_MAX:
        report.examples.append(Example(root.hex(), tuple(sorted(features))))


# --- versions never go back -----------------------------------------------------------------------------------


def raised(live: Side, made: Side) -> RaisedRow | None:
    """What the made version takes over of a leaf at equal positions; None when it is not behind live in anything.

    A leaf that has another customer than live has moved once more.
    """
    moves = max(live.moves, made.moves)
    if live.row.root != made.row.root and live.moves >= made.moves:
        moves = live.moves + 1
    after = (max(live.version, made.version), moves, live.known, max(live.changed_at, made.changed_at))
    if after[:3] == (made.version, made.moves, made.known):
        return None
    return (live.row.leaf, *after)


async def raise_to(connection: AsyncConnection, rows: Sequence[RaisedRow]) -> None:
    """Write what `raised` says into the made version."""
    made = beside("next", connection.dialect.name == "sqlite").leaf
    await update_rows(connection, made, "leaf", ("version", "moves", "known", "changed_at"), sorted(rows))


async def keep_lost(connection: AsyncConnection) -> None:
    """A customer the log knows nothing of keeps its version, with no state: what is told of it must be believed."""
    await execute(connection, _LOST.format(made=_next_leaf(connection), live=LIVE.leaf.fullname))


_LOST = f"""INSERT INTO {{made}} (leaf, workspace, root, standing, full_rank, state, merged, version, moves, erased,
erased_at, known, changed_at)
SELECT leaf, workspace, leaf, {ALONE}, {NOT_FULL}, blank, blank, version, moves, FALSE, -1, known, changed_at
FROM (SELECT leaf, workspace, substr(leaf, 1, 0) AS blank, version, moves, known, changed_at FROM {{live}} AS live
WHERE leaf IN (SELECT leaf FROM rebuild_differing WHERE features = '{MISSING}')
AND NOT EXISTS (SELECT 1 FROM {{made}} AS made WHERE made.leaf = live.leaf)) AS lost WHERE TRUE"""


async def positions(connection: AsyncConnection, table: str = "checkpoint") -> dict[int, int]:
    """How far touchpoints are folded, by partition; `table`: of the live version, or REBUILD_CHECKPOINT."""
    rows = await fetch(connection, f"SELECT partition, position FROM {table} WHERE topic = $1", TOUCHPOINTS)
    return {row.partition: row.position for row in rows}


async def both_positions(connection: AsyncConnection) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Positions of the live version and of the one being made."""
    return await positions(connection), await positions(connection, REBUILD_CHECKPOINT)
