"""Versions of the profiles projection beside each other: the four tables that are folded from the log alone.

On PostgreSQL a version that is not live stands in a schema of its own. On SQLite it stands in the same file under other
names, because only within one file is a switch one transaction: in WAL mode a commit over several files is not atomic.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sqlalchemy import MetaData, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import quoted_name

from services.profiles import tables
from shared.database import Connection, execute, fetch, is_sqlite

Slot = Literal["next", "previous"]
"""Where a version stands that is not live."""

SERVICE = "profiles"
CLEARED_ROWS = 5_000
_KEPT: tuple[Slot, ...] = ("previous", "next")


@dataclass(frozen=True, slots=True)
class Version:
    """The tables of one version. Everything else (outbox, personal, parked, decided) stays with the live one."""

    leaf: Table
    touchpoint: Table
    edge: Table
    customer: Table

    @property
    def all(self) -> tuple[Table, ...]:
        """Its tables, in the order in which readers and steps lock them."""
        return self.leaf, self.edge, self.touchpoint, self.customer


LIVE = Version(tables.leaf, tables.touchpoint, tables.edge, tables.customer)


@lru_cache(maxsize=64)
def beside(slot: Slot, is_sqlite: bool, generation: int = 0) -> Version:
    """The tables of the version in `slot`. `generation`: keeps its indexes' names apart on SQLite, where they are one
    name space; a switch does not rename them.
    """
    metadata = MetaData()
    order = LIVE.leaf, LIVE.touchpoint, LIVE.edge, LIVE.customer
    if not is_sqlite:
        return Version(*(table.to_metadata(metadata, schema=schema_of(slot)) for table in order))
    made = [table.to_metadata(metadata, name=f"{slot}_{table.name}") for table in order]
    for index in [index for table in made for index in table.indexes]:
        index.name = quoted_name(f"{index.name}_{generation}", None)
    return Version(*made)


def schema_of(slot: Slot) -> str:
    """The PostgreSQL schema of a slot."""
    return f"{SERVICE}_{slot}"


async def make(connection: AsyncConnection, slot: Slot, generation: int) -> None:
    """Make the empty tables of a slot; leftovers of an earlier one go."""
    is_sqlite = connection.dialect.name == "sqlite"
    await drop(connection, slot)
    version = beside(slot, is_sqlite, generation)
    if not is_sqlite:
        await connection.execute(text(f"CREATE SCHEMA {schema_of(slot)}"))
    await connection.run_sync(lambda sync: version.leaf.metadata.create_all(sync, checkfirst=False))


async def exists(connection: Connection, slot: Slot) -> bool:
    """Whether a version stands in the slot."""
    if is_sqlite(connection):
        return bool(await fetch(connection, "SELECT 1 FROM sqlite_master WHERE name = $1", f"{slot}_leaf"))
    statement = "SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'leaf'"
    return bool(await fetch(connection, statement, schema_of(slot)))


async def drop(connection: AsyncConnection, slot: Slot) -> None:
    """Take the slot's tables away. On SQLite this takes long where they are full: `clear` them first."""
    if connection.dialect.name != "sqlite":
        await connection.execute(text(f"DROP SCHEMA IF EXISTS {schema_of(slot)} CASCADE"))
        return
    for table in beside(slot, True).all:
        await connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))


async def clear(connection: AsyncConnection, slot: Slot) -> bool:
    """Delete some rows of the slot's tables (SQLite alone needs it); False once they are empty."""
    if connection.dialect.name != "sqlite" or not await exists(connection, slot):
        return False
    for table in beside(slot, True).all:
        name = table.name
        inner = f"SELECT rowid FROM {name} LIMIT {CLEARED_ROWS}"
        if await execute(connection, f"DELETE FROM {name} WHERE rowid IN ({inner})"):
            return True
    return False


async def blank_kept(connection: Connection, leaf: bytes) -> None:
    """An erased leaf is forgotten at once by versions that fold nothing: the previous one, and one that failed.

    Rolling back, the previous one folds the erasure itself too.
    """
    for slot in _KEPT:
        if slot == "next" and not await fetch(connection, "SELECT 1 FROM rebuild WHERE phase = 'failed'"):
            continue
        if await exists(connection, slot):
            kept = beside(slot, is_sqlite(connection))
            await execute(connection, f"UPDATE {kept.touchpoint.fullname} SET body = $2 WHERE leaf = $1", leaf, b"")
            await execute(connection, f"UPDATE {kept.leaf.fullname} SET state = $2 WHERE leaf = $1", leaf, b"")


async def move(connection: AsyncConnection, come_from: Slot | None, go_to: Slot | None) -> None:
    """Move a version's tables; None is the live place. Whoever waits for them finds the new ones by the old names."""
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite and go_to is not None:
        await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema_of(go_to)}"))
    for table in LIVE.all:
        if is_sqlite:
            statement = f"ALTER TABLE {_sqlite_name(table, come_from)} RENAME TO {_sqlite_name(table, go_to)}"
        else:
            come, go = (SERVICE if slot is None else schema_of(slot) for slot in (come_from, go_to))
            statement = f"ALTER TABLE {come}.{table.name} SET SCHEMA {go}"
        await connection.execute(text(statement))


def _sqlite_name(table: Table, slot: Slot | None) -> str:
    return table.name if slot is None else f"{slot}_{table.name}"


# --- noting what is written -----------------------------------------------------------------------------------

_NOTE = f"""CREATE OR REPLACE FUNCTION {SERVICE}.note_touched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO {SERVICE}.rebuild_touched (leaf) SELECT leaf FROM written;
  RETURN NULL;
END $$"""
_EVENTS = ("insert", "update")


async def note_touched(connection: AsyncConnection) -> None:
    """From this transaction on every leaf written, in the live version or the next, is noted in `rebuild_touched`."""
    await forget_touched(connection)
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        await connection.execute(text(_NOTE))
    for name, table in (("live", LIVE.leaf), ("next", beside("next", is_sqlite).leaf)):
        for event in _EVENTS:
            if is_sqlite:
                statement = f"""CREATE TRIGGER touched_{name}_{event} AFTER {event} ON {table.name}
BEGIN INSERT INTO rebuild_touched (leaf) VALUES (new.leaf); END"""
            else:
                statement = f"""CREATE TRIGGER touched_{name}_{event} AFTER {event} ON {_qualified(table)}
REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION {SERVICE}.note_touched()"""
            await connection.execute(text(statement))


async def forget_touched(connection: AsyncConnection) -> None:
    """Note nothing any more, and forget what was noted."""
    if is_sqlite(connection):
        for name in ("live", "next"):
            for event in _EVENTS:
                await connection.execute(text(f"DROP TRIGGER IF EXISTS touched_{name}_{event}"))
    else:
        await connection.execute(text(f"DROP FUNCTION IF EXISTS {SERVICE}.note_touched() CASCADE"))
    await execute(connection, "DELETE FROM rebuild_touched")


def _qualified(table: Table) -> str:
    return table.fullname if table.schema else f"{SERVICE}.{table.name}"
