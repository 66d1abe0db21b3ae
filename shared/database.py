"""The database port's ground floor: one engine per service on SQLite or PostgreSQL, and rows that travel as sets.

A service owns one SQLite file or one PostgreSQL schema. `transaction()` is the only way to write: on SQLite
`BEGIN IMMEDIATE` on the one writing connection, on PostgreSQL READ COMMITTED with time-outs below the take-over
time. `snapshot()` is a read in which every statement sees the same instant.
"""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, SmallInteger, Table, Text, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.ending import is_being_cancelled
from shared.errors import Retryable
from shared.sqlite_connection import BEGIN_WRITING, BUSY_MS, LoopConnection, connect, with_marks
from shared.sqlite_group import Briefly

SQLITE_VARIABLES_MAX = 1_000
"""SQLite takes 32,766; a statement of fewer holds nobody up."""
TAKE_OVER_MS = 6_000
"""A worker that is silent for so long is replaced; its database session must be dead before (design §7)."""

DATABASE_ERRORS = (DBAPIError, sqlite3.Error)
"""What a statement raises, beside Away: of SQLAlchemy, or of SQLite itself."""

_AWAY_STATES = ("08", "40", "53", "55P03", "57", "25P03", "25P04")
"""PostgreSQL: no connection, rolled back for another, no resources, lock not free in time, shutting down, too slow."""
_AWAY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

_ARRAY_TYPES = {
    LargeBinary: "bytea", BigInteger: "bigint", Integer: "integer", SmallInteger: "smallint", Text: "text",
    Boolean: "boolean",
}  # fmt: skip


_PAGES = ("cache_size=-16384", "wal_autocheckpoint=16384", "secure_delete=ON")
"""16 MiB for each of some six connections; 64 MiB until a page that is written again and again goes into the file; what
is deleted or freed is overwritten."""
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", *_PAGES)

Connection = AsyncConnection | LoopConnection
"""What statements run on: SQLAlchemy's connection, or SQLite's own in a brief transaction."""


class Away(Retryable):
    """The database does not answer; nothing, or nobody knows what, of the transaction was committed."""

    code = "database_away"


class Database:
    """One service's database. Use `open_database` to make one."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, path: Path | None = None) -> None:
        """`path`: the file of a SQLite database."""
        self._writer, self._reader = writer, reader
        self.is_sqlite = path is not None
        self._briefly = None if path is None else Briefly(path, PRAGMAS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A writing transaction: commits at the end of the block, rolls back on any exception. Raises Away."""
        with _away():
            async with self._alone(), self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def brief_transaction(self, hurried: bool = True) -> AsyncIterator[Connection]:
        """A writing transaction of a few statements that touch rows by their keys: on SQLite in the event loop.

        There those that wait for each other share one commit, and one that is not `hurried` waits for one. Raises Away.
        """
        if self._briefly is None:
            async with self.transaction() as connection:
                yield connection
            return
        with _away():
            async with self._briefly.group.transaction(hurried) as brief:
                yield brief

    def turn(self) -> AbstractAsyncContextManager[None]:
        """The turn to write, where one writes after another: taken over by this task's next brief transaction inside.

        Whoever collects its work after it got the turn has what came in meanwhile, too.
        """
        return nullcontext() if self._briefly is None else self._briefly.group.turn()

    def _alone(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._briefly is None else self._briefly.group.alone()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A read-only connection on which every statement sees one and the same instant. Raises Away."""
        with _away():
            async with self._reader.connect() as connection:
                if not self.is_sqlite:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def brief_snapshot(self) -> AsyncIterator[Connection]:
        """A `snapshot` of a few statements that read few rows: on SQLite in the event loop. Raises Away."""
        if self._briefly is None:
            async with self.snapshot() as connection:
                yield connection
            return
        with _away():
            async with self._briefly.snapshot() as brief:
                yield brief

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Any]:
        """The driver's own connection outside every transaction, for VACUUM and checkpoints. Raises Away."""
        with _away():
            async with self._alone(), self._writer.connect() as connection:
                yield (await connection.get_raw_connection()).driver_connection

    async def close(self) -> None:
        """Close every connection."""
        if self._briefly is not None:
            await self._briefly.close()
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def open_database(url: str, data_dir: Path, service: str) -> Database:
    """The database of `service`: its schema in the PostgreSQL at `url`, or `<data_dir>/<service>.db` without one."""
    return _postgresql(url, service) if url else _sqlite(data_dir / f"{service}.db")


def _sqlite(path: Path) -> Database:
    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite+aiosqlite", database=str(path))
    make: dict[str, Any] = {"async_creator": partial(connect, path), "pool_timeout": 60, "hide_parameters": True}
    writer = create_async_engine(url, pool_size=1, max_overflow=0, **make)
    reader = create_async_engine(url, pool_size=4, max_overflow=0, **make)
    for engine, begin in ((writer, BEGIN_WRITING), (reader, "BEGIN")):
        _begin_with(engine, begin)
    return Database(writer, reader, path)


def _begin_with(engine: AsyncEngine, begin: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def began(connection: Any) -> None:
        connection.exec_driver_sql(begin)


def _postgresql(url: str, service: str) -> Database:
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    settings = {
        "search_path": service,
        "application_name": f"raftar-{service}",
        "idle_in_transaction_session_timeout": str(TAKE_OVER_MS - 1_000),
        "transaction_timeout": str(TAKE_OVER_MS - 500),
        "lock_timeout": str(TAKE_OVER_MS - 2_000),
        "jit": "off",
    }
    engine = create_async_engine(
        parsed, pool_size=8, max_overflow=8, hide_parameters=True, connect_args={"server_settings": settings}
    )  # `hide_parameters`: an error's text may reach a log line, a statement's values never
    return Database(engine, engine)


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_away(error):
            if is_being_cancelled():  # the cancelling met the driver, and came out as an error of its own
                raise asyncio.CancelledError from error
            raise Away(f"the database does not answer now ({type(error).__name__}); try again") from error
        raise


def is_away(error: Exception) -> bool:
    """Whether the database is gone, going, or too busy to answer: what was asked may work a moment later."""
    if isinstance(error, OSError | PoolTimeout) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error  # connecting raises the driver's own errors
    state: str = getattr(cause, "sqlstate", None) or ""
    code: int = getattr(cause, "sqlite_errorcode", None) or 0
    return state.startswith(_AWAY_STATES) or code & 0xFF in _AWAY_CODES


@asynccontextmanager
async def savepoint(connection: Connection, *given_up: type[Exception]) -> AsyncIterator[None]:
    """What is written inside is taken back by one of `given_up`, and so are the locks PostgreSQL took for it.

    Any other exception ends the whole transaction.
    """
    await execute(connection, "SAVEPOINT attempt")
    try:
        yield
    except given_up:
        await execute(connection, "ROLLBACK TO SAVEPOINT attempt")
        raise
    await execute(connection, "RELEASE SAVEPOINT attempt")


# --- rows as sets -------------------------------------------------------------------------------------------


def array_type(table: Table, column: str) -> str:
    """The PostgreSQL element type of a column, for `unnest`."""
    for kind, name in _ARRAY_TYPES.items():
        if type(table.c[column].type) is kind:
            return name
    raise TypeError(f"{table.name}.{column} cannot travel as an array")


@lru_cache(256)
def _unnest(table: Table, columns: tuple[str, ...]) -> str:
    arrays = ", ".join(f"${n}::{array_type(table, column)}[]" for n, column in enumerate(columns, 1))
    return f"unnest({arrays})"


def _columns_of(rows: Sequence[Sequence[Any]]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


_NEW = re.compile(r"\bnew\.(\w+)")


async def insert_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    then: str = "",
    more: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Insert `rows` (tuples in the order of `columns`) in one statement; `then` is an ON CONFLICT clause.

    `more`: further columns with the expression that gives them, in which `new.x` is the row's own value of `x`.
    """
    if not rows:
        return
    names = ", ".join((*columns, *more))
    if is_sqlite(connection):
        given = [_NEW.sub(lambda match: f"?{columns.index(match[1]) + 1}", value) for value in more.values()]
        values = ", ".join([*(f"?{n}" for n in range(1, len(columns) + 1)), *given])
        await _sqlite_of(connection).many(f"INSERT INTO {table.fullname} ({names}) VALUES ({values}) {then}", rows)
        return
    values = ", ".join(("new.*", *more.values()))
    new = f"{_unnest(table, tuple(columns))} AS new({', '.join(columns)})"
    await _sqlalchemys(connection).exec_driver_sql(
        f"INSERT INTO {table.fullname} ({names}) SELECT {values} FROM {new} {then}", _columns_of(rows)
    )


async def insert_missing(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    key: Sequence[str],
) -> set[tuple[Any, ...]]:
    """Insert the rows whose key is not there yet; returns the keys that were new. Keys in `rows` are distinct."""
    if not rows:
        return set()
    if not is_sqlite(connection):
        names, keys = ", ".join(columns), ", ".join(key)
        statement = (
            f"INSERT INTO {table.fullname} ({names}) SELECT * FROM {_unnest(table, tuple(columns))} "
            f"ON CONFLICT DO NOTHING RETURNING {keys}"
        )
        result = await _sqlalchemys(connection).exec_driver_sql(statement, _columns_of(rows))
        return {tuple(row) for row in result}
    wanted = list(zip(*(map(itemgetter(columns.index(name)), rows) for name in key), strict=True))
    present = await _present(connection, table, key, wanted)
    if present:
        rows = [row for row, its_key in zip(rows, wanted, strict=True) if its_key not in present]
    await insert_rows(connection, table, columns, rows)
    return set(wanted) - present if present else set(wanted)


async def _present(
    connection: Connection, table: Table, key: Sequence[str], wanted: Sequence[tuple[Any, ...]]
) -> set[tuple[Any, ...]]:
    """Which keys are in the table (SQLite: inside BEGIN IMMEDIATE nobody else can insert meanwhile).

    A join in this order looks each key up. For `(keys) IN (VALUES …)` SQLite walks through the whole index instead.
    """
    found: set[tuple[Any, ...]] = set()
    names, marks = ", ".join(key), ", ".join("?" * len(key))
    wants = ", ".join(f"wanted_{name}" for name in key)
    same = " AND ".join(f"{name} = wanted_{name}" for name in key)
    for chunk in _chunks(wanted, SQLITE_VARIABLES_MAX // len(key)):
        values = ", ".join([f"({marks})"] * len(chunk))
        flat = tuple(chain.from_iterable(chunk))
        wanted_keys = f"WITH wanted ({wants}) AS (VALUES {values})"
        statement = f"{wanted_keys} SELECT {names} FROM wanted CROSS JOIN {table.fullname} ON {same}"
        found.update(await _sqlite_of(connection).rows(statement, flat))
    return found


async def update_rows(
    connection: Connection, table: Table, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Set `columns` of the row whose `key` is first in each tuple of `rows`."""
    if not rows:
        return
    if is_sqlite(connection):
        sets = ", ".join(f"{column} = ?{n}" for n, column in enumerate(columns, 2))
        await _sqlite_of(connection).many(f"UPDATE {table.fullname} SET {sets} WHERE {key} = ?1", rows)
        return
    names = (key, *columns)
    sets = ", ".join(f"{column} = new.{column}" for column in columns)
    statement = (
        f"UPDATE {table.fullname} AS old SET {sets} FROM {_unnest(table, names)} AS new({', '.join(names)}) "
        f"WHERE old.{key} = new.{key}"
    )
    await _sqlalchemys(connection).exec_driver_sql(statement, _columns_of(rows))


async def fetch(connection: Connection, statement: str, *values: Any) -> list[Any]:
    """Rows of a statement written for PostgreSQL (`$1`, `= ANY($2)` with a list); SQLite gets the same as `IN (…)`.

    At most one list; on SQLite it is cut into chunks below the limit of variables (so no ORDER BY with a list there
    means an order over all of it).
    """
    if not is_sqlite(connection):
        result = await _sqlalchemys(connection).exec_driver_sql(statement, tuple(values))
        return list(result) if result.returns_rows else []
    lists = [n for n, value in enumerate(values) if isinstance(value, list)]
    if not lists:
        return await _sqlite_fetch(connection, statement, values)
    rows: list[Any] = []
    for chunk in _chunks(values[lists[0]], SQLITE_VARIABLES_MAX):
        rows += await _sqlite_fetch(connection, statement, [*values[: lists[0]], chunk, *values[lists[0] + 1 :]])
    return rows


async def _sqlite_fetch(connection: Connection, statement: str, values: Sequence[Any]) -> list[Any]:
    lengths = tuple(len(value) if isinstance(value, list) else -1 for value in values)
    text, order = with_marks(statement, lengths)
    given = ([values[place]] if lengths[place] < 0 else values[place] for place in order)
    return await _sqlite_of(connection).rows(text, list(chain.from_iterable(given)))


async def execute(connection: Connection, statement: str, *values: Any) -> int:
    """Run one statement without rows (parameters as in `fetch`, no lists); returns how many rows it changed."""
    if is_sqlite(connection):
        text, order = with_marks(statement, (-1,) * len(values))
        return await _sqlite_of(connection).changed(text, [values[place] for place in order])
    return (await _sqlalchemys(connection).exec_driver_sql(statement, tuple(values))).rowcount


def is_sqlite(connection: Connection) -> bool:
    """Whether statements on this connection reach SQLite."""
    return isinstance(connection, LoopConnection) or connection.dialect.name == "sqlite"


def _sqlite_of(connection: Connection) -> LoopConnection:
    """The connection below SQLAlchemy's, whose way from greenlet to greenlet costs more than most of our statements."""
    if isinstance(connection, LoopConnection):
        return connection
    driver = connection.sync_connection.connection.driver_connection if connection.sync_connection else None
    if not isinstance(driver, LoopConnection):
        raise TypeError("a SQLite database is opened by open_database")
    return driver


def _sqlalchemys(connection: Connection) -> AsyncConnection:
    if isinstance(connection, LoopConnection):
        raise TypeError("this is SQLite")
    return connection


def _chunks(values: Sequence[Any], size: int) -> Iterable[list[Any]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
