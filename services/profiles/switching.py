"""The one transaction that makes the version in the slot `next` the live one, and what surrounds it.

Under the live checkpoints' locks the made version folds what is left, is compared in what was written since the last
comparison, takes over live's versions, and changes places with the live tables. The raised epochs refuse every live
worker; they acquire again, on the new tables. Whatever fails, or dies, on the way leaves all as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import comparing, versions
from services.profiles.candidate import claims, parked_places, projection_beside, up_to
from shared import rebuild
from shared.checkpoint import Claim
from shared.database import Database, execute, fetch
from shared.errors import Conflict, LogMismatch, NotAccepting
from shared.log.port import Log
from shared.rebuild import SWITCHED, Live, Rebuild
from shared.topics import TOUCHPOINTS

NAME = "profiles"
PREVIOUS = "profiles.previous"
"""The row of `projection` that remembers the version which was live before."""
REST_RECORDS_MAX = 300
"""So many records may be left to fold while live waits."""
TOUCHED_MAX = 5_000
"""So many leaves may be left to compare while live waits."""


class NotYet(Conflict):
    """Live has moved on too far meanwhile: follow it and try again."""


class Differs(Conflict):
    """What was written since the comparison differs. Nothing was switched."""


@dataclass(frozen=True, slots=True)
class House:
    """What a switch needs beside its connection."""

    log: Log
    database: Database
    partitions: int


async def switch(connection: AsyncConnection, house: House, held: Rebuild, now_ms: int, accept: bool) -> Rebuild:
    """Make the version in the slot `next` live. `accept`: also when something differs.

    Returns the held row in the phase `switched`. Raises Fenced, NotYet, Differs, Stopped; then nothing has changed.
    """
    held = await rebuild.hold(connection, held)
    live = await _lock(connection)
    await _fold_rest(connection, house, live)
    await _settle(connection, accept)
    await _exchange(connection, held)
    await execute(
        connection, "UPDATE checkpoint SET epoch = epoch + 1, revision = revision + 1 WHERE topic = $1", TOUCHPOINTS
    )
    return await rebuild.hold(connection, held, phase=SWITCHED, wanted="", switched_at=now_ms, why="")


async def _lock(connection: AsyncConnection) -> Mapping[int, int]:
    """Every live worker waits from here on. Returns where they stand."""
    if connection.dialect.name != "sqlite":
        await connection.execute(text("SET LOCAL lock_timeout = '1500ms'"))
    statement = "SELECT partition, position FROM checkpoint WHERE topic = $1 ORDER BY partition FOR UPDATE"
    return {row.partition: row.position for row in await fetch(connection, statement, TOUCHPOINTS)}


async def _fold_rest(connection: AsyncConnection, house: House, goals: Mapping[int, int]) -> None:
    """Bring the made version to live's very positions, in this transaction."""
    projection = projection_beside(house.database, house.partitions, connection)
    found = await claims(connection)
    left = {partition: goal - found[partition].position for partition, goal in goals.items()}
    if sum(count for count in left.values() if count > 0) > REST_RECORDS_MAX:
        raise NotYet("live is too far ahead")
    for partition, goal in goals.items():
        claim: Claim = found[partition]
        while claim.position < goal:
            batch = await house.log.read(TOUCHPOINTS, partition, claim.position, wait_seconds=1.0)
            if batch.next_position == claim.position:
                raise NotAccepting("the log does not answer")
            whole, projection.skipped = await parked_places(connection, partition, batch)
            claim = await projection.fold(claim, up_to(batch, goal, whole))


async def _settle(connection: AsyncConnection, accept: bool) -> None:
    """Compare what was written since the comparison, and let no version go back."""
    leaves = await comparing.touched(connection, TOUCHED_MAX)
    if len(leaves) > TOUCHED_MAX:
        raise NotYet("too much was written since the comparison")
    differing, behind = await comparing.compare_some(connection, leaves)
    if differing and not accept:
        raise Differs(f"{len(differing)} leaves written since the comparison differ")
    await comparing.keep_differing(connection, differing, instead_of=leaves)
    await comparing.raise_to(connection, behind)
    await comparing.keep_lost(connection)


async def _exchange(connection: AsyncConnection, held: Rebuild) -> None:
    """The two versions change places; the one that was live is kept as the previous one."""
    await versions.forget_touched(connection)
    await versions.move(connection, None, "previous")
    await versions.move(connection, "next", None)
    before = await rebuild.live(connection, NAME)
    assert before is not None  # noqa: S101  # a service declares its projection before anything is folded
    await rebuild.declare(connection, PREVIOUS, before.fold_version)
    await rebuild.make_live(connection, replace(before, name=PREVIOUS))
    await rebuild.make_live(connection, Live(NAME, held.generation, held.fold_version))


async def roll_back(connection: AsyncConnection, held: Rebuild) -> Rebuild:
    """The previous version becomes the one that is made: it folds on from where it was switched away from, is compared
    and switched to, whatever differs. Raises Conflict when the tables were changed since.
    """
    if not await versions.exists(connection, "previous"):
        raise Conflict("the version before was dropped: there is nothing to roll back to")
    if held.schema_revision != await schema_revision(connection):
        raise Conflict("the tables were migrated since the switch: rebuild again instead of rolling back")
    before = await rebuild.live(connection, PREVIOUS)
    assert before is not None  # noqa: S101  # the switch wrote it
    await versions.move(connection, "previous", "next")
    changes: dict[str, Any] = {"generation": before.generation, "fold_version": before.fold_version}
    return await rebuild.hold(
        connection, held, phase=rebuild.FILLING, kind="rollback", wanted="switch_anyway", report=b"", why="", **changes
    )


async def schema_revision(connection: AsyncConnection) -> str:
    """The revision of the service's tables."""
    rows = await fetch(connection, "SELECT version_num FROM alembic_version")
    return str(rows[0].version_num) if rows else ""


async def begin(house: House, now_ms: int, fold_version: int, wanted: rebuild.Wish) -> None:
    """Begin a rebuild: an empty version in the slot `next`, to be folded by whoever takes it up.

    Raises Conflict when there is one already, LogMismatch when the log is not the one live was folded from.
    """
    identity, bounds = await house.log.identity(TOUCHPOINTS), await house.log.bounds(TOUCHPOINTS)
    async with house.database.transaction() as connection:
        rows = await fetch(connection, "SELECT log_identity FROM checkpoint WHERE topic = $1", TOUCHPOINTS)
        if any(row.log_identity != identity for row in rows):
            raise LogMismatch("live was folded from another log: a rebuild could not be compared with it")
        live = await rebuild.declare(connection, NAME, fold_version)
        revision = await schema_revision(connection)
        generation = live.generation + 1
        folded_by = (fold_version, revision)
        new = Rebuild(
            NAME, generation, "rebuild", rebuild.FILLING, wanted, 0, 0, *folded_by, now_ms, 0, 0, "", b"", b""
        )
        await rebuild.begin(connection, new)
        await versions.make(connection, "next", generation)
        await execute(connection, "DELETE FROM rebuild_checkpoint")
        statement = """INSERT INTO rebuild_checkpoint (topic, partition, epoch, revision, position, frontier,
last_position, last_checksum, log_identity) VALUES ($1, $2, 1, 1, $3, -1, -1, 0, $4)"""
        for partition, (earliest, _) in sorted(bounds.items()):
            await execute(connection, statement, TOUCHPOINTS, partition, earliest, identity)


async def finish(connection: AsyncConnection, held: Rebuild) -> None:
    """Nothing stands beside the live version any more."""
    await versions.forget_touched(connection)
    for slot in ("next", "previous"):
        await versions.drop(connection, slot)
    for table in ("rebuild_checkpoint", "rebuild_differing"):
        await execute(connection, f"DELETE FROM {table}")
    await execute(connection, "DELETE FROM projection WHERE name = $1", PREVIOUS)
    await rebuild.end(connection, held)
