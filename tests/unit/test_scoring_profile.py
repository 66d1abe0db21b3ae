"""From a profile's state to a snapshot: days of the workspace, trusted orders, the end of the last contract."""

from zoneinfo import ZoneInfo

from services.scoring.domain.decision import INITIAL, on_change
from services.scoring.domain.snapshot import Snapshot, buying, local_day, snapshot_of
from shared import profile
from shared.events import PUBLIC, SECRET, Touchpoint
from shared.ids import DAY_MS
from shared.vocabulary import fact_ref
from tests.builders import NOON_MS, a_leaf, a_touchpoint
from tests.unit.scoring_cases import DEFINITION, alerts_of, day

UTC, TEHRAN = ZoneInfo("UTC"), ZoneInfo("Asia/Tehran")


def folded(*touchpoints: Touchpoint, trust: int = SECRET) -> profile.Profile:
    """The profile of these touchpoints."""
    state = profile.new()
    for touchpoint in touchpoints:
        profile.fold(state, touchpoint, "shop", trust)
    return state


def purchase(at: int, order: str) -> Touchpoint:
    """A purchase of 10.00 euros."""
    return a_touchpoint("purchased", at=at, order_id=order, amount="10.00", currency="EUR")


def test_days_are_those_of_the_workspace() -> None:
    assert local_day(day(1) - 1, UTC) == 20_000
    assert local_day(day(1) - 1, TEHRAN) == 20_001
    state = folded(purchase(day(0) + 20 * 3_600_000, "a"), purchase(day(0) + 21 * 3_600_000, "b"))
    orders = {zone.key: buying(snapshot_of("w", state, zone)) for zone in (UTC, TEHRAN)}
    assert {zone: found.orders for zone, found in orders.items() if found} == {"UTC": 1, "Asia/Tehran": 2}


def test_purchases_come_with_their_leaf_and_key_in_order() -> None:
    snapshot = snapshot_of("w", folded(purchase(NOON_MS + 5, "b"), purchase(NOON_MS, "a")), UTC)
    assert [(p.at, p.leaf, p.trust) for p in snapshot.purchases] == [
        (NOON_MS, a_leaf(), SECRET),
        (NOON_MS + 5, a_leaf(), SECRET),
    ]
    assert snapshot.contract_ended_at is None


def test_a_forged_purchase_is_no_purchase_where_trust_is_asked_for() -> None:
    state = folded(purchase(NOON_MS, "forged"), trust=PUBLIC)
    assert len(snapshot_of("w", state, UTC).purchases) == 1
    assert snapshot_of("w", state, UTC, SECRET) == Snapshot("w")


def test_a_contract_ends_with_the_last_subscription() -> None:
    ended = a_touchpoint("subscription_cancelled", at=NOON_MS + DAY_MS, subscription_id="s1")
    started = a_touchpoint("subscription_started", at=NOON_MS, subscription_id="s1")
    other = a_touchpoint("subscription_started", at=NOON_MS, subscription_id="s2")
    assert snapshot_of("w", folded(started), UTC).contract_ended_at is None
    assert snapshot_of("w", folded(started, ended), UTC).contract_ended_at == NOON_MS + DAY_MS
    assert snapshot_of("w", folded(started, ended, other), UTC).contract_ended_at is None


def test_a_low_answer_reaches_its_alert_through_the_reference_of_its_touchpoint() -> None:
    answer = a_touchpoint("survey_answered", at=NOON_MS, response_id="r1", metric="csat", score=2)
    snapshot = snapshot_of("w", folded(answer), UTC)
    reference = fact_ref(answer, SECRET)
    outcome = on_change(INITIAL, Snapshot("w"), snapshot, (reference,), NOON_MS + 9, None, DEFINITION)
    assert [alert.key for alert in alerts_of(outcome)] == [reference.key]
    easy = a_touchpoint("survey_answered", at=NOON_MS, response_id="r2", metric="ces", score=2)
    outcome = on_change(INITIAL, Snapshot("w"), snapshot, (fact_ref(easy, SECRET),), NOON_MS, None, DEFINITION)
    assert alerts_of(outcome) == []
