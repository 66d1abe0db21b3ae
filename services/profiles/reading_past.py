"""What is read of the profiles database to tell a customer as of then: ties, touchpoints and decisions up to then.

Rows of touchpoints come in chunks, in the order of time, so that a large customer is never held whole.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.domain.decided import NEVER_AT, NO_RISK
from services.profiles.domain.identity import Assertion
from services.profiles.domain.past import Cut, Known, Seen, TooManyTies, Walk
from services.profiles.reading import SEPARATE_LEAVES_MAX, Standing, Values
from services.profiles.store import SELECT_EDGE
from shared import checkpoint
from shared.database import fetch
from shared.errors import InvalidField, TooLarge
from shared.topics import SEGMENT_CHANGES, TOUCHPOINTS

CHUNK_ROWS = 500
"""So many are folded at a time: a few hundredths of a second, then others are served."""
TOUCHPOINTS_MAX = 500_000
"""So many touchpoints are folded to tell one past; who has more is no person."""
READ_SECONDS = 120
INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Which:
    """Which touchpoints of these leaves: those that count under `cut`, of `kinds` (none: of all), behind `after`.

    `instant`: only those that occurred at this millisecond.
    """

    leaves: Sequence[bytes]
    cut: Cut
    kinds: Sequence[str] = ()
    after: tuple[int, bytes, bytes, int] | None = None
    instant: int | None = None


class AlertThen(NamedTuple):
    """An alert as known then, by its last word; `body`: that CloudEvent, b"" once erased."""

    id: bytes
    customer: bytes
    revision: int
    state: str
    recorded_at: int
    body: bytes


# --- who ------------------------------------------------------------------------------------------------------


async def known(connection: AsyncConnection, workspace: str, leaf: bytes, known_at: int) -> Known:
    """Who belonged together by what was recorded up to `known_at`. Raises InvalidField for a leaf tied to too many."""
    walk = Walk(leaf)
    try:
        while walk.wanted:
            walk.add(await _said(connection, workspace, sorted(walk.wanted), known_at))
    except TooManyTies:
        raise InvalidField("known_at", "this identifier is tied to too many others to tell who it was then") from None
    erased = "SELECT leaf FROM leaf WHERE leaf = ANY($1) AND erased"
    return walk.known([row.leaf for row in await fetch(connection, erased, sorted(walk.leaves))])


async def _said(connection: AsyncConnection, workspace: str, leaves: list[bytes], known_at: int) -> list[Assertion]:
    found = []
    for side in ("a", "b"):
        statement = f"{SELECT_EDGE} WHERE e.{side} = ANY($1) AND e.workspace = $2 AND e.recorded_at <= $3"
        found += await fetch(connection, statement, leaves, workspace, known_at)
    return [Assertion(row[0], row[1], bool(row[2]), bool(row[3]), bool(row[4]), row[5], row[6]) for row in found]


async def is_complete(connection: AsyncConnection, known_at: int) -> bool:
    """Whether everything recorded up to then is folded: no record of that time can still surface."""
    frontiers, _ = await checkpoint.standing(connection, TOUCHPOINTS)
    return bool(frontiers) and min(frontiers.values()) >= known_at


# --- what happened ----------------------------------------------------------------------------------------------


async def touchpoints(connection: AsyncConnection, workspace: str, which: Which) -> AsyncIterator[list[Seen]]:
    """The touchpoints, oldest first, in chunks; those whose body was erased are left out. Raises TooLarge."""
    after = which.after
    await take_time(connection)
    for _ in range(TOUCHPOINTS_MAX // CHUNK_ROWS):
        chunk = await _chunk(connection, workspace, which, after, CHUNK_ROWS)
        if chunk:
            yield chunk
        if len(chunk) < CHUNK_ROWS:
            return
        after = chunk[-1].order
    raise TooLarge(f"more than {TOUCHPOINTS_MAX} touchpoints would have to be folded to tell this")


async def take_time(connection: AsyncConnection) -> None:
    """Let this reading last longer than a step may: it holds no lock, nobody waits for it."""
    if connection.dialect.name != "sqlite":
        await connection.exec_driver_sql("SET LOCAL transaction_timeout = 0")  # a timer that runs is not set anew
        await connection.exec_driver_sql(f"SET LOCAL transaction_timeout = '{READ_SECONDS}s'")


async def _chunk(
    connection: AsyncConnection, workspace: str, which: Which, after: tuple[int, bytes, bytes, int] | None, limit: int
) -> list[Seen]:
    values = Values([workspace])
    tests = "".join(f" AND {test}" for test in _tests(which, after, values))
    order = f"ORDER BY occurred_at, id, scope, day LIMIT {limit}"
    select = f"SELECT {', '.join(Seen._fields)} FROM touchpoint WHERE workspace = $1 AND length(body) > 0{tests}"
    if len(which.leaves) <= SEPARATE_LEAVES_MAX:  # each leaf's rows come from its own range of the index
        pages = [f"SELECT * FROM ({select} AND leaf = {values.add(leaf)} {order}) AS page" for leaf in which.leaves]
        statement = f"SELECT * FROM ({' UNION ALL '.join(pages)}) AS pages {order}"
    else:
        statement = f"{select} AND leaf IN ({values.each(which.leaves)}) {order}"
    return [Seen(*row) for row in await fetch(connection, statement, *values)]


def _tests(which: Which, after: tuple[int, bytes, bytes, int] | None, values: Values) -> list[str]:
    tests = []
    if which.kinds:
        tests.append(f"kind IN ({values.each(which.kinds)})")
    if which.instant is not None:
        tests.append(f"occurred_at = {values.add(which.instant)}")
    if which.cut.as_of is not None:
        tests.append(f"occurred_at <= {values.add(which.cut.as_of)}")
    if which.cut.known_at is not None:
        tests.append(f"recorded_at <= {values.add(which.cut.known_at)}")
    if after is not None:
        tests.append(f"occurred_at >= {values.add(after[0])}")  # where the index begins to be read
        tests.append(f"(occurred_at, id, scope, day) > ({values.each(after)})")
    return tests


async def was_seen(connection: AsyncConnection, workspace: str, leaves: Sequence[bytes], known_at: int) -> bool:
    """Whether any touchpoint of these leaves was recorded up to then."""
    return bool(await _chunk(connection, workspace, Which(leaves, Cut(None, known_at)), None, 1))


# --- what was decided -------------------------------------------------------------------------------------------


async def standing(connection: AsyncConnection, workspace: str, root: bytes, cut: Cut) -> Standing | None:
    """The stage and the risk last decided about a customer, of what was recorded and speaks of up to then."""
    about = "workspace = $1 AND customer = $2 AND recorded_at <= $3 AND at <= $4"
    values = (workspace, root, *_ends(cut))
    stages = f"SELECT says, at, body FROM transition WHERE topic = $5 AND {about} ORDER BY number DESC LIMIT 1"
    risks = (
        f"SELECT risk_ppm, risk_at FROM transition WHERE {about} AND risk_at > $5 "
        "ORDER BY risk_at DESC, risk_ppm DESC LIMIT 1"
    )
    stage = await fetch(connection, stages, *values, SEGMENT_CHANGES)
    risk = await fetch(connection, risks, *values, NEVER_AT)
    if not stage and not risk:
        return None
    says, at, body = stage[0] if stage else ("", NEVER_AT, b"null")
    ppm, risk_at = risk[0] if risk else (NO_RISK, NEVER_AT)
    return Standing(says, at, ppm, risk_at, body or b"null")


async def alerts(connection: AsyncConnection, workspace: str, leaves: Sequence[bytes], cut: Cut) -> list[AlertThen]:
    """Every alert that was with one of these leaves, by its last word up to then, the newest word first."""
    known_at, as_of = _ends(cut)
    about = "workspace = $2 AND length(alert) > 0 AND recorded_at <= $3 AND at <= $4"  # as the index of alerts says it
    named = f"SELECT DISTINCT alert FROM transition WHERE customer = ANY($1) AND {about}"
    values = (workspace, known_at, as_of)
    ids = sorted({row.alert for row in await fetch(connection, named, list(leaves), *values)})
    if not ids:
        return []
    columns = "alert, customer, number, says, recorded_at, body"
    words = await fetch(connection, f"SELECT {columns} FROM transition WHERE alert = ANY($1) AND {about}", ids, *values)
    last: dict[bytes, AlertThen] = {}
    for word in map(AlertThen._make, words):
        if word.id not in last or word.revision > last[word.id].revision:
            last[word.id] = word
    mine = [alert for alert in last.values() if alert.customer in leaves]
    return sorted(mine, key=lambda alert: (-alert.recorded_at, alert.id))


def _ends(cut: Cut) -> tuple[int, int]:
    """(known_at, as_of) as numbers that cut nothing where none is given."""
    return INT64 if cut.known_at is None else cut.known_at, INT64 if cut.as_of is None else cut.as_of
