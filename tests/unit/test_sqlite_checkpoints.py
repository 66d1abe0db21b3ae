"""The write-ahead log is moved into the file beside those who write, now and then, and no error of it reaches them."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared import sqlite_checkpoints
from shared.sqlite_checkpoints import Checkpoints
from shared.sqlite_connection import LoopConnection, connect
from shared.sqlite_group import Briefly

OTHER_PROCESS = """
import sqlite3, sys
one = sqlite3.connect(sys.argv[1])
one.execute("SELECT count(*) FROM thing").fetchall()
one.close()
"""


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


def nobody_else() -> AbstractAsyncContextManager[None]:
    return nullcontext()


async def test_a_large_log_begins_anew_while_others_write(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoints, "LARGE_PAGES", 50)
    briefly, log = Briefly(written, ("synchronous=FULL",)), written.with_name("some.db-wal")
    row = [(0,)]

    async def write() -> None:
        for _ in range(300):
            async with briefly.group.transaction() as connection:
                await connection.many("INSERT INTO thing VALUES (?, randomblob(4000))", row)

    async with asyncio.timeout(30):
        await asyncio.gather(*(write() for _ in range(3)))
    assert log.stat().st_size < 900 * 4000 / 2, "at no time was half of what was written in it"
    async with briefly.snapshot() as connection:
        assert (await connection.rows("SELECT count(*) FROM thing", ()))[0][0] == 900
    await briefly.close()


async def test_while_the_log_is_small_nobody_waits_for_it(written: Path) -> None:
    asked = 0

    def alone() -> AbstractAsyncContextManager[None]:
        nonlocal asked
        asked += 1
        return nullcontext()

    checkpoints = Checkpoints(written, alone)
    checkpoints.committed()
    await checkpoints.close()
    assert asked == 0


async def test_flushing_a_file_leaves_sqlites_locks_on_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process must not take itself for the last one that has the file open: it would delete the log."""
    monkeypatch.setattr(sqlite_checkpoints, "SMALL_PAGES", 0)
    briefly = Briefly(written, ("synchronous=FULL", "wal_autocheckpoint=0"))
    async with briefly.group.transaction() as connection:
        await connection.many("INSERT INTO thing VALUES (?, 'x')", [(1,)])
    await asyncio.sleep(0)
    checkpoints = Checkpoints(written, nobody_else)
    for _ in range(2):
        checkpoints.committed()
        await checkpoints.close()
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", OTHER_PROCESS, written], check=True)
    assert written.with_name("some.db-wal").exists()
    await briefly.close()


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """No file can be opened; which were tried."""
    tried: list[Path] = []

    async def full(path: Path) -> LoopConnection:
        tried.append(path)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_checkpoints, "connect", full)
    return tried


async def test_a_disk_that_does_not_take_it_is_said_and_tried_again(written: Path, tries: list[Path]) -> None:
    checkpoints = Checkpoints(written, nobody_else)
    with capture_logs() as lines:
        for _ in range(2):
            checkpoints.committed()
            await checkpoints.close()
    assert [line["event"] for line in lines] == ["sqlite_checkpoint_failed"] * 2
    assert tries == [written] * 2


async def test_between_two_moves_is_a_time(written: Path, tries: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoints, "MOVED_SECONDS", 3600.0)
    checkpoints = Checkpoints(written, nobody_else)
    checkpoints._moved_at = asyncio.get_running_loop().time()
    for _ in range(3):
        checkpoints.committed()
    await checkpoints.close()
    assert tries == []
