"""Silence, bad experience and late evidence: each sentence of the rules of time, on customers made by hand."""

import msgspec
import pytest

from services.scoring.domain.alerts import (
    AlertExpired,
    AlertJudged,
    AlertRaised,
    AlertRecovered,
    StageChanged,
    alert_id,
)
from services.scoring.domain.conditions import Reading
from services.scoring.domain.decision import INITIAL, Decision, advance, due, hold, on_change
from services.scoring.domain.definitions import Definition
from services.scoring.domain.silence import crossing, silent
from services.scoring.domain.snapshot import Snapshot, buying
from shared.events import PUBLIC, FactRef
from shared.ids import DAY_MS
from tests.unit.scoring_cases import (
    DEFINITION,
    LEAF,
    a_definition,
    a_fact,
    alerts_of,
    bought,
    churn_risk,
    day,
    live,
    names,
)

REGULAR = bought(0, 10, 20, 30)


def crossing_of(snapshot: Snapshot) -> int:
    """The silence crossing of a customer, as the predicate has it."""
    reading = Reading(buying(snapshot), None, DEFINITION.model)
    crossed_at = crossing(DEFINITION, reading)
    assert crossed_at is not None
    assert silent(DEFINITION, reading, crossed_at)
    assert not silent(DEFINITION, reading, crossed_at - 1)
    return crossed_at


CROSSED = crossing_of(REGULAR)


def silent_customer() -> Decision:
    """A regular customer one day after the silence alert was raised."""
    decision = advance(live(REGULAR), REGULAR, CROSSED + DAY_MS, DEFINITION).decision
    assert [alert.state for alert in decision.alerts] == ["open"]
    return decision


def test_the_alert_is_raised_at_its_crossing_and_not_a_millisecond_before_the_watermark_allows() -> None:
    decision = live(REGULAR)
    assert due(decision, REGULAR, DEFINITION) == CROSSED
    assert names(advance(decision, REGULAR, CROSSED, DEFINITION)) == []
    outcome = advance(decision, REGULAR, CROSSED + 1, DEFINITION)
    assert names(outcome) == ["stage.changed", "alert.raised"]
    assert [t.at for t in outcome.transitions] == [CROSSED, CROSSED]
    assert [t.sequence for t in outcome.transitions] == [3, 4]
    alert = alerts_of(outcome)[0]
    assert (alert.crossed_at, alert.raised_at, alert.opened_at, alert.leaf) == (CROSSED, CROSSED, day(30), LEAF)
    assert alert.id == alert_id("w", "silence", f"order:{day(30)}", "purchased")
    assert outcome.decision.settled == CROSSED


def test_facts_alone_raise_no_silence_alert_however_late_they_are_judged() -> None:
    late = day(400)
    outcome = on_change(INITIAL, Snapshot("w"), REGULAR, (), late, None, DEFINITION)
    assert names(outcome) == ["stage.changed"]
    assert outcome.decision.settled == -1
    outcome = on_change(outcome.decision, REGULAR, REGULAR, (), late, None, DEFINITION)
    assert names(outcome) == []


def test_what_lies_behind_is_due_at_once_and_says_when_it_was_crossed() -> None:
    """A phone that was off line: the purchases arrive long after the silence they prove began."""
    arrived = day(200)
    decision = on_change(INITIAL, Snapshot("w"), REGULAR, (), arrived, arrived, DEFINITION).decision
    assert decision.stage == "at_risk"
    assert due(decision, REGULAR, DEFINITION) == arrived == decision.settled + 1
    alert = alerts_of(advance(decision, REGULAR, arrived + 1, DEFINITION))[0]
    assert (alert.raised_at, alert.crossed_at) == (arrived, CROSSED)


def test_a_purchase_at_the_same_instant_as_the_timer_wins() -> None:
    decision = live(REGULAR)
    back = bought(0, 10, 20, 30, (CROSSED - day(0)) / DAY_MS)
    assert back.purchases[-1].at == CROSSED
    outcome = on_change(decision, REGULAR, back, (), CROSSED, CROSSED + 5, DEFINITION)
    assert names(outcome) == []
    assert outcome.unsettled_silences == 0


def test_a_silence_that_ended_before_it_was_settled_raises_nothing_and_is_counted() -> None:
    decision = live(REGULAR)  # settled just before day 30: the watermark stood still
    back = bought(0, 10, 20, 30, 300)
    outcome = on_change(decision, REGULAR, back, (), day(300), day(31), DEFINITION)
    assert names(outcome) == []
    assert outcome.unsettled_silences == 1
    raised = alerts_of(advance(outcome.decision, back, day(900), DEFINITION))[0]
    assert (raised.raised_at, raised.crossed_at) == (crossing_of(back), crossing_of(back))
    assert on_change(outcome.decision, back, back, (), day(301), day(31), DEFINITION).unsettled_silences == 0


def test_a_stage_that_depends_on_silence_is_asked_at_the_settled_clock_only() -> None:
    """Recorded on day 300 with the watermark at day 31: 270 days of silence are not yet known to be silent."""
    outcome = on_change(live(REGULAR), REGULAR, REGULAR, (a_fact("page_viewed"),), day(300), day(31), DEFINITION)
    assert names(outcome) == []
    outcome = on_change(live(REGULAR), REGULAR, REGULAR, (a_fact("page_viewed"),), day(300), day(300), DEFINITION)
    assert names(outcome) == ["stage.changed", "alert.raised"]
    assert [t.cause.what for t in outcome.transitions] == ["time", "time"]


def test_a_change_of_stage_by_facts_is_stamped_with_the_later_of_record_and_last_decision() -> None:
    decision = silent_customer()
    back = bought(0, 10, 20, 30, 200)
    outcome = on_change(decision, REGULAR, back, (a_fact("purchased", day(200)),), day(1), day(90), DEFINITION)
    assert {t.at for t in outcome.transitions} == {decision.decided_at} == {CROSSED}
    assert outcome.transitions[0].cause.facts == (a_fact("purchased", day(200)).id,)


def test_the_customer_who_returns_has_recovered() -> None:
    back_at = CROSSED + 2 * DAY_MS
    back = bought(0, 10, 20, 30, (back_at - day(0)) / DAY_MS)
    outcome = on_change(silent_customer(), REGULAR, back, (), back_at, back_at, DEFINITION)
    assert names(outcome) == ["alert.recovered", "stage.changed"]
    assert alerts_of(outcome)[0].revision == 2
    assert outcome.decision.stage == "active"
    next_alert = alerts_of(advance(outcome.decision, back, back_at + 900 * DAY_MS, DEFINITION))[0]
    assert (next_alert.spell, next_alert.revision) == (back.purchases[-1].key, 1)


def test_a_late_purchase_before_the_alert_takes_it_back_and_the_new_silence_is_told_when_it_comes() -> None:
    decision = silent_customer()
    late = bought(0, 10, 20, 30, (CROSSED - DAY_MS - day(0)) / DAY_MS)
    outcome = on_change(decision, REGULAR, late, (), CROSSED + 2 * DAY_MS, CROSSED + 2 * DAY_MS, DEFINITION)
    assert names(outcome) == ["alert.retracted", "stage.changed"]
    assert due(outcome.decision, late, DEFINITION) == crossing_of(late)


def test_a_purchase_at_the_very_instant_of_the_alert_takes_it_back() -> None:
    late = bought(0, 10, 20, 30, (CROSSED - day(0)) / DAY_MS)
    outcome = on_change(silent_customer(), REGULAR, late, (), CROSSED + DAY_MS, CROSSED + DAY_MS, DEFINITION)
    assert names(outcome)[0] == "alert.retracted"


def test_a_retracted_alert_comes_again_under_its_id() -> None:
    """An old gap turns up late: the customer is slower than thought, so the same silence counts from a later day."""
    slower = bought(-300, 0, 10, 20, 30)
    assert crossing_of(slower) > CROSSED + DAY_MS
    taken_back = on_change(silent_customer(), REGULAR, slower, (), CROSSED + DAY_MS, CROSSED + DAY_MS, DEFINITION)
    assert names(taken_back)[0] == "alert.retracted"
    again = advance(taken_back.decision, slower, crossing_of(slower) + 1, DEFINITION)
    assert "alert.raised" in names(again)
    assert alerts_of(again)[0].id == alerts_of(taken_back)[0].id
    assert [alerts_of(taken_back)[0].revision, alerts_of(again)[0].revision] == [2, 3]


def test_late_evidence_that_leaves_the_silence_true_amends_it_once() -> None:
    denser = bought(0, 5, 10, 20, 30)
    outcome = on_change(silent_customer(), REGULAR, denser, (), CROSSED + DAY_MS, CROSSED + DAY_MS, DEFINITION)
    assert names(outcome) == ["alert.amended"]
    assert alerts_of(outcome)[0].crossed_at == crossing_of(denser)
    assert alerts_of(outcome)[0].raised_at == CROSSED
    assert names(on_change(outcome.decision, denser, denser, (), day(99), CROSSED + 9, DEFINITION)) == []


def test_an_alert_that_was_early_but_is_true_by_now_stands() -> None:
    """A purchase on day 35 makes the alert early; by the time it is read, the silence since has crossed as well."""
    later = bought(0, 10, 20, 30, 35)
    known_at = crossing_of(later) + 10 * DAY_MS
    assert crossing_of(later) > CROSSED
    decision = advance(live(REGULAR), REGULAR, known_at, DEFINITION).decision
    outcome = on_change(decision, REGULAR, later, (), known_at, known_at, DEFINITION)
    assert names(outcome) == ["alert.amended"]
    assert alerts_of(outcome)[0].spell == later.purchases[-1].key
    assert due(outcome.decision, later, DEFINITION) != outcome.decision.settled + 1
    assert names(advance(outcome.decision, later, known_at + 9 * DAY_MS, DEFINITION)) == []


def test_a_closed_alert_is_corrected_at_most_once() -> None:
    back_at = CROSSED + 2 * DAY_MS
    back_day = (back_at - day(0)) / DAY_MS
    back = bought(0, 10, 20, 30, back_day)
    recovered = on_change(silent_customer(), REGULAR, back, (), back_at, back_at, DEFINITION).decision
    unseen = bought(0, 10, 20, 30, 50, back_day)
    outcome = on_change(recovered, back, unseen, (), back_at + 1, back_at + 1, DEFINITION)
    assert names(outcome) == ["alert.judged"]
    judged = outcome.transitions[0]
    assert isinstance(judged, AlertJudged)
    assert judged.verdict == "false_alarm"
    again = bought(0, 10, 20, 30, 49, 50, back_day)
    assert names(on_change(outcome.decision, unseen, again, (), back_at + 2, back_at + 2, DEFINITION)) == []


def test_a_cancelled_purchase_history_takes_the_alert_with_it() -> None:
    outcome = on_change(silent_customer(), REGULAR, Snapshot("w"), (), CROSSED + 5, CROSSED + 5, DEFINITION)
    assert names(outcome) == ["alert.retracted", "stage.changed"]
    assert outcome.decision.stage == "prospect"


def test_one_silence_is_one_alert_and_ends_as_lost() -> None:
    outcome = advance(live(REGULAR), REGULAR, day(3000), DEFINITION)
    assert [t.at for t in outcome.transitions if isinstance(t, AlertRaised)] == [CROSSED]
    assert [t.at for t in outcome.transitions if isinstance(t, AlertExpired)] == [CROSSED + 365 * DAY_MS]
    assert outcome.decision.stage == "lost"
    assert due(outcome.decision, REGULAR, DEFINITION) is None


@pytest.mark.parametrize(
    "fact",
    [
        a_fact("complained", day(31)),
        a_fact("ticket_reopened", day(31), key="ticket:7"),
        a_fact("cancellation_intended", day(31)),
        a_fact("survey_answered", day(31), metric="csat", score=2),
        a_fact("survey_answered", day(31), metric="nps", score=6),
    ],
)
def test_a_bad_experience_is_told_at_once_with_its_fact(fact: FactRef) -> None:
    decision = live(REGULAR)
    outcome = on_change(decision, REGULAR, REGULAR, (fact,), day(31) + 7, None, DEFINITION)
    assert names(outcome) == ["alert.raised"]
    assert outcome.transitions[0].at == day(31) + 7
    assert outcome.transitions[0].reasons.facts == (fact,)
    assert names(on_change(outcome.decision, REGULAR, REGULAR, (fact,), day(40), None, DEFINITION)) == []
    assert alerts_of(outcome)[0].expires_at == day(121)


@pytest.mark.parametrize(
    "fact",
    [
        a_fact("survey_answered", day(31), metric="csat", score=3),
        a_fact("survey_answered", day(31), metric="nps", score=7),
        a_fact("survey_answered", day(31), metric="ces", score=1),
        a_fact("refunded", day(31)),
        a_fact("complained", day(-60)),
    ],
)
def test_what_is_not_bad_or_is_long_past_is_not_told(fact: FactRef) -> None:
    assert names(on_change(live(REGULAR), REGULAR, REGULAR, (fact,), day(31), None, DEFINITION)) == []


def complaint() -> Decision:
    """A customer who complained on day 31."""
    fact = a_fact("complained", day(31), key="ticket:1")
    return on_change(live(REGULAR), REGULAR, REGULAR, (fact,), day(31), day(31), DEFINITION).decision


def test_a_good_answer_later_clears_it_an_earlier_or_lukewarm_one_does_not() -> None:
    good = a_fact("survey_answered", day(32), metric="csat", score=4)
    outcome = on_change(complaint(), REGULAR, REGULAR, (good,), day(32), day(32), DEFINITION)
    assert [type(t) for t in outcome.transitions] == [AlertRecovered]
    for fact in (msgspec.structs.replace(good, score=3), msgspec.structs.replace(good, occurred_at=day(30))):
        assert names(on_change(complaint(), REGULAR, REGULAR, (fact,), day(32), day(32), DEFINITION)) == []


def test_it_expires_ninety_days_after_its_fact_and_that_is_a_due_time() -> None:
    lonely = Snapshot("w")
    decision = on_change(INITIAL, lonely, lonely, (a_fact(at=day(31)),), day(31), day(31), DEFINITION).decision
    assert due(decision, lonely, DEFINITION) == day(121)
    outcome = advance(decision, lonely, day(121) + 1, DEFINITION)
    assert [(type(t), t.at) for t in outcome.transitions] == [(AlertExpired, day(121))]
    assert due(outcome.decision, lonely, DEFINITION) is None


def test_a_copy_of_a_closed_complaint_is_silent_and_a_new_one_under_its_key_is_not() -> None:
    good = a_fact("survey_answered", day(32), metric="nps", score=9)
    closed = on_change(complaint(), REGULAR, REGULAR, (good,), day(32), day(32), DEFINITION).decision
    copy = a_fact("complained", day(31) + 4, key="ticket:1", id=bytes(15) + b"c")
    assert names(on_change(closed, REGULAR, REGULAR, (copy,), day(33), day(33), DEFINITION)) == []
    anew = a_fact("complained", day(33), key="ticket:1")
    outcome = on_change(closed, REGULAR, REGULAR, (anew,), day(33), day(33), DEFINITION)
    assert [(a.state, a.revision) for a in alerts_of(outcome)] == [("open", 3)]


def test_a_purchase_of_too_little_trust_neither_counts_nor_closes() -> None:
    trusted = a_definition(purchase_trust_min="secret")
    decision = advance(live(REGULAR, trusted), REGULAR, CROSSED + 1, trusted).decision
    forged = Snapshot("w", (*REGULAR.purchases, bought(100, trust=PUBLIC).purchases[0]))
    outcome = on_change(decision, REGULAR, forged, (), day(100), day(100), trusted)
    assert names(outcome) == []
    assert "secret" in decision_reasons(trusted)[0]


def decision_reasons(definition: Definition) -> tuple[str, ...]:
    """What would clear the silence alert of the regular customer under `definition`."""
    outcome = advance(live(REGULAR, definition), REGULAR, CROSSED + 1, definition)
    return outcome.transitions[-1].reasons.clears


def test_reasons_add_up_to_the_risk_shown() -> None:
    outcome = advance(live(REGULAR), REGULAR, CROSSED + 1, DEFINITION)
    raised = outcome.transitions[-1]
    assert raised.risk == churn_risk(REGULAR, CROSSED, DEFINITION)
    assert sum(part.amount for part in raised.reasons.parts) == pytest.approx(raised.risk, abs=1e-9)
    assert [part.name for part in raised.reasons.parts] == ["base", "silence", "rate"]
    assert all(part.amount > 0 for part in raised.reasons.parts)
    assert (raised.reasons.orders, raised.reasons.silence_ms) == (4, CROSSED - day(30))
    assert [met.condition for met in raised.reasons.conditions] == ["orders >= 2", "p_buy < 0.5", "rhythm >= 0.8"]
    assert raised.reasons.clears == ("purchased",)
    assert isinstance(outcome.transitions[0], StageChanged)
    assert churn_risk(Snapshot("w"), CROSSED, DEFINITION) is None


def test_seconds_are_enough_for_a_trial() -> None:
    quick = a_definition(silence=["silence >= 2s"], days="1s", stages=[
        {"stage": "here", "enter": ["silence < 3s"]}, {"stage": "gone", "enter": []},
    ])  # fmt: skip
    once = bought(0)
    outcome = advance(live(once, quick), once, day(0) + 10_000, quick)
    assert [(n, t.at - day(0)) for n, t in zip(names(outcome), outcome.transitions, strict=True)] == [
        ("alert.raised", 2000),
        ("stage.changed", 3000),
    ]


def test_a_held_customer_is_parked_but_hears_bad_experience() -> None:
    history = on_change(INITIAL, Snapshot("w"), REGULAR, (a_fact(at=day(30)),), day(31), day(31), DEFINITION, "i1")
    assert names(history) == []
    assert history.decision.held == ("i1",)
    assert hold(history.decision, "i1") == history.decision
    assert due(history.decision, REGULAR, DEFINITION) is None
    assert advance(history.decision, REGULAR, day(500), DEFINITION) == (history.decision, (), 0)
    outcome = on_change(history.decision, REGULAR, REGULAR, (a_fact(at=day(32)),), day(32), day(32), DEFINITION)
    assert names(outcome) == ["alert.raised"]
    assert due(outcome.decision, REGULAR, DEFINITION) is None


def test_a_decision_survives_its_bytes() -> None:
    decision = on_change(
        silent_customer(), REGULAR, REGULAR, (a_fact(at=day(90)),), day(90), day(90), DEFINITION
    ).decision
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(decision), type=Decision) == decision
    assert len(msgspec.msgpack.encode(INITIAL)) < 20
