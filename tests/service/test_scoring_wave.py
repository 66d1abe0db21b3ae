"""Thousands of silences that cross in one millisecond: all are told, and a new fact's alert does not wait for them."""

from pathlib import Path
from typing import Any

import pytest

from services.scoring import decide
from shared.ids import partition_of
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES
from tests.service.scoring_house import PARTITIONS, Customer, house, until
from tests.service.test_scoring_alerts import HOUR_MS, SILENCE, a_definition

CUSTOMERS = 500
PAGE = 10


async def test_a_wave_is_told_whole_and_a_complaint_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The complaint comes when little of the wave is told, and is told before the rest of its partition is."""
    monkeypatch.setattr(decide, "PAGE", PAGE)
    async with house(tmp_path, definitions=[a_definition(1, 0, SILENCE)]) as scoring:
        at = scoring.clock.now_ms()
        customers = [Customer(f"c{number}") for number in range(CUSTOMERS)]
        await scoring.change(*(one.change(one.bought(at), at=at) for one in customers))
        await scoring.until_said(CUSTOMERS, SEGMENT_CHANGES)
        scoring.clock.advance(HOUR_MS + 1)
        await until(lambda: scoring.feed.age_seconds() < 1)
        await scoring.watermark(scoring.clock.now_ms())
        await scoring.until_metric("raftar_scoring_fired_total", 2 * PAGE)
        now, ali = scoring.clock.now_ms(), Customer("ali")
        await scoring.change(ali.change(ali.touchpoint("complained", now, ticket_id="T1"), at=now))

        events = await scoring.until_said(CUSTOMERS + 1, CHURN_ALERTS)

    of_ali = [event for event in events if event["subject"] == ali.text]
    assert [event["data"]["policy"] for event in of_ali] == ["bad_experience"]
    its_partition = [event for event in events if _partition(event) == partition_of(ali.id, PARTITIONS)]
    assert its_partition.index(of_ali[0]) < len(its_partition) - PAGE
    assert len({event["subject"] for event in events}) == CUSTOMERS + 1
    assert all(event["data"]["crossed_at"] == at + HOUR_MS for event in events if event not in of_ali)


def _partition(event: dict[str, Any]) -> int:
    return partition_of(bytes.fromhex(event["subject"]), PARTITIONS)
