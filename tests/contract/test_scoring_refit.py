"""A fitted model takes over thousands of customers: stages may change, no alert is raised about the past."""

import json
from collections import Counter
from typing import Any

import pytest

from services.scoring.defaults import default_rules
from services.scoring.domain.definitions import DEFAULT_MODEL, Definition, model_of
from services.scoring.domain.pack import pack_of
from services.scoring.domain.refitting import refit
from shared.database import Database
from shared.events import ProfileChanged
from shared.ids import DAY_MS, partition_of
from tests.builders import a_leaf
from tests.support import cdnow
from tests.support.decisions import Scoring, bought, changed, s
from tests.support.steps import PARTITIONS, START_MS

CUSTOMERS = 2_000
NOW = START_MS
EFFECTIVE_AT = NOW + 5_000


@pytest.fixture
def versions() -> list[Definition]:
    """One that looks two years ahead, and from EFFECTIVE_AT on a fitted one that looks a month ahead: a great step."""
    shipped = dict(DEFAULT_MODEL) | {"horizon": "730d"}
    fitted = refit(cdnow.ledger(), cdnow.CALIBRATION_END, dict(DEFAULT_MODEL), 0.01).model | {"horizon": "30d"}
    pack = pack_of(default_rules())
    return [Definition(1, 0, pack, model_of(shipped)), Definition(2, EFFECTIVE_AT, pack, model_of(fitted))]


def changes() -> list[ProfileChanged]:
    """Customers of the sample, by partition, moved so that its calibration ends now."""
    found = []
    for name, days in list(cdnow.amounts().items())[:CUSTOMERS]:
        who = a_leaf(name)
        times = [(at - cdnow.CALIBRATION_END) / 1000 for at in sorted(days) if at <= cdnow.CALIBRATION_END]
        found.append(changed(who, 1, 0, *(bought(who, at, f"{name}-{at}") for at in times)))
    return sorted(found, key=lambda change: change.customer)


async def test_a_new_model_raises_nothing_about_the_past_and_all_that_is_still_to_come(
    database: Database, versions: list[Definition]
) -> None:
    scoring = Scoring(database, definitions=[versions[0]])
    for partition in range(PARTITIONS):
        await scoring.acquire(partition)
    by_partition: dict[int, list[ProfileChanged]] = {}
    for change in changes():
        by_partition.setdefault(_partition(change), []).append(change)
    for partition, told in by_partition.items():
        await scoring.fold(partition, told)
    await scoring.reach(s(1))
    before = len(await scoring.sent())
    unarmed = {row.customer for row in (await scoring.rows()).values() if row.due_at is None}

    scoring.definitions.append(versions[1])
    await scoring.reach(EFFECTIVE_AT + 1)

    said = await said_since(scoring, before)
    assert {(event["type"], event["data"]["cause"]) for event in said} == {
        ("raftar.segment.changed", "definition_changed")
    }
    assert len(said) > CUSTOMERS / 50, "the new model must matter, or this shows nothing"
    assert max(Counter(event["subject"] for event in said).values()) == 1
    rows = await scoring.rows()
    assert {row.decision.version for row in rows.values()} == {2}
    assert unarmed, "whom time alone decides nothing about any more is armed anew all the same"
    passed = {customer for customer, row in rows.items() if row.decision.passed}
    assert len(passed) > CUSTOMERS / 50, "many were silent by the new model already, and are passed over"
    await scoring.check()

    before = len(await scoring.sent())
    await scoring.reach(NOW + 60 * DAY_MS)

    raised = [event for event in await said_since(scoring, before) if event["type"] == "raftar.alert.raised"]
    assert raised, "crossings still to come are raised"
    assert all(event["data"]["crossed_at"] > EFFECTIVE_AT for event in raised)
    assert all(event["data"]["raised_at"] == event["data"]["crossed_at"] for event in raised)
    assert not passed & {bytes.fromhex(event["subject"]) for event in raised}


async def said_since(scoring: Scoring, count: int) -> list[dict[str, Any]]:
    """What was said after the first `count` events."""
    return [json.loads(value) for _, _, _, value in (await scoring.sent())[count:]]


def _partition(change: ProfileChanged) -> int:
    return partition_of(change.customer, PARTITIONS)
