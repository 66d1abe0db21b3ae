"""The write-ahead log is moved into the file beside those who write, now and then, and no error of it reaches them."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared import sqlite_checkpoints
from shared.sqlite_checkpoints import Checkpoints
from shared.sqlite_connection import LoopConnection, connect
from shared.sqlite_group import Briefly


@pytest.fixture
async def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A file with one table; every commit may be followed by a move."""
    monkeypatch.setattr(sqlite_checkpoints, "MOVED_SECONDS", 0.0)
    path = tmp_path / "some.db"
    made = await connect(path)
    await made.execute("PRAGMA journal_mode=WAL")
    await made.execute("CREATE TABLE thing (n INTEGER, filling BLOB)")
    yield path
    await made.close()


async def test_after_a_commit_the_log_is_moved_into_the_file(written: Path) -> None:
    briefly = Briefly(written, ("synchronous=FULL", "wal_autocheckpoint=0"))
    before = written.stat().st_size
    async with briefly.group.transaction() as connection:
        await connection.many("INSERT INTO thing VALUES (?, randomblob(4000))", [(n,) for n in range(100)])
    async with asyncio.timeout(10):
        while written.stat().st_size - before < 400_000:
            await asyncio.sleep(0.01)
    await briefly.close()


async def test_a_disk_that_does_not_take_it_is_said_and_tried_again() -> None:
    tries = 0

    async def full() -> LoopConnection:
        nonlocal tries
        tries += 1
        raise sqlite3.OperationalError("database or disk is full")

    checkpoints = Checkpoints(full)
    with capture_logs() as lines:
        checkpoints.committed()
        await checkpoints.close()
    assert [line["event"] for line in lines] == ["sqlite_checkpoint_failed"]
    assert tries == 1


async def test_between_two_moves_is_a_time(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoints, "MOVED_SECONDS", 3600.0)
    opened = 0

    async def open_connection() -> LoopConnection:
        nonlocal opened
        opened += 1
        raise OSError("gone")

    checkpoints = Checkpoints(open_connection)
    checkpoints._moved_at = asyncio.get_running_loop().time()
    for _ in range(3):
        checkpoints.committed()
    await checkpoints.close()
    assert opened == 0
