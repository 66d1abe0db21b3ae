"""What every rebuild of a projection has in common: one row that says how far it is, who does it, and what is wanted.

A rebuild runs in any one process of its service. Whoever does it *holds* it under an epoch and beats; a process that
sees no beat for a while seizes it by raising the epoch, and the replaced one is refused (`Fenced`) from there on.
Commands of people are written into the row and carried out by the holder, so REST of every process can take them.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.database import execute, fetch
from shared.errors import Conflict, Fenced

Phase = Literal["filling", "comparing", "ready", "switched", "dropping", "failed"]
"""filling: folds the log beside live · comparing: digests at equal positions · ready: follows live and waits to be
switched to · switched: it is live, the previous version is kept · dropping: what is not live is taken away · failed: it
cannot go on, `why` says what to do."""

Wish = Literal["", "switch", "switch_anyway", "rollback", "drop"]
"""What a person wants next. `switch_anyway`: also when something differs."""

FILLING: Phase = "filling"
COMPARING: Phase = "comparing"
READY: Phase = "ready"
SWITCHED: Phase = "switched"
DROPPING: Phase = "dropping"
FAILED: Phase = "failed"

SILENT_SECONDS = 6.0
"""A holder that has not beaten for so long is replaced."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The row. `generation`: number of the version being made · `kind`: rebuild or rollback · `fold_version`: of the
    code that makes it · `schema_revision`: of the tables · `beat` only grows · `report`: what the comparison found, and
    `pace`: rate, lag and time left, both JSON · times in epoch ms, 0 = not yet.
    """

    name: str
    generation: int
    kind: str
    phase: Phase
    wanted: Wish
    epoch: int
    beat: int
    fold_version: int
    schema_revision: str
    started_at: int
    compared_at: int
    switched_at: int
    why: str
    report: bytes
    pace: bytes


@dataclass(frozen=True, slots=True)
class Live:
    """Which version is live. `fold_version`: of the code that folded it from the start."""

    name: str
    generation: int
    fold_version: int


_COLUMNS = tuple(Rebuild.__dataclass_fields__)
_CHANGING = set(_COLUMNS) - {"name", "epoch", "beat"}


def rebuild_table(metadata: MetaData) -> Table:
    """The table of running and finished rebuilds; one row a projection."""
    texts, blobs = {"name", "kind", "phase", "wanted", "schema_revision", "why"}, {"report", "pace"}
    columns = (
        Column(
            name,
            Text() if name in texts else LargeBinary() if name in blobs else BigInteger(),
            nullable=False,
            primary_key=name == "name",
        )
        for name in _COLUMNS
    )
    return Table("rebuild", metadata, *columns)


def projection_table(metadata: MetaData) -> Table:
    """The table that says which version of a projection is live."""
    return Table(
        "projection",
        metadata,
        Column("name", Text, primary_key=True),
        Column("generation", BigInteger, nullable=False),
        Column("fold_version", BigInteger, nullable=False),
    )


async def live(connection: AsyncConnection, name: str) -> Live | None:
    """The live version; None before the service ran first."""
    rows = await fetch(connection, "SELECT name, generation, fold_version FROM projection WHERE name = $1", name)
    return Live(*rows[0]) if rows else None


async def declare(connection: AsyncConnection, name: str, fold_version: int) -> Live:
    """Note the fold version of a projection that begins now; one that is there keeps its own."""
    statement = "INSERT INTO projection (name, generation, fold_version) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING"
    await execute(connection, statement, name, fold_version)
    found = await live(connection, name)
    assert found is not None  # noqa: S101  # inserted above
    return found


async def make_live(connection: AsyncConnection, now: Live) -> None:
    """Another version is live from here on."""
    statement = "UPDATE projection SET generation = $2, fold_version = $3 WHERE name = $1"
    await execute(connection, statement, now.name, now.generation, now.fold_version)


async def load(connection: AsyncConnection, name: str) -> Rebuild | None:
    """The rebuild of a projection, running or finished; None when there is none."""
    statement = f"SELECT {', '.join(_COLUMNS)} FROM rebuild WHERE name = $1"
    rows = await fetch(connection, statement, name)
    return Rebuild(*rows[0]) if rows else None


async def begin(connection: AsyncConnection, new: Rebuild) -> None:
    """Begin a rebuild. Raises Conflict when there is one already, also a finished one whose old version is kept."""
    known = await load(connection, new.name)
    if known is not None:
        raise Conflict(_occupied(known))
    marks = ", ".join(f"${n}" for n in range(1, len(_COLUMNS) + 1))
    statement = f"INSERT INTO rebuild ({', '.join(_COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    if not await execute(connection, statement, *(getattr(new, name) for name in _COLUMNS)):
        raise Conflict("a rebuild was begun at this very moment; ask for its status")


async def ask(connection: AsyncConnection, known: Rebuild, wanted: Wish) -> None:
    """Write down what a person wants of the rebuild as it stands in `known`. Raises Conflict when it moved on."""
    statement = "UPDATE rebuild SET wanted = $2 WHERE name = $1 AND phase = $3 AND generation = $4"
    if not await execute(connection, statement, known.name, wanted, known.phase, known.generation):
        raise Conflict("the rebuild has moved on meanwhile; look at its status and ask again")


async def seize(connection: AsyncConnection, known: Rebuild) -> Rebuild:
    """Hold the rebuild; whoever held it is refused from here on. Raises Fenced when somebody else was quicker."""
    statement = """UPDATE rebuild SET epoch = epoch + 1, beat = beat + 1
WHERE name = $1 AND epoch = $2 AND beat = $3 RETURNING epoch, beat"""
    rows = await fetch(connection, statement, known.name, known.epoch, known.beat)
    if not rows:
        raise Fenced("another process holds the rebuild")
    return replace(known, epoch=rows[0].epoch, beat=rows[0].beat)


async def hold(connection: AsyncConnection, held: Rebuild, **changes: Any) -> Rebuild:
    """Beat, and change columns of the held row in this transaction. Raises Fenced.

    Returns the row as it is now; what a person wanted meanwhile is in it.
    """
    sets = "".join(f", {name} = ${n}" for n, name in enumerate(changes, 3))
    if not changes.keys() <= _CHANGING:
        raise ValueError("no such column to change")
    statement = f"""UPDATE rebuild SET beat = beat + 1{sets} WHERE name = $1 AND epoch = $2
RETURNING {", ".join(_COLUMNS)}"""
    rows = await fetch(connection, statement, held.name, held.epoch, *changes.values())
    if not rows:
        raise Fenced("another process holds the rebuild")
    return Rebuild(*rows[0])


async def end(connection: AsyncConnection, held: Rebuild) -> None:
    """The row goes: nothing stands beside the live version any more. Raises Fenced."""
    statement = "DELETE FROM rebuild WHERE name = $1 AND epoch = $2"
    if not await execute(connection, statement, held.name, held.epoch):
        raise Fenced("another process holds the rebuild")


def _occupied(known: Rebuild) -> str:
    if known.phase == SWITCHED:
        return "the version before the last switch is still kept: drop it, or roll back to it, before the next rebuild"
    return f"a rebuild is under way ({known.phase}): look at its status, or abandon it"


# --- progress -------------------------------------------------------------------------------------------------


class Pace(msgspec.Struct, frozen=True):
    """How it goes, as the holder saw it last. `share`: of the time, as the throttle allows · `waiting`: live is behind,
    so nothing is done now.
    """

    records_per_second: float = 0.0
    events_per_second: float = 0.0
    live_lag_seconds: float = 0.0
    share: float = 0.0
    waiting: bool = False


def done_share(positions: dict[int, int], goals: dict[int, int]) -> float:
    """How much of the log up to live's positions is folded, 0..1; an empty log is done."""
    total = sum(goals.values())
    done = sum(min(positions.get(partition, 0), goal) for partition, goal in goals.items())
    return 1.0 if total <= 0 else min(1.0, done / total)


def seconds_left(positions: dict[int, int], goals: dict[int, int], records_per_second: float) -> float | None:
    """How long the rest takes at this rate; None while nothing is known about the rate."""
    left = sum(max(0, goal - positions.get(partition, 0)) for partition, goal in goals.items())
    if not left:
        return 0.0
    return left / records_per_second if records_per_second > 0 else None


class Silence:
    """Tells from repeated looks whether a holder has stopped beating. Nobody's clock but ours is asked."""

    def __init__(self, patience_seconds: float = SILENT_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def look(self, row: Rebuild, at: float) -> bool:
        """Whether (epoch, beat) has stood still for our patience, or was never held (epoch 0). `at`: monotonic."""
        if (row.epoch, row.beat) != self._seen:
            self._seen, self._since = (row.epoch, row.beat), at
        return row.epoch == 0 or at - self._since >= self._patience_seconds
