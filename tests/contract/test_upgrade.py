"""Two versions at once: an unknown kind is kept and counted, a newer version waits for the newer code."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from services.profiles.fold import TouchpointsProjection
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import Database, fetch
from shared.events import UPCASTERS, Fact, TouchpointsRecorded
from shared.log.ownership import AllPartitions
from shared.log.port import Outgoing, Topic
from shared.log.sqlite import SqliteLog
from shared.loop import Worker
from shared.topics import TOUCHPOINTS
from tests.builders import a_leaf, a_record, a_touchpoint
from tests.support.steps import a_projection, fresh_database

STRANGE = msgspec.msgpack.encode(("customer.greeted", 1, ["main"]))


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    async with fresh_database(url, tmp_path, "profiles") as opened:
        yield opened


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log", SystemClock())
    await opened.ensure([Topic(TOUCHPOINTS, 1)])
    yield opened
    await opened.close()


@asynccontextmanager
async def working(log: SqliteLog, projection: TouchpointsProjection) -> AsyncIterator[Worker]:
    worker = Worker(log, AllPartitions(1), projection, SystemClock(), None)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not met():
            await asyncio.sleep(0.01)


def view(number: int) -> Fact:
    return a_record(a_touchpoint(id=f"t{number}", leaf=a_leaf(f"p{number}")))


def of_version_2(fact: Fact) -> bytes:
    name, _, body = msgspec.msgpack.decode(encode(fact))
    return msgspec.msgpack.encode((name, 2, body))


async def counted(database: Database) -> int:
    async with database.snapshot() as connection:
        found: int = (await fetch(connection, "SELECT count(*) AS n FROM touchpoint"))[0].n
    return found


async def test_a_newer_version_beside_the_older_one(
    log: SqliteLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [encode(view(1)), STRANGE, encode(view(2)), of_version_2(view(3)), encode(view(4))]
    await log.append(TOUCHPOINTS, [Outgoing(0, value) for value in values])

    older = a_projection(database)
    async with working(log, older) as worker:
        await until(lambda: 0 in worker.lanes and worker.lanes[0].stopped != "")
        assert "touchpoints.recorded version 2 is newer than 1: deploy the newer code first" in worker.lanes[0].stopped
    assert older.tally.unknown >= 1
    assert await counted(database) == 2, "everything before it is folded, nothing behind it"

    async with working(log, a_projection(database)) as worker:  # starting the same version again changes nothing
        await until(lambda: 0 in worker.lanes and worker.lanes[0].stopped != "")
    assert await counted(database) == 2

    monkeypatch.setattr(TouchpointsRecorded, "VERSION", 2)
    monkeypatch.setitem(UPCASTERS, (TouchpointsRecorded.NAME, 1), lambda body: body)
    async with working(log, a_projection(database)) as worker:
        await until(
            lambda: (lane := worker.lanes.get(0)) is not None and lane.claim is not None and lane.claim.position == 5
        )
    assert await counted(database) == 4
    assert [record.value for record in (await log.read(TOUCHPOINTS, 0, 0)).records] == values, (
        "the log keeps every byte"
    )
    async with database.snapshot() as connection:
        assert (await fetch(connection, "SELECT count(*) AS n FROM parked"))[0].n == 0

    monkeypatch.undo()  # back to the older version: what is newer lies behind its checkpoint
    await log.append(TOUCHPOINTS, [Outgoing(0, encode(view(5)))])
    async with working(log, a_projection(database)) as worker:
        await until(lambda: 0 in worker.lanes and (claim := worker.lanes[0].claim) is not None and claim.position == 6)
    assert await counted(database) == 5
