"""The restore drill: a house is backed up while events pour in, put back elsewhere, and goes on as after a power cut.

And the wrong order: a log put back behind what was folded from it stops the partition with a message that says what to
do, and skips nothing.
"""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from services.first_start import open_log
from services.profiles.digest import digest, refold
from shared.clock import SystemClock
from shared.codec import decode
from shared.database import execute
from shared.events import TouchpointsRecorded
from shared.ids import uuid_text
from shared.log.port import Batch, Bounds, Log
from shared.topics import CHURN_ALERTS, TOUCHPOINTS
from tests.e2e.evidence import DECISIONS, Quiet, events, eventually, records, rows
from tests.e2e.rules import rules
from tests.support.house import Ground, House, Service, closing
from tests.support.kafka_broker import PROJECT
from tests.support.postgres import tool

PEOPLE = 40
QUIET_SECONDS = 90.0

_clock = SystemClock()
_numbers = itertools.count()


class CutLog:
    """A log that ends where we say: what a refold up to these positions reads."""

    def __init__(self, log: Log, ends: Mapping[int, int]) -> None:
        self._log, self._ends = log, ends
        self.identity, self.release, self.appends_whole = log.identity, log.release, log.appends_whole

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        found = await self._log.bounds(topic)
        return {partition: Bounds(found[partition].earliest, end) for partition, end in self._ends.items()}

    async def read(self, topic: str, partition: int, position: int, **limits: Any) -> Batch:
        left = self._ends[partition] - position
        return await self._log.read(topic, partition, position, records_max=min(500, left), **limits)


def command(ground: Ground, *words: str) -> Any:
    """Type a command of the house; returns the JSON it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "services", *words],
        env=ground.environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


async def post(house: House, client: httpx.AsyncClient) -> set[str]:
    """A crowd buys, looks and complains in one request; returns the ids the door acknowledged."""
    bodies: list[dict[str, Any]] = []
    for person in range(PEOPLE):
        number = next(_numbers)
        order = {"order_id": f"o-{number}", "amount_minor": 900, "currency": "EUR"}
        bodies.append({"kind": "purchased", "id": f"b-{number}", "user_id": f"r-{person}", "properties": order})
        bodies.append(
            {"kind": "page_viewed", "id": f"v-{number}", "user_id": f"r-{person}", "anonymous_id": f"a-{person}"}
        )
        if person % 10 == 0:
            bodies.append({"kind": "complained", "id": f"c-{number}", "user_id": f"r-{person}"})
    answer = await client.post("/v1/touchpoints", json=bodies)
    return {result["id"] for result in answer.raise_for_status().json()["results"]}


@asynccontextmanager
async def pouring(house: House) -> AsyncIterator[set[str]]:
    """Events pour in during the block; the set holds what was acknowledged so far."""
    acknowledged: set[str] = set()

    async def pour() -> None:
        async with house.client("ingest", seconds=30.0) as client:
            while True:
                acknowledged.update(await post(house, client))
                await asyncio.sleep(0.1)

    task = asyncio.create_task(pour())
    try:
        yield acknowledged
    finally:
        assert not task.done(), "posting failed"
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def quiet(house: House) -> None:
    """Wait until all that is in the log went all the way."""
    found = Quiet(house)
    try:
        await eventually(found.reached, QUIET_SECONDS, "quiescence")
    except AssertionError:
        raise AssertionError(f"not quiet: {found.waiting_for}\n{house.said()}") from None


async def digest_of(house: House) -> str:
    database = house.database("profiles")
    try:
        return await digest(database)
    finally:
        await database.close()


async def refolded(house: House, ends: Mapping[int, int] | None = None) -> str:
    """The digest of a fold from the log's start, to its end or to these positions."""
    async with open_log(house.ground.settings, _clock) as log:
        return (await refold(CutLog(log, ends) if ends is not None else log)).digest  # type: ignore[arg-type]


async def positions(house: House) -> dict[int, int]:
    """How far touchpoints are folded."""
    statement = f"SELECT partition, position FROM checkpoint WHERE topic = '{TOUCHPOINTS}'"
    return {row.partition: row.position for row in await rows(house, "profiles", statement)}


async def logged(house: House) -> set[str]:
    """Ids of the touchpoints in the log."""
    facts = [decode(record.value) for record in await records(house.ground, TOUCHPOINTS)]
    return {uuid_text(one.id) for fact in facts if isinstance(fact, TouchpointsRecorded) for one in fact.touchpoints}


async def said_once(house: House) -> None:
    """Whatever decision was appended twice was appended with the same bytes, and no alert has two beginnings."""
    for topic in DECISIONS:
        bodies: dict[str, bytes] = {}
        for event in await events(house.ground, topic):
            assert bodies.setdefault(event.body["id"], event.value) == event.value, event.body["id"]


async def stopped(service: Service, topic: str) -> dict[str, str]:
    """Wait until a service says that partitions of a topic are stopped: partition → why."""

    async def asked() -> dict[str, str]:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            try:
                answer = await client.get(f"{service.url}/readyz")
            except httpx.TransportError:
                return {}
        found: dict[str, str] = answer.json()["checks"][topic]["stopped"]
        assert not found or answer.status_code == 503
        return found

    why: dict[str, str] = await eventually(asked, 60, f"{service.name} says that {topic} is stopped")
    return why


async def test_a_house_backed_up_under_traffic_is_restored_to_that_instant_and_goes_on(tmp_path: Path) -> None:
    house = House(Ground(tmp_path / "live", partitions=4), rules("2s"))
    house.ground.folder.mkdir()
    await house.prepare()
    with closing(house):
        house.start()
        async with pouring(house) as acknowledged:
            await eventually(_more_than(acknowledged, 800), 60, "some load")
            before = set(acknowledged)
            told = await asyncio.to_thread(
                command, house.ground, "backup", str(tmp_path / "backup"), "--with-keys", "--json"
            )
            after = set(acknowledged)
            await eventually(_more_than(acknowledged, len(after) + 200), 60, "load goes on")
    assert len(after) > len(before), "the door stood still while it was backed up"

    restored = House(Ground(tmp_path / "fresh", partitions=4), rules("2s"))
    command(restored.ground, "restore", str(tmp_path / "backup"), "--json")
    found = await logged(restored)
    assert before <= found
    assert acknowledged - found, "more traffic came after the backup"
    folded = await positions(restored)
    assert all(folded[n] <= end for n, end in enumerate(told["ends"][TOUCHPOINTS]))
    assert await digest_of(restored) == await refolded(restored, folded)

    with closing(restored):
        restored.start()
        async with restored.client("ingest") as client:
            since = await post(restored, client)
        await quiet(restored)
    assert found | since == await logged(restored)
    assert await digest_of(restored) == await refolded(restored)
    await said_once(restored)
    print(f"\n{len(before)} to {len(after)} events while it was backed up, {len(found)} restored, all folded once")
    await _behind_its_checkpoint(restored, tmp_path / "backup")


def _more_than(found: set[str], count: int) -> Any:
    async def met() -> bool:
        return len(found) > count

    return met


async def _behind_its_checkpoint(house: House, backup: Path) -> None:
    """Only the log is put back from the backup; then the log that belongs to the state again."""
    log, kept = house.ground.settings.log_dir, house.ground.folder / "kept"
    shutil.copytree(log, kept)
    shutil.rmtree(log)
    shutil.copytree(backup / "log", log)
    folded, state = await positions(house), await digest_of(house)
    profiles = house.services["profiles-1"]
    with closing(house):
        profiles.launch()
        why = await stopped(profiles, TOUCHPOINTS)
        assert all(
            "before what was folded; restore the log that belongs to this database" in said for said in why.values()
        )
        assert "partition stopped" in profiles.printed()
        profiles.terminate()
        assert (await positions(house), await digest_of(house)) == (folded, state)
        shutil.rmtree(log)
        shutil.copytree(kept, log)
        profiles.launch()
        profiles.wait_until_ready()


async def test_a_dump_of_postgresql_catches_up_with_the_same_kafka_log(kafka_house: House, tmp_path: Path) -> None:
    house, dump = kafka_house, tmp_path / "state.dump"
    async with house.client("ingest", seconds=30.0) as client:
        await post(house, client)
        await quiet(house)
        url = house.ground.database_url
        schemas = ("--schema=profiles", "--schema=scoring")
        run(tool("pg_dump"), f"--dbname={url}", *schemas, "--format=custom", f"--file={dump}")
        await post(house, client)
    await quiet(house)
    live, folded, told = await digest_of(house), await positions(house), await opened(house)
    workers = house.of("profiles") + house.of("scoring")
    for worker in workers:
        worker.terminate()
    anew = "DROP SCHEMA profiles CASCADE; DROP SCHEMA scoring CASCADE; CREATE SCHEMA profiles"
    run(tool("psql"), url, "--quiet", "--set=ON_ERROR_STOP=1", f"--command={anew}")
    run(tool("pg_restore"), f"--dbname={url}", "--schema=profiles", "--exit-on-error", dump)
    assert sum((await positions(house)).values()) < sum(folded.values())
    run(sys.executable, "-m", "services", "migrate", **house.ground.environment)
    for worker in workers:
        worker.launch()
    for worker in workers:
        worker.wait_until_ready()
    await quiet(house)
    assert await digest_of(house) == live == await refolded(house)
    assert await positions(house) == folded
    assert told <= await opened(house)
    await said_once(house)


async def opened(house: House) -> set[str]:
    """Every alert about a complaint that was ever raised; one that was raised twice fails."""
    found: dict[str, bytes] = {}
    for event in await events(house.ground, CHURN_ALERTS):
        if event.body["type"] == "raftar.alert.raised" and event.data["policy"] == "bad_experience":
            assert found.setdefault(event.data["alert_id"], event.value) == event.value, event.data["alert_id"]
    return set(found)


async def test_a_state_ahead_of_the_kafka_log_stops_and_says_what_to_do(kafka_house: House) -> None:
    house = kafka_house
    async with house.client("ingest") as client:
        await post(house, client)
    await quiet(house)
    [profiles] = house.of("profiles")
    profiles.terminate()
    state = await digest_of(house)
    await _move_checkpoints(house, 1_000)  # what a dump of a later time looks like to an older log
    profiles.launch()
    why = await stopped(profiles, TOUCHPOINTS)
    assert all("before what was folded; restore the log that belongs to this database" in said for said in why.values())
    profiles.terminate()
    assert await digest_of(house) == state
    await _move_checkpoints(house, -1_000)
    profiles.launch()
    profiles.wait_until_ready()
    await quiet(house)


async def _move_checkpoints(house: House, by: int) -> None:
    database = house.database("profiles")
    try:
        async with database.transaction() as connection:
            statement = (
                f"UPDATE checkpoint SET position = position + {by}, last_position = last_position + {by} "
                "WHERE topic = $1 AND position > 0 AND last_position >= 0"
            )
            await execute(connection, statement, TOUCHPOINTS)
    finally:
        await database.close()


def run(*words: str | Path, **environment: str) -> None:
    """Run a program of PostgreSQL's, or of ours."""
    done = subprocess.run(
        [str(word) for word in words],
        env=environment or dict(os.environ),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
