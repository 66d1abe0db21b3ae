"""The one transaction in which those who differ are put right, the way back, and what surrounds them.

What was made equals live for everybody else, so that to make it live is to exchange the customers who differ. It is
done under the locks of their rows: whoever decides about them waits and goes on from what stands then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import comparing, recall
from services.scoring.comparing import PAGE, STATE, Columns, Side, columns_of
from services.scoring.domain.rows import AlertRow
from services.scoring.domain.step import Rules
from shared import rebuild
from shared.database import Database, execute, fetch
from shared.errors import Conflict, LogMismatch, NotAccepting
from shared.log.port import Log
from shared.rebuild import FILLING, SWITCHED, Rebuild, Wish
from shared.topics import PROFILE_CHANGES

NAME = "scoring"
REBUILD = "rebuild"
DIFFERING_MAX = 5_000
"""So many customers are put right at once, while live waits; where more differ, the whole is better brought back."""
REST_RECORDS_MAX = 300
"""So many records may be left to read while live waits."""


class NotYet(Conflict):
    """Live has said too much meanwhile: read it and try again."""


class TooMany(Conflict):
    """More differ than are put right at once."""


class Image(msgspec.Struct, frozen=True, array_like=True):
    """A customer's row and alerts as they stand in their tables; `raw`: None = no row.

    No profile is in it: the row that stands has it, and one that is erased is kept nowhere else.
    """

    raw: tuple[Any, ...] | None
    alerts: tuple[AlertRow, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_image = msgspec.msgpack.Decoder(Image).decode


@dataclass(frozen=True, slots=True)
class House:
    """What a rebuild needs beside its connection. `rules` of a workspace."""

    log: Log
    database: Database
    rules: Callable[[str], Rules]
    partitions: int


async def begin(house: House, now_ms: int, wanted: Wish) -> None:
    """Begin a rebuild. Raises Conflict when there is one already, LogMismatch when live belongs to another log."""
    identity = await house.log.identity(PROFILE_CHANGES)
    async with house.database.transaction() as connection:
        rows = await fetch(connection, "SELECT log_identity FROM checkpoint WHERE topic = $1", PROFILE_CHANGES)
        if any(row.log_identity != identity for row in rows):
            raise LogMismatch("live was decided from another log: a rebuild could not be compared with it")
        row = Rebuild(NAME, 1, REBUILD, FILLING, wanted, 0, 0, 1, "", now_ms, 0, 0, "", b"", b"")
        await rebuild.begin(connection, row)
        await comparing.forget(connection)
        await recall.let_go(connection)


async def switch(connection: AsyncConnection, house: House, held: Rebuild, now_ms: int) -> Rebuild:
    """Put right everybody who differed and differs still. Returns the held row in the phase `switched`.

    Raises Fenced, NotYet, TooMany; then nothing has changed.
    """
    held = await rebuild.hold(connection, held)
    await _allow_time(connection)
    customers = await comparing.differing_customers(connection, DIFFERING_MAX + 1)
    if len(customers) > DIFFERING_MAX:
        raise TooMany(f"more than {DIFFERING_MAX} customers differ: bring the whole database back instead")
    await comparing.lock(connection, customers)
    await recall.hear_pending(connection, customers)
    await _read_rest(connection, house)
    for start in range(0, len(customers), PAGE):
        page = customers[start : start + PAGE]
        for customer, side in (await comparing.sides(connection, page, house.rules, house.partitions)).items():
            await _put_right(connection, customer, side)
    return await rebuild.hold(connection, held, phase=SWITCHED, wanted="", switched_at=now_ms, why="")


async def _put_right(connection: AsyncConnection, customer: bytes, side: Side) -> None:
    if not side.fields:  # live spoke of them since, and that was right
        await execute(connection, "DELETE FROM rebuild_differing WHERE customer = $1", customer)
        return
    made = columns_of(side.made.row)
    await comparing.write(connection, customer, made, side.made.alerts, [row.id for row in side.live.alerts])
    statement = 'UPDATE rebuild_differing SET "before" = $2, "after" = $3 WHERE customer = $1'
    before, after = Image(_faceless(side.raw), side.live.alerts), Image(_faceless(made), side.made.alerts)
    await execute(connection, statement, customer, _encode(before), _encode(after))


async def _read_rest(connection: AsyncConnection, house: House) -> None:
    """Read what was said till now, in this transaction."""
    known = await recall.positions(connection)
    bounds = [(topic, await house.log.bounds(topic)) for topic in recall.TOPICS]
    left = {
        (topic, partition): (max(earliest, known.get((topic, partition), 0)), end)
        for topic, ends in bounds
        for partition, (earliest, end) in sorted(ends.items())
    }
    if sum(max(0, end - position) for position, end in left.values()) > REST_RECORDS_MAX:
        raise NotYet("live has said too much meanwhile")
    for (topic, partition), (begun, end) in left.items():
        position = begun
        while position < end:
            batch = await house.log.read(topic, partition, position, wait_seconds=1.0)
            if batch.next_position == position:
                raise NotAccepting("the log does not answer")
            await recall.take(connection, topic, partition, batch)
            position = batch.next_position


async def roll_back(connection: AsyncConnection, held: Rebuild) -> int:
    """Put back those who stand as the switch left them, and end the rebuild; returns how many were put back.

    Whoever was decided about since keeps that: it was said. Raises Fenced.
    """
    held = await rebuild.hold(connection, held)
    await _allow_time(connection)
    customers = await comparing.differing_customers(connection, DIFFERING_MAX)
    await comparing.lock(connection, customers)
    statement = 'SELECT customer, "before", "after" FROM rebuild_differing WHERE customer = ANY($1) ORDER BY customer'
    back = 0
    for start in range(0, len(customers), PAGE):
        for row in await fetch(connection, statement, customers[start : start + PAGE]):
            before, after = _image(row.before), _image(row.after)
            if await _stands(connection, row.customer, after):
                was = [alert.id for alert in after.alerts]
                raw = _with_profile(before.raw, await comparing.columns(connection, row.customer))
                await comparing.write(connection, row.customer, raw, before.alerts, was)
                back += 1
    await finish(connection, held)
    return back


async def _stands(connection: AsyncConnection, customer: bytes, image: Image) -> bool:
    """Whether nothing was decided about a customer since."""
    now = _faceless(await comparing.columns(connection, customer))
    return now == image.raw and await comparing.alerts_of(connection, customer) == image.alerts


def _faceless(raw: Columns | None) -> Columns | None:
    """A row without its profile; whenever that changes, its version does."""
    return None if raw is None else (*raw[:STATE], b"", *raw[STATE + 1 :])


def _with_profile(raw: Columns | None, now: Columns | None) -> Columns | None:
    """A row kept without its profile, with the one that stands."""
    return raw if raw is None or now is None else (*raw[:STATE], now[STATE], *raw[STATE + 1 :])


async def finish(connection: AsyncConnection, held: Rebuild) -> None:
    """Nothing stands beside live any more."""
    await comparing.forget(connection)
    await recall.let_go(connection)
    await rebuild.end(connection, held)


async def _allow_time(connection: AsyncConnection) -> None:
    """Many customers are put right in one transaction; whoever waits for them gives up and tries again."""
    if connection.dialect.name != "sqlite":
        for setting in ("transaction_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"SET LOCAL {setting} = '60s'"))
