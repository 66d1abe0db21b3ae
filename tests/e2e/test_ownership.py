"""Several workers on Kafka and PostgreSQL: they share the partitions, take over from the dead, and no partition is ever
left alone. Kafka's groups say who should fold; the database alone decides who may.
"""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from services.first_start import open_log
from services.profiles.digest import digest, refold
from shared.checkpoint import acquire
from shared.clock import SystemClock
from shared.topics import CHURN_ALERTS
from tests.e2e.evidence import Quiet, events, eventually, rows
from tests.support.house import House, Service

TAKE_OVER_SECONDS = 30.0
FROZEN_SECONDS = 10.0
CROWD = 64
"""So many that every partition has some of them."""

ROOMS = {"profiles": "touchpoints", "scoring": "profile-changes"}
"""Service → the topic its workers share."""

_clock = SystemClock()
_numbers = itertools.count()


@pytest.fixture
def second(request: pytest.FixtureRequest, kafka_house: House) -> Iterator[Service]:
    """One more worker of the service under test; it leaves in order."""
    room: str = request.getfixturevalue("room")
    service = kafka_house.add(room)
    try:
        yield service
    finally:
        if service.alive():
            service.terminate()
        del kafka_house.services[service.name]
        for other in kafka_house.of(room):
            other.wait_until_ready()


@pytest.fixture(params=sorted(ROOMS))
def room(request: pytest.FixtureRequest) -> str:
    """Both folding services."""
    name: str = request.param
    return name


async def shares(house: House, room: str) -> list[int]:
    """How many partitions each worker has in its hands; a dead one has none."""

    async def share(client: httpx.AsyncClient, service: Service) -> int:
        try:
            told = (await client.get(f"{service.url}/readyz")).json()
        except httpx.TransportError:
            return 0
        held: int = told["checks"][ROOMS[room]]["partitions"]
        return held

    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        return [await share(client, service) for service in house.of(room)]


async def shared_out(house: House, room: str) -> list[int]:
    """Wait until every partition is in exactly one pair of hands, and nobody idles."""

    async def even() -> list[int] | None:
        held = await shares(house, room)
        return held if sum(held) == house.ground.partitions and all(held) else None

    held: list[int] = await eventually(even, TAKE_OVER_SECONDS, f"every worker of {room} has its share")
    return held


async def complaints(house: House) -> set[str]:
    """A crowd complains, spread over all partitions; returns the ids the door gave."""
    people = [f"own-{_clock.now_ms()}-{next(_numbers)}" for _ in range(CROWD)]
    bodies = [{"kind": "complained", "id": person, "user_id": person} for person in people]
    async with house.client("ingest") as client:
        answer = (await client.post("/v1/touchpoints", json=bodies)).raise_for_status().json()
    return {result["id"] for result in answer["results"]}


async def answered(house: House, asked: set[str], seconds: float = TAKE_OVER_SECONDS) -> float:
    """Wait until each of them has its alert on the topic; returns the seconds that took."""
    began = time.monotonic()

    async def all_told() -> bool:
        return asked <= {
            cause for event in await events(house.ground, CHURN_ALERTS) for cause in event.data.get("causes", ())
        }

    await eventually(all_told, seconds, "an alert for each complaint")
    return time.monotonic() - began


async def metric(service: Service, name: str) -> float:
    """The sum of one metric of a service over its labels."""
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:_total)?(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def folded_once_in_order(house: House) -> None:
    """Nothing is folded twice or left out, and the states are those of a fold from the start."""
    quiet = Quiet(house)
    await eventually(quiet.reached, TAKE_OVER_SECONDS, "quiescence")
    folded = await rows(house, "profiles", "SELECT id, day, scope FROM touchpoint")
    assert max(Counter(tuple(row) for row in folded).values()) == 1
    database = house.database("profiles")
    try:
        live = await digest(database)
    finally:
        await database.close()
    async with open_log(house.ground.settings, _clock) as log:
        anew = await refold(log)
    assert (anew.digest, anew.touchpoints) == (live, len(folded))


async def test_two_workers_share_the_partitions_and_one_that_stops_hands_over_at_once(
    kafka_house: House, room: str, second: Service
) -> None:
    held = await shared_out(kafka_house, room)
    seconds = await answered(kafka_house, await complaints(kafka_house))
    second.terminate()
    handed_over = await answered(kafka_house, await complaints(kafka_house))
    print(f"\n{room}: partitions {held}, answered in {seconds:.1f} s, after an orderly stop in {handed_over:.1f} s")


async def test_a_worker_killed_with_9_is_replaced_within_thirty_seconds(
    kafka_house: House, room: str, second: Service
) -> None:
    await shared_out(kafka_house, room)
    second.kill9()
    seconds = await answered(kafka_house, await complaints(kafka_house))
    print(f"\n{room}: the rest took over in {seconds:.1f} s")
    second.launch()
    second.wait_until_ready()
    await shared_out(kafka_house, room)
    await folded_once_in_order(kafka_house)


async def test_a_frozen_worker_that_wakes_is_refused_and_comes_back_in_order(
    kafka_house: House, room: str, second: Service
) -> None:
    await shared_out(kafka_house, room)
    asked = await complaints(kafka_house)
    second.freeze()  # in the middle of what it has just read
    try:
        asked |= await complaints(kafka_house)
        seconds = await answered(kafka_house, asked)
        await asyncio.sleep(max(0.0, FROZEN_SECONDS - seconds))
    finally:
        second.thaw()
    during = await complaints(kafka_house)
    woken = await answered(kafka_house, during)
    held = await shared_out(kafka_house, room)
    after = await answered(kafka_house, await complaints(kafka_house))
    refused = await metric(second, f"raftar_{room}_loop_refused")
    print(
        f"\n{room}: answered {seconds:.1f} s into the freeze, {woken:.1f} s after the thaw, {after:.1f} s with {held}, "
        f"{refused:.0f} writes refused"
    )
    await folded_once_in_order(kafka_house)


async def test_a_refused_worker_never_strands_a_partition(kafka_house: House, room: str) -> None:
    [worker] = kafka_house.of(room)
    before = await metric(worker, f"raftar_{room}_loop_refused")
    async with open_log(kafka_house.ground.settings, _clock) as log:
        identity = await log.identity(ROOMS[room])
    database = kafka_house.database(room)
    try:
        for _ in range(3):  # a rival, again and again, who then does nothing
            async with database.transaction() as connection:
                for partition in range(kafka_house.ground.partitions):  # in the one order in which everybody locks them
                    await acquire(connection, ROOMS[room], partition, identity)
            seconds = await answered(kafka_house, await complaints(kafka_house))
    finally:
        await database.close()
    refused = await metric(worker, f"raftar_{room}_loop_refused") - before
    print(f"\n{room}: {refused:.0f} writes refused, answered {seconds:.1f} s after the last")
    assert refused >= 1
    assert await shares(kafka_house, room) == [kafka_house.ground.partitions]
    await folded_once_in_order(kafka_house)
