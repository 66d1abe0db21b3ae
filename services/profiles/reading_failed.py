"""The failed list: what the door refused and what could not be folded, newest first, of one workspace."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.cursors import FailedCursor
from services.profiles.reading import Values
from shared.database import fetch


class Refused(NamedTuple):
    """Refused at the door; `item` is sealed."""

    received_at: int
    id: bytes
    source: str
    code: str
    path: str
    reason: str
    item: bytes
    closed: str
    closed_at: int


class Parked(NamedTuple):
    """Could not be folded; `bytes` is the fact, or the whole record where `place` is -1."""

    parked_at: int
    topic: str
    partition: int
    position: int
    place: int
    source: str
    reason: str
    code_version: str
    sealing_key: str
    closed: str
    closed_at: int
    bytes: bytes


Failure = Refused | Parked
_REFUSED, _PARKED = ", ".join(Refused._fields), ", ".join(Parked._fields)


def cursor_at(failure: Failure) -> FailedCursor:
    """Where a failure stands in the list."""
    if isinstance(failure, Refused):
        return FailedCursor(failure.received_at, failure.id)
    return FailedCursor(failure.parked_at, b"", failure.topic, failure.partition, failure.position, failure.place)


class Which(NamedTuple):
    """Which failures: `state` open, closed or all · `what` refused, parked or "" for both · `source` "" for every."""

    state: str = "open"
    what: str = ""
    source: str = ""


async def failures(
    connection: AsyncConnection, workspaces: Sequence[str], which: Which, after: FailedCursor | None, limit: int
) -> list[Failure]:
    """One page, newest first; of one instant the refused ones come first."""
    found: list[Failure] = []
    if which.what != "parked":
        rows = await _rows(connection, workspaces, which, _refused_after(after), limit)
        found += [Refused(*row) for row in rows]
    if which.what != "refused":
        rows = await _rows(connection, workspaces, which, _parked_after(after), limit)
        found += [Parked(*row) for row in rows]
    return sorted(found, key=_order, reverse=True)[:limit]


def _order(failure: Failure) -> tuple[Any, ...]:
    if isinstance(failure, Refused):
        return failure.received_at, 1, failure.id
    return failure.parked_at, 0, failure.topic, failure.partition, failure.position, failure.place


class _Part(NamedTuple):
    select: str
    test: str
    values: tuple[Any, ...]
    order: str


def _refused_after(after: FailedCursor | None) -> _Part:
    select, order = f"SELECT {_REFUSED} FROM failed", "received_at DESC, id DESC"
    if after is None:
        return _Part(select, "", (), order)
    if after.id:
        return _Part(select, "AND (received_at, id) < ($2, $3)", (after.at, after.id), order)
    return _Part(select, "AND received_at < $2", (after.at,), order)


def _parked_after(after: FailedCursor | None) -> _Part:
    select = f"SELECT {_PARKED} FROM parked"
    order = "parked_at DESC, topic DESC, partition DESC, position DESC, place DESC"
    if after is None:
        return _Part(select, "", (), order)
    if after.id:
        return _Part(select, "AND parked_at <= $2", (after.at,), order)
    test = "AND (parked_at, topic, partition, position, place) < ($2, $3, $4, $5, $6)"
    return _Part(select, test, (after.at, after.topic, after.partition, after.position, after.place), order)


async def _rows(
    connection: AsyncConnection, workspaces: Sequence[str], which: Which, part: _Part, limit: int
) -> list[Any]:
    values = Values([list(workspaces), *part.values])
    test = part.test + {"open": " AND closed = ''", "closed": " AND closed <> ''"}.get(which.state, "")
    if which.source:
        test += f" AND source = {values.add(which.source)}"
    statement = f"{part.select} WHERE workspace = ANY($1) {test} ORDER BY {part.order} LIMIT {values.add(limit)}"
    return await fetch(connection, statement, *values)


async def refused(connection: AsyncConnection, workspace: str, identity: bytes) -> Refused | None:
    """One refused item."""
    statement = f"SELECT {_REFUSED} FROM failed WHERE workspace = $1 AND id = $2"
    rows = await fetch(connection, statement, workspace, identity)
    return Refused(*rows[0]) if rows else None


async def parked(
    connection: AsyncConnection, workspaces: Sequence[str], topic: str, partition: int, position: int, place: int
) -> Parked | None:
    """One parked fact."""
    statement = f"""SELECT {_PARKED} FROM parked WHERE workspace = ANY($1) AND topic = $2 AND partition = $3
AND position = $4 AND place = $5"""
    rows = await fetch(connection, statement, list(workspaces), topic, partition, position, place)
    return Parked(*rows[0]) if rows else None
