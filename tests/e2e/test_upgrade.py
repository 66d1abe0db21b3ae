"""Workers of the next version replace those of this one, one after another, under load: nothing is lost or doubled."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec

from shared.events import ProfileChanged
from shared.ids import uuid_text
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, TOUCHPOINTS
from tests.e2e.evidence import events, eventually, records, rows
from tests.e2e.test_restore import digest_of, logged, quiet, refolded
from tests.support.house import House, Service
from tests.support.newer import STRANGE

NEWER = "tests.support.newer"
ORDER = ("scoring", "profiles", "ingest")
"""Who reads comes before who writes."""


@asynccontextmanager
async def complaining(house: House) -> AsyncIterator[set[str]]:
    """People complain during the block, each request until it is acknowledged; the set holds the ids."""
    acknowledged: set[str] = set()

    async def pour() -> None:
        number = 0
        async with house.client("ingest") as client:
            while True:
                number += 1
                names = [f"up-{number}-{n}" for n in range(8)]
                body = [{"kind": "complained", "id": name, "user_id": name} for name in names]
                while (answer := await sent(client, body)) is None:
                    await asyncio.sleep(0.05)
                acknowledged.update(result["id"] for result in answer.json()["results"])
                await asyncio.sleep(0.2)

    task = asyncio.create_task(pour())
    try:
        yield acknowledged
    finally:
        assert not task.done(), task
        task.cancel()
        await asyncio.wait([task])


async def sent(client: httpx.AsyncClient, body: list[dict[str, str]]) -> httpx.Response | None:
    """The door's answer; None while it is being replaced."""
    try:
        answer = await client.post("/v1/touchpoints", json=body)
    except httpx.TransportError:
        return None
    return None if answer.status_code == 503 else answer.raise_for_status()


async def replace(service: Service) -> None:
    """Stop a worker in order, and start the newer one in its place."""
    assert await asyncio.to_thread(service.terminate) in (0, -15)
    service.launcher = NEWER
    service.launch()  # in this thread: it lives as long as the thread does
    await asyncio.to_thread(service.wait_until_ready)


async def test_workers_are_replaced_by_the_next_version_one_after_another_under_load(kafka_house: House) -> None:
    house = kafka_house
    for room in ("profiles", "scoring"):
        house.add(room)
    async with complaining(house) as acknowledged:
        await eventually(_grown(acknowledged, 100), 60, "load")
        for room in ORDER:
            for service in house.of(room):
                count = len(acknowledged)
                await replace(service)
                await eventually(_grown(acknowledged, count + 8), 60, "load goes on")
    await quiet(house)

    assert acknowledged <= await logged(house)
    folded = Counter(uuid_text(row.id) for row in await rows(house, "profiles", "SELECT id FROM touchpoint"))
    assert all(folded[one] == 1 for one in acknowledged)
    assert await digest_of(house) == await refolded(house)
    raised = Counter(
        event.data["causes"][0]
        for event in {event.body["id"]: event for event in await events(house.ground, CHURN_ALERTS)}.values()
        if event.body["type"] == "raftar.alert.raised" and event.data["policy"] == "bad_experience"
    )
    assert {one: raised[one] for one in acknowledged if raised[one] != 1} == {}
    values = [record.value for record in await records(house.ground, PROFILE_CHANGES)]
    newer = sum(msgspec.msgpack.decode(value)[:2] == [ProfileChanged.NAME, 2] for value in values)
    assert newer, "the newer version wrote"
    assert STRANGE in values
    for service in house.of("scoring") + house.of("profiles"):
        await _nothing_stopped(service)
    for second in (house.of("scoring")[1], house.of("profiles")[1]):  # leave the house as it was found
        second.terminate()
        del house.services[second.name]
    print(f"\n{len(acknowledged)} complaints, {newer} changes of the newer version, {TOUCHPOINTS} folded once")


def _grown(found: set[str], count: int):  # type: ignore[no-untyped-def]
    async def met() -> bool:
        return len(found) >= count

    return met


async def _nothing_stopped(service: Service) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        checks = (await client.get(f"{service.url}/readyz")).json()["checks"]
    assert not any(check.get("stopped") for check in checks.values()), checks
