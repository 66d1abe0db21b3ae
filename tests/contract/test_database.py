"""What the database port promises on both databases: tables as migrated, and "try again" when it is away."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect

from migrations import SERVICES
from services.profiles.tables import metadata as profiles
from services.scoring.tables import metadata as scoring
from shared.database import TAKE_OVER_MS, Away, execute, fetch, open_database
from shared.httpd import headers_of, status_of
from tests.support.steps import fresh_database

METADATA = {"profiles": profiles, "scoring": scoring}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def _differences(connection: Connection, wanted: MetaData) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, wanted))


def _indexes(connection: Connection) -> set[str]:
    """Names of what autogenerate does not compare everywhere."""
    seen = inspect(connection)
    return {str(index["name"]) for table in seen.get_table_names() for index in seen.get_indexes(table)}


@pytest.mark.parametrize("service", SERVICES)
async def test_all_migrations_together_make_the_tables_the_code_knows(service: str, url: str, tmp_path: Path) -> None:
    async with fresh_database(url, tmp_path, service) as database, database.transaction() as connection:
        differences = await connection.run_sync(_differences, METADATA[service])
        found = await connection.run_sync(_indexes)
    assert [one for one in differences if "alembic_version" not in str(one)] == []
    assert {index.name for table in METADATA[service].tables.values() for index in table.indexes} <= found


async def test_a_database_that_is_not_there_says_try_again(tmp_path: Path) -> None:
    database = open_database("postgresql://nobody:secret@127.0.0.1:1/none", tmp_path, "profiles")
    with pytest.raises(Away) as caught:
        async with database.snapshot() as connection:
            await fetch(connection, "SELECT 1")
    await database.close()
    assert (status_of(caught.value), headers_of(caught.value)) == (503, {"retry-after": "1"})
    assert "secret" not in str(caught.value)


async def test_a_session_that_was_ended_says_try_again_and_the_next_one_works(
    postgres_url: str, tmp_path: Path
) -> None:
    async with fresh_database(postgres_url, tmp_path, "profiles") as database:
        with pytest.raises(Away):
            async with database.transaction() as connection:
                await fetch(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
        async with database.snapshot() as connection:
            assert [tuple(row) for row in await fetch(connection, "SELECT 1")] == [(1,)]


async def test_a_sessions_time_outs_end_it_before_its_worker_is_replaced(postgres_url: str, tmp_path: Path) -> None:
    async with fresh_database(postgres_url, tmp_path, "profiles") as database, database.snapshot() as connection:
        for name in ("idle_in_transaction_session_timeout", "transaction_timeout", "lock_timeout"):
            statement = "SELECT setting::int FROM pg_settings WHERE name = $1"
            assert 0 < (await fetch(connection, statement, name))[0][0] < TAKE_OVER_MS


async def test_a_locked_file_says_try_again(tmp_path: Path) -> None:
    async with fresh_database("", tmp_path, "profiles") as database:
        async with database.transaction() as connection:
            await fetch(connection, "PRAGMA busy_timeout=0")
        other = sqlite3.connect(tmp_path / "profiles.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Away):
            async with database.transaction():
                pass
        other.close()


async def test_an_errors_text_holds_no_value(url: str, tmp_path: Path) -> None:
    async with fresh_database(url, tmp_path, "profiles") as database:
        with pytest.raises(Exception, match="no_such_table") as caught:
            async with database.transaction() as connection:
                await execute(connection, "DELETE FROM no_such_table WHERE a = $1", "sara@example.com")
    assert not isinstance(caught.value, Away)
    assert "sara" not in str(caught.value)
