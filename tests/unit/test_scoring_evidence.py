"""What is remembered of a customer's evidence never differs from what is found anew."""

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from services.scoring.domain.decision import INITIAL, advance, due, on_change
from services.scoring.domain.snapshot import Snapshot, local_day, snapshot_of, snapshot_of_state
from shared import profile as profiles
from shared.ids import DAY_MS
from tests.builders import a_touchpoint
from tests.support.decisions import a_definition, bought, changed, leaf_on, s

SARA = leaf_on(0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tehran", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu"])
def test_a_local_day_is_that_of_the_calendar(zone: str) -> None:
    random, place = Random(zone), ZoneInfo(zone)
    for _ in range(3_000):
        at = random.randrange(60 * 365 * DAY_MS)
        calendar = (EPOCH + timedelta(milliseconds=at)).astimezone(place).toordinal() - EPOCH.toordinal()
        assert local_day(at, place) == calendar, at


def test_changes_that_bring_no_purchase_and_no_contract_leave_the_same_snapshot() -> None:
    first = changed(SARA, 1, 0, bought(SARA, 0))
    viewed = changed(SARA, 2, 3, bought(SARA, 0), a_touchpoint("page_viewed", at=s(3), leaf=SARA))
    assert viewed.state != first.state
    again = changed(SARA, 2, 5, bought(SARA, 0), bought(SARA, 5))
    assert snapshot_of_state("main", first.state, UTC) is snapshot_of_state("main", viewed.state, UTC)
    assert snapshot_of_state("main", again.state, UTC) is not snapshot_of_state("main", first.state, UTC)
    assert snapshot_of_state("main", again.state, UTC) == snapshot_of("main", profiles.decode(again.state), UTC)


def test_a_remembered_due_time_is_the_one_found_anew() -> None:
    definition, other = a_definition(), a_definition(silent_after="20s")
    change = changed(SARA, 1, 0, bought(SARA, 0))
    known = snapshot_of_state("main", change.state, UTC)
    decision = on_change(INITIAL, Snapshot("main"), known, change.facts, s(0), None, definition).decision
    for seconds in (0, 5, 10, 10.001, 30, 59.999, 60, 60.001, 500, 2_000):
        for rules in (definition, other, definition):
            fresh = Snapshot(known.workspace, known.purchases, known.contract_ended_at)
            mine, anew = advance(decision, known, s(seconds), rules), advance(decision, fresh, s(seconds), rules)
            assert mine == anew
            assert due(mine.decision, known, rules) == due(anew.decision, fresh, rules)
            assert due(decision, known, rules) == due(decision, fresh, rules)
