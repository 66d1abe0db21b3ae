"""The failed list: what the door refused and what could not be folded, newest first, of one workspace."""

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
    bytes: bytes


Failure = Refused | Parked
_REFUSED, _PARKED = ", ".join(Refused._fields), ", ".join(Parked._fields)


def cursor_at(failure: Failure) -> FailedCursor:
    """Where a failure stands in the list."""
    if isinstance(failure, Refused):
        return FailedCursor(failure.received_at, failure.id)
    return FailedCursor(failure.parked_at, b"", failure.topic, failure.partition, failure.position, failure.place)


async def failures(
    connection: AsyncConnection, workspace: str, after: FailedCursor | None, limit: int
) -> list[Failure]:
    """One page, newest first; of one instant the refused ones come first."""
    found: list[Failure] = [
        *(Refused(*row) for row in await _rows(connection, workspace, _refused_after(after), limit)),
        *(Parked(*row) for row in await _rows(connection, workspace, _parked_after(after), limit)),
    ]
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


async def _rows(connection: AsyncConnection, workspace: str, part: _Part, limit: int) -> list[Any]:
    values = Values([workspace, *part.values])
    statement = f"{part.select} WHERE workspace = $1 {part.test} ORDER BY {part.order} LIMIT {values.add(limit)}"
    return await fetch(connection, statement, *values)


async def refused(connection: AsyncConnection, workspace: str, identity: bytes) -> Refused | None:
    """One refused item."""
    statement = f"SELECT {_REFUSED} FROM failed WHERE workspace = $1 AND id = $2"
    rows = await fetch(connection, statement, workspace, identity)
    return Refused(*rows[0]) if rows else None


async def parked(
    connection: AsyncConnection, workspace: str, topic: str, partition: int, position: int, place: int
) -> Parked | None:
    """One parked fact."""
    statement = f"""SELECT {_PARKED} FROM parked WHERE workspace = $1 AND topic = $2 AND partition = $3
AND position = $4 AND place = $5"""
    rows = await fetch(connection, statement, workspace, topic, partition, position, place)
    return Parked(*rows[0]) if rows else None
