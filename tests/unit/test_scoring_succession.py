"""New definitions, released imports, joined and split customers, erasure and a person's word."""

import msgspec
import pytest

from services.scoring.domain.alerts import AlertRaised, StageChanged
from services.scoring.domain.decision import INITIAL, Decision, advance, due, hold, on_change
from services.scoring.domain.joining import give, on_absorbed, on_erased, surrender, take
from services.scoring.domain.snapshot import Snapshot
from services.scoring.domain.succession import advance_through, armed_definition, redefine, release_backfill
from services.scoring.domain.verdicts import acknowledge, judge
from shared.errors import InvalidField, NotFound
from shared.ids import DAY_MS
from tests.unit.scoring_cases import LEAF, a_definition, a_fact, alerts_of, bought, day, live, names

ONCE = bought(0)
OTHER_LEAF = b"\x04" + bytes(15)
LATER = a_definition(2, day(50), silence=["silence >= 40d"])
FIRST = a_definition(1, 0, silence=["silence >= 60d"])


def of(snapshot: Snapshot, leaf: bytes) -> Snapshot:
    """The same purchases by another leaf, under keys of their own."""
    moved = tuple(p._replace(leaf=leaf, key=f"{p.key}/{leaf.hex()[:2]}") for p in snapshot.purchases)
    return Snapshot(snapshot.workspace, moved)


def both(a: Snapshot, b: Snapshot) -> Snapshot:
    """The purchases of two customers as one."""
    return Snapshot(a.workspace, tuple(sorted((*a.purchases, *b.purchases))))


# --- definitions --------------------------------------------------------------------------------------------------


def test_a_new_version_raises_nothing_for_the_past() -> None:
    decision = live(ONCE, FIRST)
    outcome = advance_through(decision, ONCE, day(300), [FIRST, LATER])
    assert [type(t) for t in outcome.transitions if isinstance(t, AlertRaised)] == []
    assert outcome.decision.version == 2
    assert outcome.decision.passed == (ONCE.purchases[-1].key,)


def test_a_new_version_raises_what_is_still_to_come_under_its_own_crossing() -> None:
    early = a_definition(2, day(20), silence=["silence >= 40d"])
    raised = advance_through(live(ONCE, FIRST), ONCE, day(300), [FIRST, early]).transitions
    assert [(t.at, t.version) for t in raised if isinstance(t, AlertRaised)] == [(day(40), 2)]


def test_the_old_version_decides_up_to_the_instant_of_the_new_one() -> None:
    late = a_definition(2, day(61), silence=["silence >= 90d"])
    outcome = advance_through(live(ONCE, FIRST), ONCE, day(300), [FIRST, late])
    assert [(t.at, t.version) for t in outcome.transitions if isinstance(t, AlertRaised)] == [(day(60), 1)]
    steps = advance_through(live(ONCE, FIRST), ONCE, day(30), [FIRST, late])
    rest = advance_through(steps.decision, ONCE, day(300), [FIRST, late])
    assert steps.transitions + rest.transitions == outcome.transitions
    assert rest.decision == outcome.decision


def test_what_a_new_version_says_of_the_past_is_a_stage_with_its_own_cause() -> None:
    stages = [{"stage": "fresh", "enter": ["silence < 10d"]}, {"stage": "stale", "enter": []}]
    strict = a_definition(2, day(20), stages=stages)
    outcome = advance_through(live(ONCE, FIRST), ONCE, day(21), [FIRST, strict])
    assert [(t.at, t.cause.what) for t in outcome.transitions] == [(day(20), "definition_changed")]
    assert names(redefine(outcome.decision, ONCE, strict)) == []


def test_a_customer_is_judged_by_the_version_they_are_armed_with() -> None:
    armed = live(ONCE, FIRST)
    assert armed_definition(armed, [FIRST, LATER]) == FIRST
    assert armed_definition(advance_through(armed, ONCE, day(51), [FIRST, LATER]).decision, [FIRST, LATER]) == LATER
    assert armed_definition(INITIAL, [FIRST, LATER]) == FIRST


# --- imports ------------------------------------------------------------------------------------------------------


def held(snapshot: Snapshot, *imports: str) -> Decision:
    """A customer that came by history only."""
    decision = INITIAL
    for import_id in imports:
        decision = on_change(decision, snapshot, snapshot, (), day(0), day(0), FIRST, import_id).decision
    return decision


def test_released_history_sets_the_stage_and_raises_only_what_is_still_to_come() -> None:
    outcome = release_backfill(held(ONCE, "i1"), ONCE, day(59), FIRST, "i1")
    assert [(type(t), t.cause.what, t.at) for t in outcome.transitions] == [(StageChanged, "backfill", day(59) - 1)]
    assert due(outcome.decision, ONCE, FIRST) == day(60)
    past = release_backfill(held(ONCE, "i1"), ONCE, day(60) + 1, FIRST, "i1").decision
    assert past.passed == (ONCE.purchases[-1].key,)
    assert not [t for t in advance(past, ONCE, day(900), FIRST).transitions if isinstance(t, AlertRaised)]


def test_a_customer_of_two_imports_waits_for_both() -> None:
    one = release_backfill(held(ONCE, "i1", "i2"), ONCE, day(59), FIRST, "i1")
    assert (names(one), one.decision.held) == ([], ("i2",))
    assert due(one.decision, ONCE, FIRST) is None
    assert names(release_backfill(one.decision, ONCE, day(59), FIRST, "i2")) == ["stage.changed"]
    assert names(release_backfill(held(ONCE, "i1", "i2"), ONCE, day(59), FIRST)) == ["stage.changed"]


def test_a_purchase_live_after_a_passed_silence_starts_a_new_one() -> None:
    past = release_backfill(held(ONCE, "i1"), ONCE, day(100), FIRST).decision
    back = bought(0, 110)
    now = on_change(past, ONCE, back, (), day(110), day(110), FIRST).decision
    raised = [t for t in advance(now, back, day(900), FIRST).transitions if isinstance(t, AlertRaised)]
    assert [t.at for t in raised] == [day(170)]


def test_an_open_alert_is_reviewed_when_history_is_complete() -> None:
    decision = advance(live(ONCE, FIRST), ONCE, day(61), FIRST).decision
    fuller = bought(0, 50)
    outcome = release_backfill(hold(decision, "i1"), fuller, day(62), FIRST, "i1")
    assert names(outcome) == ["alert.retracted", "stage.changed"]
    assert {t.cause.what for t in outcome.transitions} == {"backfill"}


# --- links --------------------------------------------------------------------------------------------------------

A, B = ONCE, of(bought(30), OTHER_LEAF)


def test_joined_customers_keep_one_alert_for_one_silence() -> None:
    a = advance(live(A, FIRST), A, day(95), FIRST).decision
    b = advance(live(B, FIRST), B, day(95), FIRST).decision
    joined = on_change(a, A, both(A, B), (), day(95), day(95), FIRST)
    assert names(joined) == ["alert.amended", "stage.changed"]
    outcome = on_absorbed(joined.decision, b, both(A, B), day(96), FIRST)
    assert names(outcome) == ["alert.amended", "alert.retracted"]
    assert [(x.state, x.leaf) for x in outcome.decision.alerts] == [("retracted", LEAF), ("open", OTHER_LEAF)]
    assert names(advance(outcome.decision, both(A, B), day(300), FIRST)) == []


def test_whichever_side_of_a_join_is_read_first_the_open_alert_is_the_same() -> None:
    a = advance(live(A, FIRST), A, day(95), FIRST).decision
    b = advance(live(B, FIRST), B, day(95), FIRST).decision
    first_change = on_change(a, A, both(A, B), (), day(95), day(95), FIRST).decision
    one = on_absorbed(first_change, b, both(A, B), day(96), FIRST).decision
    first_absorbed = on_absorbed(a, b, A, day(96), FIRST).decision
    other = on_change(first_absorbed, A, both(A, B), (), day(95), day(95), FIRST).decision
    for decision in (one, other):
        assert [x.leaf for x in decision.alerts if x.state == "open"] == [OTHER_LEAF]
        assert names(advance(decision, both(A, B), day(300), FIRST)) == []


def test_a_root_that_was_not_read_yet_takes_the_alerts_and_reviews_them_with_its_change() -> None:
    b = advance(live(B, FIRST), B, day(95), FIRST).decision
    waiting = on_absorbed(INITIAL, b, Snapshot("w"), day(96), FIRST)
    assert names(waiting) == []
    assert due(waiting.decision, Snapshot("w"), FIRST) == day(90) + 365 * DAY_MS
    came = on_change(waiting.decision, Snapshot("w"), both(A, B), (), day(96), day(96), FIRST)
    assert names(came) == ["alert.amended", "stage.changed"]
    assert came.transitions[0].sequence > b.sequence
    assert [x.state for x in came.decision.alerts] == ["open"]


def test_a_join_that_ends_a_silence_takes_its_alert_back() -> None:
    a = advance(live(A, FIRST), A, day(61), FIRST).decision
    b = live(B, FIRST)
    outcome = on_absorbed(a, b, both(A, B), day(61), FIRST)
    assert names(outcome) == ["alert.retracted"]
    assert outcome.transitions[0].cause.what == "absorbed"
    assert due(outcome.decision, both(A, B), FIRST) == day(61)  # its stage is told with its own change or at once


def test_a_split_moves_the_alert_with_its_leaf() -> None:
    whole = both(A, B)
    decision = advance(live(whole, FIRST), whole, day(95), FIRST).decision
    stays, moved = give(decision, {OTHER_LEAF})
    assert (stays.alerts, [x.leaf for x in moved.alerts]) == ((), [OTHER_LEAF])
    taken = take(INITIAL, moved)
    came = on_change(taken, Snapshot("w"), B, (), day(96), day(96), FIRST)
    assert names(came) == ["alert.amended", "stage.changed"]
    assert take(came.decision, moved) == came.decision
    left = on_change(stays, whole, A, (), day(96), day(96), FIRST)
    assert names(left) == ["stage.changed"]
    own = advance(left.decision, A, day(97), FIRST)
    assert [(a.raised_at, a.crossed_at) for a in alerts_of(own)] == [(day(96), day(60))]


def test_of_two_revisions_of_one_alert_the_higher_holds() -> None:
    decision = advance(live(ONCE, FIRST), ONCE, day(61), FIRST).decision
    newer = msgspec.structs.replace(decision.alerts[0], revision=9)
    _, moved = give(msgspec.structs.replace(decision, alerts=(newer,)), {LEAF})
    assert take(decision, moved).alerts == (newer,)
    _, older = give(decision, {LEAF})
    assert take(take(INITIAL, moved), older).alerts == (newer,)


def test_erasing_closes_what_is_open_and_forgets_the_rest() -> None:
    decision = advance(live(ONCE, FIRST), ONCE, day(61), FIRST).decision
    outcome = on_erased(decision, day(62), ONCE, FIRST)
    assert names(outcome) == ["alert.retracted", "customer.erased", "customer.erased"]
    assert outcome.transitions[0].reasons.parts == ()
    assert outcome.transitions[0].risk is None
    assert outcome.decision == surrender(outcome.decision)
    assert outcome.decision.sequence == decision.sequence + 3
    assert due(outcome.decision, Snapshot("w"), FIRST) is None


# --- a person's word ------------------------------------------------------------------------------------------------


def test_a_person_acknowledges_once_and_judges_once() -> None:
    decision = advance(live(ONCE, FIRST), ONCE, day(61), FIRST).decision
    alert = decision.alerts[0].id
    seen = acknowledge(decision, alert, day(62), ONCE, FIRST)
    assert names(seen) == ["alert.acknowledged"]
    assert names(acknowledge(seen.decision, alert, day(63), ONCE, FIRST)) == []
    judged = judge(seen.decision, alert, "false_alarm", day(64), ONCE, FIRST)
    assert [(a.state, a.revision, a.corrected) for a in alerts_of(judged)] == [("judged", 3, True)]
    with pytest.raises(InvalidField):
        judge(judged.decision, alert, "true_alarm", day(65), ONCE, FIRST)
    with pytest.raises(InvalidField):
        judge(decision, alert, "perhaps", day(65), ONCE, FIRST)
    with pytest.raises(NotFound):
        acknowledge(decision, bytes(16), day(65), ONCE, FIRST)
    later = advance(judged.decision, ONCE, day(900), FIRST)
    assert "alert.raised" not in names(later)


def test_what_a_person_judged_no_late_fact_corrects() -> None:
    decision = advance(live(ONCE, FIRST), ONCE, day(61), FIRST).decision
    judged = judge(decision, decision.alerts[0].id, "true_alarm", day(62), ONCE, FIRST).decision
    outcome = on_change(judged, ONCE, bought(0, 50), (), day(63), day(63), FIRST)
    assert names(outcome) == ["stage.changed"]


def test_a_complaint_is_not_forgotten_by_a_join() -> None:
    complained = on_change(live(A, FIRST), A, A, (a_fact(at=day(1)),), day(1), day(1), FIRST).decision
    outcome = on_absorbed(live(B, FIRST), complained, both(A, B), day(31), FIRST)
    assert [a.policy for a in outcome.decision.alerts] == ["bad_experience"]
