"""A list shows the stage that stands, whoever was first: the customer's row, or the stage decided about it."""

import asyncio
from pathlib import Path

import pytest

from services.profiles import tables
from services.profiles.decisions import list_stages
from services.profiles.domain.decided import StandingRow
from services.profiles.domain.rows import ListingRow
from services.profiles.store import SqlTransaction, see_customers
from shared.database import Database, fetch, insert_rows
from shared.ids import partition_of
from tests.builders import a_leaf
from tests.support.steps import PARTITIONS, fresh_database

SARA = a_leaf("sara")
LISTED = ListingRow(SARA, "main", 1, 1, 0, 0, "")
STANDS = StandingRow(SARA, "main", 1, "lapsed", 1, 0, 0, b"{}")


async def lists(database: Database, begun: asyncio.Event, go: asyncio.Event) -> None:
    async with database.transaction() as connection:
        await SqlTransaction(connection, database.is_sqlite).list_customers([LISTED], (), PARTITIONS)
        begun.set()
        await go.wait()


async def decides(database: Database, begun: asyncio.Event, go: asyncio.Event) -> None:
    async with database.transaction() as connection:
        await see_customers(connection, partition_of(SARA, PARTITIONS))
        await insert_rows(connection, tables.standing, StandingRow._fields, [STANDS])
        await list_stages(connection, [SARA])
        begun.set()
        await go.wait()


@pytest.mark.parametrize("first", ["lists", "decides"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_who_lists_and_who_decides_at_once_see_each_other(
    kind: str, first: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else ""
    one, other = (lists, decides) if first == "lists" else (decides, lists)
    async with fresh_database(url, tmp_path, "profiles") as database:
        begun, go, free = asyncio.Event(), asyncio.Event(), asyncio.Event()
        free.set()
        leading = asyncio.create_task(one(database, begun, go))
        await begun.wait()
        following = asyncio.create_task(other(database, asyncio.Event(), free))
        await asyncio.sleep(0.2)
        assert not following.done(), "it did not wait, so it saw nothing"
        go.set()
        await asyncio.gather(leading, following)
        async with database.snapshot() as connection:
            assert [row.stage for row in await fetch(connection, "SELECT stage FROM customer")] == ["lapsed"]
