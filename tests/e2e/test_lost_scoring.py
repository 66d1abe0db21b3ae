"""The scoring database is deleted under a house: it comes back from what was said, and every alert is said once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrations import migrate
from shared.clock import SystemClock
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES
from tests.e2e.evidence import Event, events, eventually
from tests.e2e.rules import rules
from tests.e2e.test_end_to_end import alerts_of, customer, post, purchase, somebody
from tests.support.house import Ground, House, closing

SILENCE_MS = 4_000
PATIENCE_SECONDS = 60.0

_clock = SystemClock()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An embedded house of its own: its scoring database will be deleted."""
    made = House(Ground(tmp_path), rules(f"{SILENCE_MS}ms"))
    asyncio.run(made.prepare())
    with closing(made):
        made.start()
        yield made


def test_a_deleted_scoring_database_comes_back_and_says_nothing_twice(house: House) -> None:
    asyncio.run(_story(house))


async def _story(house: House) -> None:
    silent, busy = somebody(), somebody()
    await post(house, purchase(silent, _clock.now_ms()))

    async def raised() -> list[Event]:
        return [one for one in await events(house.ground, CHURN_ALERTS) if one.body["type"] == "raftar.alert.raised"]

    await eventually(raised, PATIENCE_SECONDS, "the first silence is said")
    before = await events(house.ground, CHURN_ALERTS) + await events(house.ground, SEGMENT_CHANGES)

    scoring = house.of("scoring")[0]
    scoring.kill9()
    for path in house.ground.folder.glob("scoring.db*"):
        path.unlink()
    await post(house, purchase(busy, _clock.now_ms()))  # nobody decides about them now
    database = house.database("scoring")
    try:
        await migrate(database, "scoring")
    finally:
        await database.close()
    await asyncio.to_thread(scoring.launch)
    await asyncio.to_thread(scoring.wait_until_ready, PATIENCE_SECONDS)

    async def both() -> bool:
        views = [await customer(house, f"user:{user}") for user in (silent, busy)]
        found = [await alerts_of(house, view) if view else [] for view in views]
        return all(len(alerts) == 1 for alerts in found)

    await eventually(both, PATIENCE_SECONDS, "the old alert is known again, and the new one is raised")
    alerts = await events(house.ground, CHURN_ALERTS)
    said = Counter(one.data["alert_id"] for one in alerts if one.body["type"] == "raftar.alert.raised")
    assert sorted(said.values()) == [1, 1], said
    after = alerts + await events(house.ground, SEGMENT_CHANGES)
    assert [one.value for one in before if one.value not in {other.value for other in after}] == []
    stages = [one for one in after if one.topic == SEGMENT_CHANGES]
    assert max(Counter((one.body["subject"], one.data["stage"]) for one in stages).values()) == 1
