"""No statement of a step walks through a table on SQLite: a house must not slow down as it grows."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.database import Database
from shared.events import IdentityLinked
from shared.sqlite_connection import LoopConnection
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.decisions import Scoring, bought, changed, complained, leaf_on, s
from tests.support.steps import a_projection, fold_all, fresh_database

SMALL = {"checkpoint", "outbox", "sqlite_master", "wanted"}
"""Tables with few rows: one a partition, or only what waits or is asked for."""
SARA, MAIL, BEN = a_leaf("sara", 0), a_leaf("mail", 1), a_leaf("ben", 2)


@asynccontextmanager
async def listening(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[set[str]]:
    """Every statement that is run meanwhile, by whatever way."""
    heard: set[str] = set()
    execute = LoopConnection._execute

    async def hearing(self: LoopConnection, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        heard.update(one for one in args[:1] if isinstance(one, str))
        return await execute(self, call, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LoopConnection, "_execute", hearing)
        yield heard


async def walks(database: Database, statements: Iterable[str]) -> list[tuple[str, str]]:
    """(statement, step of its plan) for every walk through a table that may be large."""
    found = []
    async with database.brief_snapshot() as connection:
        assert isinstance(connection, LoopConnection)
        for statement in statements:
            if statement.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
                values = [None] * max([statement.count("?") - len(numbered), *numbered])
                plan = await connection.rows(f"EXPLAIN QUERY PLAN {statement}", values)
                found += [(statement, row.detail) for row in plan if _walks(row.detail)]
    return found


def _walks(detail: str) -> bool:
    return detail.startswith("SCAN ") and "CONSTANT ROW" not in detail and detail.split()[1] not in SMALL


async def test_no_statement_of_the_profiles_step_walks_through_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fresh_database("", tmp_path, "profiles") as database, listening(monkeypatch) as heard:
        projection = a_projection(database)
        views = [a_touchpoint("page_viewed", at=NOON_MS + n, leaf=a_leaf(f"v{n}")) for n in range(8)]
        tied = a_touchpoint("page_viewed", at=NOON_MS, leaves=(SARA, MAIL))
        link = IdentityLinked("main", b"l" * 16, min(SARA, BEN), max(SARA, BEN), True, False, NOON_MS)
        claim = await fold_all(projection, [a_record(*views), a_record(tied), link])
        snapshot = await projection.store.outbox(range(4), 1000)
        await projection.store.relayed([claim], [row.seq for row in snapshot.rows])
        await projection.store.hold([(claim, claim)])
        assert len(heard) > 15
        assert await walks(database, sorted(heard)) == []


async def test_no_statement_of_the_scoring_step_walks_through_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = leaf_on(0, "ana")
    async with fresh_database("", tmp_path, "scoring") as database, listening(monkeypatch) as heard:
        scoring = Scoring(database)
        await scoring.tell(changed(ana, 1, 0, bought(ana, 0)))
        await scoring.tell(changed(ana, 2, 5, complained(ana, 5)))
        await scoring.reach(s(600))
        assert len(heard) > 10
        assert await walks(database, sorted(heard)) == []


async def test_a_walk_would_be_seen(tmp_path: Path) -> None:
    async with fresh_database("", tmp_path, "profiles") as database:
        keys = "(day, id, scope) IN (VALUES (?, ?, ?), (?, ?, ?))"
        assert await walks(database, [f"SELECT day FROM touchpoint WHERE {keys}"])
