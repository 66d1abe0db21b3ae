"""Group commit: who waits shares it; who fails or is cancelled takes nobody along; of a failed one all of them hear."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared import sqlite_connection, sqlite_group
from shared.database import Database, execute, fetch, open_database
from shared.sqlite_connection import LoopConnection

Counted = list[str]


@pytest.fixture
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(sqlite_connection, "QUICK_SECONDS", 10.0)
    monkeypatch.setattr(sqlite_group, "OPEN_SECONDS", 10.0)
    made = open_database("", tmp_path, "some")
    async with made.transaction() as writing:
        await execute(writing, "CREATE TABLE thing (n INTEGER)")
    yield made
    await made.close()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted: Counted = []
    commit = LoopConnection.commit

    async def counting(connection: LoopConnection) -> None:
        counted.append("commit")
        await commit(connection)

    monkeypatch.setattr(LoopConnection, "commit", counting)
    return counted


async def write(
    database: Database,
    number: int,
    *,
    fails: bool = False,
    inside: asyncio.Event | None = None,
    hurried: bool = True,
) -> None:
    async with database.brief_transaction(hurried) as writing:
        await execute(writing, "INSERT INTO thing VALUES ($1)", number)
        if inside is not None:
            await inside.wait()
        if fails:
            raise ValueError(number)


async def numbers(database: Database) -> list[int]:
    async with database.brief_snapshot() as reading:
        return sorted(row.n for row in await fetch(reading, "SELECT n FROM thing"))


async def outcomes(*tasks: Any) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_waits_shares_the_commit(database: Database, commits: Counted) -> None:
    await asyncio.gather(*(write(database, n) for n in range(20)))
    assert await numbers(database) == list(range(20))
    assert len(commits) == 1


async def test_alone_is_committed_at_once(database: Database, commits: Counted) -> None:
    for n in range(3):
        await write(database, n)
        assert await numbers(database) == list(range(n + 1))
    assert len(commits) == 3


async def test_who_comes_first_needs_no_savepoint(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    changed = LoopConnection.changed

    async def listening(connection: LoopConnection, statement: str, values: Any) -> int:
        said.append(statement.split()[0])
        return await changed(connection, statement, values)

    monkeypatch.setattr(LoopConnection, "changed", listening)
    await write(database, 1)
    assert said == ["BEGIN", "INSERT"]
    said.clear()
    await asyncio.gather(write(database, 2), write(database, 3))
    assert said == ["BEGIN", "INSERT", "SAVEPOINT", "INSERT", "RELEASE"]


async def test_nobody_hears_before_the_commit(database: Database) -> None:
    inside = asyncio.Event()
    first = asyncio.create_task(write(database, 1))
    second = asyncio.create_task(write(database, 2, inside=inside))
    await asyncio.sleep(0.05)
    assert not first.done(), "its work is done, and nothing is committed"
    assert await numbers(database) == []
    inside.set()
    await asyncio.gather(first, second)
    assert await numbers(database) == [1, 2]


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_who_fails_is_taken_back_alone(database: Database, failing: int) -> None:
    found = await outcomes(*(write(database, n, fails=n == failing) for n in range(3)))
    assert [type(one) for one in found] == [ValueError if n == failing else type(None) for n in range(3)]
    assert await numbers(database) == [n for n in range(3) if n != failing]


async def test_all_failing_leave_nothing_open(database: Database) -> None:
    await outcomes(*(write(database, n, fails=True) for n in range(3)))
    async with database.transaction() as writing:  # another connection: it would wait for one that is open
        await execute(writing, "INSERT INTO thing VALUES (9)")
    assert await numbers(database) == [9]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_who_is_cancelled_takes_nobody_along(database: Database, cancelled: int) -> None:
    inside = asyncio.Event()
    tasks = [asyncio.create_task(write(database, n, inside=inside if n == 1 else None)) for n in range(3)]
    await asyncio.sleep(0.05)  # the first has left, the second is inside, the third waits
    tasks[cancelled].cancel()
    await asyncio.sleep(0.01)
    inside.set()
    found = await outcomes(*tasks)
    assert [isinstance(one, asyncio.CancelledError) for one in found] == [n == cancelled for n in range(3)]
    assert set(await numbers(database)) >= {0, 1, 2} - {cancelled}
    await write(database, 9)


async def test_a_failed_commit_is_heard_by_all_of_the_group(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_connection: LoopConnection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(LoopConnection, "commit", fail)
        found = await outcomes(*(write(database, n) for n in range(3)))
    assert [type(one) for one in found] == [sqlite3.OperationalError] * 3
    assert await numbers(database) == []
    await write(database, 4)
    assert await numbers(database) == [4]


async def test_where_sqlite_gives_the_transaction_up_all_of_it_hear_so(database: Database) -> None:
    """As it does when the disk is full."""

    async def give_up() -> None:
        async with database.brief_transaction() as writing:
            assert isinstance(writing, LoopConnection)
            await writing.rollback()
            raise sqlite3.OperationalError("database or disk is full")

    found = await outcomes(write(database, 1), give_up(), write(database, 3))
    assert [type(one) for one in found] == [sqlite3.OperationalError, sqlite3.OperationalError, type(None)]
    assert await numbers(database) == [3]


async def test_a_transaction_on_another_connection_waits_for_the_commit(database: Database) -> None:
    async def otherwise() -> None:
        async with database.transaction() as writing:
            await execute(writing, "INSERT INTO thing SELECT count(*) FROM thing")

    await asyncio.gather(write(database, 7), otherwise(), write(database, 8))
    assert 7 in await numbers(database)
    assert len(await numbers(database)) == 3


async def test_an_old_transaction_takes_nobody_in(
    database: Database, commits: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_group, "OPEN_SECONDS", 0.0)
    await asyncio.gather(*(write(database, n) for n in range(5)))
    assert await numbers(database) == list(range(5))
    assert len(commits) == 5


async def test_who_is_in_no_hurry_waits_for_a_commit_and_shares_it(
    database: Database, commits: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_group, "COMPANY_SECONDS", 30.0)
    waiting = [asyncio.create_task(write(database, n, hurried=False)) for n in range(3)]
    await asyncio.sleep(0.05)
    assert commits == []
    async with asyncio.timeout(5):
        await asyncio.gather(write(database, 7), *waiting)
    assert len(commits) == 1
    assert await numbers(database) == [0, 1, 2, 7]


async def test_who_is_in_no_hurry_joins_a_transaction_of_any_age(
    database: Database, commits: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_group, "COMPANY_SECONDS", 30.0)
    monkeypatch.setattr(sqlite_group, "OPEN_SECONDS", 0.0)
    unhurried = asyncio.create_task(write(database, 1, hurried=False))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.gather(write(database, 2), unhurried)
    assert len(commits) == 1


async def test_who_is_in_no_hurry_goes_alone_when_nobody_comes(database: Database, commits: Counted) -> None:
    async with asyncio.timeout(5):
        await write(database, 1, hurried=False)
    assert await numbers(database) == [1]
    assert len(commits) == 1


async def test_who_is_cancelled_while_it_waits_for_company_is_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_group, "COMPANY_SECONDS", 30.0)
    unhurried = [asyncio.create_task(write(database, n, hurried=False)) for n in range(2)]
    await asyncio.sleep(0.01)
    unhurried[0].cancel()
    async with asyncio.timeout(5):
        found = await outcomes(write(database, 7), *unhurried)
    assert [type(one) for one in found] == [type(None), asyncio.CancelledError, type(None)]
    assert await numbers(database) == [1, 7]


async def test_who_is_in_no_hurry_and_fails_takes_nobody_along(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_group, "COMPANY_SECONDS", 30.0)
    unhurried = asyncio.create_task(write(database, 1, hurried=False, fails=True))
    await asyncio.sleep(0.01)
    found = await outcomes(write(database, 2), unhurried)
    assert [type(one) for one in found] == [type(None), ValueError]
    assert await numbers(database) == [2]


async def test_in_a_stream_of_brief_ones_another_connection_gets_its_turn(database: Database) -> None:
    going, written = True, 0

    async def stream() -> None:
        nonlocal written
        while going:
            await write(database, 1)
            written += 1

    streams = [asyncio.create_task(stream()) for _ in range(16)]
    await asyncio.sleep(0.05)
    before = written
    async with asyncio.timeout(5), database.transaction() as writing:
        await execute(writing, "INSERT INTO thing VALUES (7)")
    among = written - before
    going = False
    await asyncio.gather(*streams)
    assert among <= 2 * len(streams), "it waited for those before it, not for those who came later"


async def test_who_is_cancelled_while_it_commits_for_others_lets_them_hear(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, begun, go = LoopConnection.commit, asyncio.Event(), asyncio.Event()

    async def held(connection: LoopConnection) -> None:
        begun.set()
        await go.wait()
        await commit(connection)

    monkeypatch.setattr(sqlite_group, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr(LoopConnection, "commit", held)
    inside = asyncio.Event()
    first = asyncio.create_task(write(database, 1, inside=inside))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(write(database, 2))  # it finds an old transaction, and commits it
    await asyncio.sleep(0.02)
    inside.set()
    await begun.wait()
    second.cancel()
    go.set()
    await first
    assert [isinstance(one, asyncio.CancelledError) for one in await outcomes(second)] == [True]
    await write(database, 3)
    assert await numbers(database) == [1, 3]


@pytest.mark.parametrize("way", ["brief_transaction", "transaction"])
async def test_a_turn_is_taken_over_by_the_next_transaction_and_given_on(database: Database, way: str) -> None:
    order = []

    async def in_turn(number: int) -> None:
        async with database.turn():
            order.append(f"turn {number}")
            async with getattr(database, way)() as writing:
                await execute(writing, "INSERT INTO thing VALUES ($1)", number)
            order.append(f"done {number}")

    await asyncio.gather(*(in_turn(n) for n in range(3)))
    assert await numbers(database) == [0, 1, 2]
    if way == "brief_transaction":
        assert order[:3] == ["turn 0", "turn 1", "turn 2"], "the turn is given on before the commit"


async def test_a_turn_without_a_transaction_is_given_on(database: Database) -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        async with database.turn():
            raise ValueError("nothing to do")
    await asyncio.wait_for(write(database, 1), 5)


async def test_closing_commits_what_has_left(tmp_path: Path) -> None:
    made = open_database("", tmp_path, "other")
    async with made.transaction() as writing:
        await execute(writing, "CREATE TABLE thing (n INTEGER)")
    written = asyncio.create_task(write(made, 1))
    await asyncio.sleep(0)
    await made.close()
    await written
    again = open_database("", tmp_path, "other")
    assert await numbers(again) == [1]
    await again.close()
