"""A rebuild in a real process that is killed with -9 on the way, with events coming in all the while."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec

from migrations import migrate
from services.first_start import first_start
from services.profiles.comparing import positions
from services.profiles.digest import digest, refold
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import Database, open_database
from shared.ids import partition_of
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.settings import HouseSettings
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint

PROJECT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
DEADLINE_SECONDS = 240.0
BACKLOG = 3_000
SEED = 7


async def test_a_rebuild_killed_with_9_goes_on_and_is_switched_to_under_traffic(tmp_path: Path) -> None:
    """Killed while it folds: the next process takes it up, and nothing differs."""
    settings = HouseSettings(data_dir=tmp_path, partitions=PARTITIONS, _env_file=None)
    key = (await first_start(settings, SystemClock())).access.secret_key
    database = open_database("", tmp_path, "profiles")
    log = SqliteLog(settings.log_dir, SystemClock())
    await migrate(database, "profiles")
    killed_at, facts = Random(SEED).uniform(1, 60), _facts()
    await log.append(TOUCHPOINTS, [next(facts) for _ in range(BACKLOG)])
    traffic = asyncio.create_task(_traffic(log, facts))
    try:
        async with _profiles(tmp_path, key) as (process, client):
            await _until(client, lambda shown: shown["phase"] == "none")
            await _caught_up(client)
            began = await client.post("/v1/rebuild", json={"switch_when_equal": True})
            assert began.status_code == 202, began.text
            await _until(client, lambda shown: shown["percent"] > killed_at)
            process.kill()
        async with _profiles(tmp_path, key) as (process, client):
            shown = await _until(client, lambda shown: shown["phase"] in ("switched", "failed"))
            assert (shown["phase"], shown["equal"], shown["why"]) == ("switched", True, "")
            assert (await client.delete("/v1/rebuild")).status_code == 202
            await _until(client, lambda shown: shown["phase"] == "none")
            await _ended(traffic)
            await _folded(log, database)
            verified = (await client.post("/v1/verify", json={"sample": 20})).json()
            assert (verified["drifts"], verified["lost"]) == ([], [])
            process.terminate()
            assert await asyncio.to_thread(process.wait, 20) == 0
        assert await digest(database) == (await refold(log)).digest
    finally:
        await _ended(traffic)
        await log.close()
        await database.close()


async def _traffic(log: SqliteLog, facts: Iterator[Outgoing]) -> None:
    """Some records a second, for ever."""
    while True:
        await log.append(TOUCHPOINTS, [next(facts)])
        await asyncio.sleep(0.1)


def _facts() -> Iterator[Outgoing]:
    """Purchases and page views of some people, many of them with a cookie."""
    users, cookies = [a_leaf(f"u{n}", 0) for n in range(200)], [a_leaf(f"c{n}", 4) for n in range(200)]
    number = 0
    while True:
        number += 1
        who = number * 7919 % 200
        leaves = (users[who], cookies[who]) if number % 3 else (users[who],)
        view = a_touchpoint(at=NOON_MS + number, leaves=leaves, url_path="/")
        yield Outgoing(partition_of(users[who], PARTITIONS), encode(a_record(view)))


@asynccontextmanager
async def _profiles(folder: Path, key: str) -> AsyncIterator[tuple["subprocess.Popen[str]", httpx.AsyncClient]]:
    """Profiles as a process, and a client of it; killed with the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    own = {"RAFTAR_DATA_DIR": str(folder), "RAFTAR_PARTITIONS": str(PARTITIONS), "RAFTAR_PROFILES_PORT": "0"}
    command = [sys.executable, "-m", "services.profiles"]
    process = subprocess.Popen(command, env=clean | own, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        url = await asyncio.wait_for(asyncio.to_thread(_listening, process), 60)
        drained = asyncio.create_task(asyncio.to_thread(_drain, process))
        async with httpx.AsyncClient(base_url=url, auth=(key, ""), trust_env=False, timeout=30) as client:
            yield process, client
        process.kill()
        await drained
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _listening(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        said = msgspec.json.decode(line)
        if said["event"] == "listening":
            return str(said["url"])
    raise AssertionError("it ended before it listened")


def _drain(process: "subprocess.Popen[str]") -> None:
    """Read on, so that a full pipe stops nobody."""
    assert process.stdout is not None
    for _ in process.stdout:
        pass


async def _until(client: httpx.AsyncClient, met: Any) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await client.get("/v1/rebuild")
            if answer.status_code == 200 and met(answer.json()):
                return answer.json()
            await asyncio.sleep(0.02)


async def _caught_up(client: httpx.AsyncClient) -> None:
    """Wait until live has folded all but what came this moment."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            check = (await client.get("/readyz")).json()["checks"]["touchpoints"]
            if check["lag_records"] is not None and check["lag_records"] < 20:
                return
            await asyncio.sleep(0.05)


async def _folded(log: SqliteLog, database: Database) -> None:
    """Wait until live has folded all there is."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            ends = {partition: bounds.end for partition, bounds in (await log.bounds(TOUCHPOINTS)).items()}
            async with database.snapshot() as connection:
                if await positions(connection) == ends:
                    return
            await asyncio.sleep(0.05)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
