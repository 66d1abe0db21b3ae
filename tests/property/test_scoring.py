"""What holds for every customer, however they buy and whenever we look."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.scoring.domain import mbg
from services.scoring.domain.alerts import SILENCE, AlertRaised, AlertTransition, open_alerts
from services.scoring.domain.conditions import Reading, buys_again
from services.scoring.domain.decision import INITIAL, Decision, Outcome, advance, due, on_change
from services.scoring.domain.definitions import Definition
from services.scoring.domain.lifecycle import next_stage_flip, stage_at
from services.scoring.domain.reasons import parts_of
from services.scoring.domain.rhythm import gamma_cdf
from services.scoring.domain.silence import crossing, silent
from services.scoring.domain.snapshot import Snapshot, buying
from shared.ids import DAY_MS
from tests.support.btyd import mbg_age_at_p_alive
from tests.unit.scoring_cases import DEFINITION, START, a_definition, bought, churn_risk, day

FIXED = a_definition(silence=["silence >= 60d"])
days = st.lists(st.floats(0, 700, allow_nan=False).map(lambda d: round(d, 6)), min_size=1, max_size=12, unique=True)
repeat_days = st.lists(st.integers(0, 700), min_size=2, max_size=10, unique=True)
instants = st.integers(START, day(1500))
definitions = st.sampled_from([DEFINITION, FIXED])


def reading_of(snapshot: Snapshot) -> Reading:
    """What conditions are asked about."""
    return Reading(buying(snapshot), None, DEFINITION.model)


@given(repeat_days, definitions)
def test_the_crossing_is_the_predicates_first_millisecond(numbers: list[int], definition: Definition) -> None:
    reading = reading_of(bought(*numbers))
    crossed_at = crossing(definition, reading)
    assert crossed_at is not None
    assert silent(definition, reading, crossed_at)
    assert not silent(definition, reading, crossed_at - 1)


@given(days, instants, st.sampled_from([rule.stage for rule in DEFINITION.pack.stages]))
def test_a_stage_flips_first_at_the_instant_named(numbers: list[float], after: int, stage: str) -> None:
    reading, pack = reading_of(bought(*numbers)), DEFINITION.pack
    flip = next_stage_flip(pack, reading, after, stage)
    probes = [after + 1 + step for step in (0, 1, 10**6, 10**8, 10**9, 10**10, 10**11)]
    if flip is None:
        assert {stage_at(pack, reading, at, stage).stage for at in probes} == {stage}
    else:
        assert stage_at(pack, reading, flip, stage).stage != stage
        assert {stage_at(pack, reading, at, stage).stage for at in (*probes, flip - 1) if after < at < flip} <= {stage}


@given(days, st.integers(0, 10**11), st.integers(1, 10**11))
def test_the_chance_of_a_purchase_never_rises_with_silence(numbers: list[float], since: int, more: int) -> None:
    b = buying(bought(*numbers))
    assert b is not None
    sooner, later = (buys_again(b, DEFINITION.model, b.last_at + t) for t in (since, since + more))
    assert later <= sooner
    assert 0.0 <= later <= 1.0


@given(days, st.integers(0, 10**11))
def test_reasons_add_up(numbers: list[float], since: int) -> None:
    snapshot = bought(*numbers)
    b = buying(snapshot)
    assert b is not None
    risk = churn_risk(snapshot, b.last_at + since, DEFINITION)
    assert risk is not None
    assert abs(sum(part.amount for part in parts_of(b, DEFINITION.model, b.last_at + since)) - risk) < 1e-9


@given(st.floats(0.1, 50), st.floats(0, 500), st.floats(0, 50))
def test_the_rhythm_quantile_is_a_distribution(shape: float, x: float, more: float) -> None:
    assert -1e-12 <= gamma_cdf(shape, x) <= gamma_cdf(shape, x + more) + 1e-12 <= 1.0 + 2e-12


@given(st.integers(0, 30), st.floats(0, 300), st.floats(0.01, 0.99))
def test_the_closed_form_of_p_alive_meets_p_alive(x: int, t_x: float, threshold: float) -> None:
    age = mbg_age_at_p_alive(mbg.CDNOW, x, t_x, threshold)
    assume(t_x <= age < 1e12)
    assert abs(mbg.p_alive(mbg.CDNOW, x, t_x, age) - threshold) < 1e-9


def lived(numbers: list[float], definition: Definition) -> tuple[Decision, Snapshot]:
    """A customer whose purchases came live, with the watermark a day behind."""
    whole, decision = bought(*numbers), INITIAL
    seen = Snapshot("w")
    for i, purchase in enumerate(whole.purchases):
        new = Snapshot("w", whole.purchases[: i + 1])
        watermark = purchase.at - DAY_MS
        decision = on_change(decision, seen, new, (), purchase.at, watermark, definition).decision
        seen = new
    return decision, whole


@settings(max_examples=60)
@given(days, st.lists(instants, max_size=4), instants, definitions)
def test_advance_in_steps_is_advance_at_once(
    numbers: list[float], stops: list[int], end: int, definition: Definition
) -> None:
    decision, snapshot = lived(numbers, definition)
    at_once = advance(decision, snapshot, max([*stops, end]), definition)
    stepped = Outcome(decision)
    for stop in [*sorted(stops), max([*stops, end])]:
        step = advance(stepped.decision, snapshot, stop, definition)
        stepped = Outcome(step.decision, stepped.transitions + step.transitions)
    assert stepped.transitions == at_once.transitions
    assert stepped.decision == at_once.decision
    assert advance(at_once.decision, snapshot, max([*stops, end]), definition).transitions == ()


@settings(max_examples=60)
@given(days, instants, definitions)
def test_due_is_when_the_next_transition_comes(numbers: list[float], until: int, definition: Definition) -> None:
    decision, snapshot = lived(numbers, definition)
    decision = advance(decision, snapshot, until, definition).decision
    due_at = due(decision, snapshot, definition)
    if due_at is None:
        assert advance(decision, snapshot, day(50_000), definition).transitions == ()
        return
    assert due_at > decision.settled
    assert advance(decision, snapshot, due_at, definition).transitions == ()
    fired = advance(decision, snapshot, due_at + 1, definition).transitions
    assert fired
    assert {transition.at for transition in fired} == {due_at}


@settings(max_examples=60)
@given(days, instants, instants, definitions)
def test_deciding_after_its_own_facts_is_silent(
    numbers: list[float], record: int, mark: int, definition: Definition
) -> None:
    decision, snapshot = lived(numbers, definition)
    once = on_change(decision, snapshot, snapshot, (), record, mark, definition)
    again = on_change(once.decision, snapshot, snapshot, (), record, mark, definition)
    assert again == Outcome(once.decision)


arrivals = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 120), st.integers(0, 60)), min_size=1, max_size=8)


@settings(max_examples=120)
@given(arrivals, definitions)
def test_late_and_disordered_purchases_leave_what_is_true(
    story: list[tuple[int, int, int]], definition: Definition
) -> None:
    """Purchases arrive late and in any order under a watermark that lags: at most one alert is open, it is true when
    everything was read, `settled` never goes back nor passes the watermark, and sequence and revisions ascend.
    """
    decision, seen, mark = INITIAL, Snapshot("w"), 0
    sequence, revisions = 0, dict[bytes, int]()
    for bought_on, late, lag in sorted(story, key=lambda entry: entry[0] + entry[1]):
        record = day(bought_on + late)
        mark = max(mark, record - lag * DAY_MS)
        new = Snapshot("w", tuple(sorted({*seen.purchases, *bought(bought_on).purchases})))
        outcome = on_change(decision, seen, new, (), record, mark, definition)
        after = advance(outcome.decision, new, mark, definition)
        assert not [t for t in outcome.transitions if isinstance(t, AlertRaised) and t.cause.what != "time"]
        assert decision.settled <= outcome.decision.settled <= max(decision.settled, mark - 1)
        for transition in (*outcome.transitions, *after.transitions):
            sequence += 1
            assert transition.sequence == sequence
            alert = getattr(transition, "alert", None)
            if alert is not None:
                assert alert.revision == revisions.get(alert.id, 0) + 1
                revisions[alert.id] = alert.revision
        decision, seen = after.decision, new
        assert len(open_alerts(decision.alerts, SILENCE)) <= 1
    final = advance(decision, seen, mark := max(mark, day(521)), definition).decision
    reading = reading_of(seen)
    crossed_at = crossing(definition, reading)
    is_silent = crossed_at is not None and crossed_at < mark
    told = [a for a in final.alerts if a.policy == SILENCE and a.spell == seen.purchases[-1].key]
    assert bool([a for a in told if a.state in ("open", "expired")]) == is_silent


def lived_under_lag(numbers: list[int], lags: list[int], definition: Definition) -> tuple[list[str], int]:
    """A customer whose purchases come on time while the watermark lags: alert transitions, and silences not settled."""
    decision, seen, mark, unsettled = INITIAL, Snapshot("w"), -1, 0
    told: list[str] = []
    whole = bought(*numbers)
    for i, purchase in enumerate(whole.purchases):
        new = Snapshot("w", whole.purchases[: i + 1])
        mark = max(mark, purchase.at - lags[i % len(lags)] * DAY_MS)
        outcome = on_change(decision, seen, new, (), purchase.at, mark, definition)
        told += [f"{type(t).__name__} {t.alert.spell}" for t in outcome.transitions if isinstance(t, AlertTransition)]
        unsettled += outcome.unsettled_silences
        decision, seen = outcome.decision, new
    outcome = advance(decision, seen, day(5000), definition)
    told += [f"{type(t).__name__} {t.alert.spell}" for t in outcome.transitions if isinstance(t, AlertTransition)]
    return told, unsettled


@settings(max_examples=100)
@given(repeat_days, st.lists(st.integers(0, 400), min_size=1, max_size=6), definitions)
def test_lag_makes_an_alert_late_or_spares_it_and_never_makes_it_wrong(
    numbers: list[int], lags: list[int], definition: Definition
) -> None:
    at_once, nothing_unsettled = lived_under_lag(numbers, [0], definition)
    lagging, unsettled = lived_under_lag(numbers, lags, definition)
    assert nothing_unsettled == 0
    assert not [name for name in lagging if name.startswith(("AlertRetracted", "AlertJudged"))]
    raised_at_once, raised = (
        [name for name in names if name.startswith("AlertRaised")] for names in (at_once, lagging)
    )
    assert set(raised) <= set(raised_at_once)
    assert len(raised) == len(set(raised)) == len(raised_at_once) - unsettled
