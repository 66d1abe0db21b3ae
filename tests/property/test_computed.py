"""What the rules say of the past, computed anew: what live had said of a customer whose events each came in time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.domain.alerts import EXPIRED, OPEN, SILENCE
from services.scoring.domain.computed import computed
from services.scoring.domain.conditions import Reading
from services.scoring.domain.decision import INITIAL, Decision, advance, on_change
from services.scoring.domain.definitions import Definition
from services.scoring.domain.silence import crossing, silent
from services.scoring.domain.snapshot import Snapshot, buying
from tests.property.test_scoring import days, definitions
from tests.unit.scoring_cases import DEFINITION, a_definition, bought, churn_risk, day

moments = st.floats(0, 1500, allow_nan=False).map(day)


def lived(snapshot: Snapshot, at: int, steps: list[int], definition: Definition) -> Decision:
    """Live's decision at `at`: each purchase judged when it came, and time passing in between in steps of its own."""
    decision, seen = INITIAL, Snapshot(snapshot.workspace)
    happened: list[tuple[int, int]] = [(step, -1) for step in steps if step <= at]
    happened += [(purchase.at, n) for n, purchase in enumerate(snapshot.purchases) if purchase.at <= at]
    for when, number in sorted(happened):
        if number < 0:
            decision = advance(decision, seen, when, definition).decision
            continue
        new = Snapshot(snapshot.workspace, snapshot.purchases[: number + 1])
        decision = on_change(decision, seen, new, (), when, when, definition).decision
        seen = new
    return advance(decision, seen, at + 1, definition).decision


@settings(max_examples=150)
@given(days, moments, st.lists(moments, max_size=4), definitions)
def test_it_is_what_live_said_when_everything_came_in_time(
    numbers: list[float], at: int, steps: list[int], definition: Definition
) -> None:
    """Stage (with its hysteresis), an open silence with its exact crossing, and the risk."""
    whole = bought(*numbers)
    known = Snapshot(whole.workspace, tuple(one for one in whole.purchases if one.at <= at))
    if not known.purchases:
        return
    anew = computed(known, known.purchases[0].at, at, definition)
    decision = lived(whole, at, steps, definition)
    assert anew.stage == decision.stage
    spoken = [one.crossed_at for one in decision.alerts if one.policy == SILENCE and one.state == OPEN]
    if all(one.state != EXPIRED for one in decision.alerts):
        assert anew.silent_since == max(spoken, default=None)
    assert anew.reasons.risk == churn_risk(known, at, definition)


def test_a_silence_is_since_its_crossing() -> None:
    """One millisecond before the crossing nobody is silent; from it on they are, since that very instant."""
    definition = a_definition(silence=["silence >= 30d"])
    customer = bought(0, 10)
    crossed_at = crossing(definition, Reading(buying(customer), None, definition.model))
    assert crossed_at == day(40)
    assert computed(customer, day(0), day(40) - 1, definition).silent_since is None
    assert computed(customer, day(0), day(700), definition).silent_since == day(40)  # its alert expired long before
    anew = computed(customer, day(0), day(41), definition)
    assert (anew.silent_since, anew.at, anew.version) == (day(40), day(41), 1)
    assert silent(definition, Reading(buying(customer), None, definition.model), day(41))


def test_somebody_who_never_bought_has_a_stage_and_no_risk() -> None:
    """The first stage that takes them, without a risk."""
    anew = computed(Snapshot("w"), day(0), day(3), DEFINITION)
    assert anew.stage
    assert (anew.reasons.risk, anew.silent_since) == (None, None)


def test_of_very_many_purchases_the_last_ones_decide() -> None:
    """A bot's thousand purchases give the stage of its last ones, in bounded time."""
    many, few = bought(*range(1200)), bought(*range(600, 1200))
    at = day(1260)
    assert computed(many, day(0), at, DEFINITION).stage == computed(few, day(600), at, DEFINITION).stage
