"""Whoever is locked has a row afterwards, written once: where one writes after another it is made when it is saved."""

from pathlib import Path

import msgspec
import pytest

from services.profiles.store import SqlStore as ProfilesStore
from services.scoring.store import SqlStore as ScoringStore
from shared.database import fetch
from tests.builders import a_leaf
from tests.support.steps import PARTITIONS, fresh_database

SARA, OMID = sorted((a_leaf("sara"), a_leaf("omid")))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else ""


async def test_a_locked_leaf_has_a_row_changed_or_not(url: str, tmp_path: Path) -> None:
    async with fresh_database(url, tmp_path, "profiles") as database:
        store = ProfilesStore(database)
        async with store.transaction() as transaction:
            rows = await transaction.lock({SARA: "main", OMID: "main"})
            assert {row.leaf for row in await transaction.members([SARA, OMID])} == {SARA, OMID}
            await transaction.save_leaves([msgspec.structs.replace(rows[SARA], version=3)])
            assert {row.leaf for row in await transaction.members([SARA, OMID])} == {SARA, OMID}
        async with database.snapshot() as connection:
            found = await fetch(connection, "SELECT leaf, version FROM leaf ORDER BY leaf")
        assert [tuple(row) for row in found] == [(SARA, 3), (OMID, 0)]


async def test_a_locked_decision_has_a_row_changed_or_not(url: str, tmp_path: Path) -> None:
    async with fresh_database(url, tmp_path, "scoring") as database:
        store = ScoringStore(database, PARTITIONS)
        async with store.transaction() as transaction:
            rows = await transaction.lock({SARA: "main", OMID: "main", a_leaf("nobody"): ""})
            assert rows.keys() == {SARA, OMID}
            await transaction.save_decisions([msgspec.structs.replace(rows[SARA], version=3)])
        async with database.snapshot() as connection:
            found = await fetch(connection, "SELECT customer, version FROM decision ORDER BY customer")
        assert [tuple(row) for row in found] == [(SARA, 3), (OMID, 0)]
