"""Where a brief transaction's calls run: in the event loop while that is quick and in order, else in the thread."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import sqlite_connection
from shared.database import Database, fetch, open_database
from shared.sqlite_connection import (
    CALLS_AFTER_SLOW,
    COMMITS_AFTER_SLOW,
    QUICK_SECONDS,
    ROWS_AT_ONCE,
    LoopConnection,
    connect,
)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[LoopConnection]:
    made = await connect(tmp_path / "some.db")
    await made.create_function("thread", 0, threading.get_ident)
    await made.create_function("slow", 0, lambda: time.sleep(QUICK_SECONDS * 2))
    yield made
    made.brief = False
    await made.close()


async def where(connection: LoopConnection) -> int:
    [[thread]] = await connection.execute_fetchall("SELECT thread()")
    return int(thread)


async def test_a_brief_call_runs_in_the_event_loop_and_any_other_in_the_thread(connection: LoopConnection) -> None:
    assert await where(connection) != threading.get_ident()
    connection.brief = True
    assert await where(connection) == threading.get_ident()


async def test_many_rows_are_written_in_the_loop_and_others_get_turns(connection: LoopConnection) -> None:
    await connection.execute("BEGIN")
    await connection.execute("CREATE TABLE thing (n INTEGER, thread INTEGER)")
    connection.brief = True
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await connection.many("INSERT INTO thing VALUES (?, thread())", [(n,) for n in range(5 * ROWS_AT_ONCE + 1)])
    ticking.cancel()
    assert ticks >= 5
    found = await connection.rows("SELECT count(*) AS written, min(thread) AS a, max(thread) AS b FROM thing", ())
    assert found == [(5 * ROWS_AT_ONCE + 1, threading.get_ident(), threading.get_ident())]
    assert found[0].written == 5 * ROWS_AT_ONCE + 1


async def test_what_returns_no_rows_says_how_many_it_changed(connection: LoopConnection) -> None:
    assert await connection.rows("CREATE TABLE thing (n INTEGER)", ()) == []
    assert await connection.changed("INSERT INTO thing VALUES (?), (?)", (1, 2)) == 2


async def test_after_a_slow_call_the_next_ones_go_to_the_thread_and_then_the_loop_is_tried_again(
    connection: LoopConnection,
) -> None:
    connection.brief = True
    await connection.execute_fetchall("SELECT slow()")
    seen = [await where(connection) == threading.get_ident() for _ in range(CALLS_AFTER_SLOW + 1)]
    assert seen == [False] * CALLS_AFTER_SLOW + [True]


async def test_after_a_slow_commit_only_commits_go_to_the_thread(
    connection: LoopConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, not the pages that are at hand: a statement in the thread waits for the interpreter's lock."""
    connection.brief = True
    with monkeypatch.context() as slow:
        slow.setattr(sqlite_connection, "QUICK_SECONDS", -1.0)
        await connection.commit()
    given = []
    for _ in range(COMMITS_AFTER_SLOW + 1):
        assert await where(connection) == threading.get_ident()
        before = connection._given
        await connection.commit()
        given.append(connection._given - before)
    assert given == [1] * COMMITS_AFTER_SLOW + [0]


async def test_what_the_thread_still_has_to_do_comes_first(connection: LoopConnection) -> None:
    """A commit that was begun, and whose task was cancelled, must not fall into the next transaction."""
    go, order = threading.Event(), []

    def held() -> None:
        go.wait(10)
        order.append("held")

    waiting = asyncio.create_task(connection._execute(held))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    connection.brief = True
    following = asyncio.create_task(connection._execute(order.append, "next"))
    await asyncio.sleep(0.05)
    assert order == []
    go.set()
    await following
    assert order == ["held", "next"]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = open_database("", tmp_path, "some")
    async with made.transaction() as writing:
        await fetch(writing, "CREATE TABLE thing (n INTEGER)")
    yield made
    await made.close()


async def test_waiting_for_another_process_to_end_its_writing_does_not_hold_the_loop(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "some.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with database.brief_transaction() as writing:
            await fetch(writing, "INSERT INTO thing VALUES ($1)", 1)

    waiting = asyncio.create_task(write())
    began = time.monotonic()
    await asyncio.sleep(0.1)
    assert time.monotonic() - began < 5, "the loop stood still"
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    await waiting
    async with database.brief_snapshot() as reading:
        assert [row[0] for row in await fetch(reading, "SELECT n FROM thing")] == [1]


@pytest.mark.parametrize("way", ["brief_transaction", "transaction"])
async def test_who_is_cancelled_while_another_process_writes_leaves_nothing_begun(
    way: str, database: Database, tmp_path: Path
) -> None:
    async def write() -> None:
        async with getattr(database, way)() as writing:
            await fetch(writing, "INSERT INTO thing VALUES ($1)", 1)

    await write()
    other = sqlite3.connect(tmp_path / "some.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(write())
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.sleep(0.05)
    other.execute("COMMIT")
    other.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await write()
    async with database.brief_snapshot() as reading:
        assert (await fetch(reading, "SELECT count(*) AS n FROM thing"))[0].n == 2


async def test_an_exception_rolls_back_and_the_connection_is_as_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connection, "QUICK_SECONDS", 10.0)

    async def fail() -> None:
        async with database.brief_transaction() as writing:
            await fetch(writing, "INSERT INTO thing VALUES ($1)", 1)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await fail()
    async with database.transaction() as writing:
        assert list(await fetch(writing, "SELECT n FROM thing")) == []
