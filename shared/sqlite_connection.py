"""SQLite's connection: a brief transaction runs in the event loop, everything else in the connection's thread.

aiosqlite hands every call to its thread, four of them a statement. There it gives the interpreter lock back for every
row it reads or writes, and beside a busy event loop waits 5 ms for it each time: a thousand rows take seconds. In the
loop they take milliseconds. After a call that took long the next ones go to the thread: neither a slow disk nor a cold
cache holds the loop up twice in a row.
"""

import asyncio
import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import aiosqlite

from shared.clock import SystemClock

BEGIN_WRITING = "BEGIN IMMEDIATE"
BUSY_MS = 30_000
ROWS_AT_ONCE = 200
"""So many rows are written in the event loop before others get a turn: about a millisecond."""
QUICK_SECONDS = 0.010
CALLS_AFTER_SLOW, COMMITS_AFTER_SLOW = 100, 20
"""After a call in the loop that was not quick so many go to the thread before the loop is tried again. Commits are
counted apart: they wait for the disk, the others for nothing but pages that are seldom not at hand."""

_clock = SystemClock()


class LoopConnection(aiosqlite.Connection):
    """An aiosqlite connection whose calls run in the event loop while `brief` is set. Made by `connect`.

    Calls keep their order: as long as the thread has one left, which a cancelled task no longer waits for, the next
    one goes there too.
    """

    brief = False

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True
        self._given = self._done = 0
        self._to_thread = {False: 0, True: 0}  # calls and commits, after one that was slow

    async def rows(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """What one statement returns, as named tuples; [] when it returns no rows."""
        found: list[Any] = await self._execute(self._rows, statement, values)
        return found

    async def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for each of the rows."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            # sqlite3 reads plain tuples at once, named ones by calls: a third of the time of a row of 13 columns.
            plain = list(map(tuple, rows[start : start + ROWS_AT_ONCE]))
            await self._execute(self._conn.executemany, statement, plain)
            if len(rows) > ROWS_AT_ONCE:
                await asyncio.sleep(0)

    async def changed(self, statement: str, values: Sequence[Any]) -> int:
        """How many rows one statement changed."""
        count: int = (await self._execute(self._conn.execute, statement, values)).rowcount
        return count

    def _rows(self, statement: str, values: Sequence[Any]) -> list[Any]:
        cursor = self._conn.execute(statement, values)
        if cursor.description is None:
            return []
        return list(map(_row(tuple([column[0] for column in cursor.description])), cursor.fetchall()))

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.brief or self._given != self._done or self._connection is None:
            return await self._in_thread(fn, *args, **kwargs)
        is_commit = fn == self._conn.commit
        if self._to_thread[is_commit]:
            self._to_thread[is_commit] -= 1
            return await self._in_thread(fn, *args, **kwargs)
        began = _clock.monotonic()
        try:
            if args and args[0] == BEGIN_WRITING:
                return self._at_once(fn, *args)
            return fn(*args, **kwargs)
        except sqlite3.OperationalError as error:
            if args[:1] != (BEGIN_WRITING,) or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        finally:
            if _clock.monotonic() - began > QUICK_SECONDS:
                self._to_thread[is_commit] = COMMITS_AFTER_SLOW if is_commit else CALLS_AFTER_SLOW
        return await self._in_thread(fn, *args, **kwargs)  # another process writes: wait for it, but not in the loop

    async def _in_thread(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._given += 1
        return await super()._execute(self._counted, fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _counted(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        finally:
            self._done += 1

    def _at_once(self, fn: Callable[..., Any], *args: Any) -> Any:
        self._conn.execute("PRAGMA busy_timeout=0")
        try:
            return fn(*args)
        finally:
            self._conn.execute(f"PRAGMA busy_timeout={BUSY_MS}")


@lru_cache(1000)
def _row(names: tuple[str, ...]) -> Callable[[Iterable[Any]], Any]:
    row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # names known at run time
    return partial(tuple.__new__, row)  # as `_make`, which is written in Python, does it


async def connect(path: Path) -> LoopConnection:
    """A connection to the file."""
    connection = LoopConnection(lambda: sqlite3.connect(path, isolation_level=None, check_same_thread=False))
    await connection
    return connection


async def connect_briefly(path: Path, pragmas: Sequence[str]) -> LoopConnection:
    """A connection to the file for brief transactions."""
    connection = await connect(path)
    for pragma in pragmas:
        await connection.rows(f"PRAGMA {pragma}", ())
    connection.brief = True
    return connection


_PARAMETER = re.compile(r"= ANY\(\$(\d+)\)|\$(\d+)")


@lru_cache(1024)
def with_marks(statement: str, lengths: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """A statement written for PostgreSQL with question marks instead, and whose value each of them stands for.

    `lengths`: of the values that are lists, -1 for a plain one.
    """
    order: list[int] = []

    def mark(match: re.Match[str]) -> str:
        place = int(match[1] or match[2]) - 1
        order.append(place)
        return f"IN ({', '.join('?' * lengths[place])})" if match[1] else "?"

    return _PARAMETER.sub(mark, statement).replace(" FOR UPDATE", ""), tuple(order)
