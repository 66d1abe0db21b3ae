"""Rule packs: what they say, how wrong ones are refused, and the exact instants of the default stages."""

from pathlib import Path
from typing import Any

import pytest

from services.scoring.defaults import default_rules, first_definition
from services.scoring.domain.conditions import FEATURES, Reading, condition_of, duration_ms, flip_after, holds
from services.scoring.domain.crossing import first_true
from services.scoring.domain.decision import due
from services.scoring.domain.definitions import DEFAULT_MODEL, definition_of, in_force, model_of
from services.scoring.domain.pack import Trigger, pack_of, rules_of
from services.scoring.domain.snapshot import Snapshot, buying
from shared.errors import InvalidField
from shared.ids import DAY_MS
from tests.unit.scoring_cases import DEFINITION, a_definition, a_fact, bought, day, live, silence_after


def stage(snapshot: Snapshot, at: int) -> str:
    """The stage at `at` of a customer whose purchases came live, silence decided up to `at`."""
    return silence_after(snapshot, live(snapshot), at + 1).decision.stage


@pytest.mark.parametrize(
    ("days", "at", "before", "after"),
    [
        ((0,), 30, "new", "second_order_window"),
        ((0,), 120, "second_order_window", "one_time"),
        ((0, 10), 375, "at_risk", "lost"),
        ((0, 400), 490, "reactivated", "active"),
    ],
)
def test_a_stage_changes_at_the_very_millisecond(days: tuple[int, ...], at: float, before: str, after: str) -> None:
    snapshot = bought(*days)
    assert stage(snapshot, day(at) - 1) == before
    assert stage(snapshot, day(at)) == after


def test_lost_waits_for_three_own_gaps_where_they_are_longer_than_a_year() -> None:
    snapshot = bought(0, 300, 600, 900)
    gap_ms = (1.5 * 45 * DAY_MS + 900 * DAY_MS) / 4.5
    lost_at = day(900) + round(3 * gap_ms)
    assert 3 * gap_ms > 365 * DAY_MS
    assert stage(snapshot, lost_at - 2) == "at_risk"
    assert stage(snapshot, lost_at + 2) == "lost"


def test_loyal_needs_four_orders_in_a_year_and_half_a_year_of_tenure() -> None:
    often = bought(0, 50, 100, 150, 178)
    assert stage(often, day(180) - 1) == "active"
    assert stage(often, day(180)) == "loyal"


def test_an_order_is_a_day_with_purchases() -> None:
    assert stage(bought(0, 0.5), day(1)) == "new"
    assert stage(bought(0.9, 1.1), day(2)) == "active"
    seconds = a_definition(days="2s")
    found = buying(bought(0, 0.0001), day_ms=seconds.pack.day_ms)
    assert found is not None
    assert found.orders == 2


def test_a_contract_is_over_after_its_grace() -> None:
    snapshot = bought(0, 20, contract=day(40))
    assert stage(snapshot, day(70) - 1) == "active"
    assert stage(snapshot, day(70)) == "churned"


def test_a_customer_without_purchases_is_a_prospect_and_never_armed() -> None:
    nobody = Snapshot("w")
    decision = live(nobody)
    assert due(decision, nobody, DEFINITION) is None


@pytest.mark.parametrize(("text", "ms"), [("30d", 30 * DAY_MS), ("5s", 5000), ("250ms", 250), ("1.5h", 5_400_000)])
def test_durations_reach_from_milliseconds_to_weeks(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "silence",
        "silence > 3d",
        "silence >= 3",
        "silance >= 3d",
        "silence = 3d",
        "p_buy within 3d < 0.5",
        "rhythm >= x",
    ],
)
def test_a_condition_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        condition_of(text)


BAD = "rules.alerts.bad_experience"


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The default rules with the value at `path` replaced."""
    rules = default_rules()
    inner: Any = rules
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return rules


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (changed("stages", to=[]), "rules.stages"),
        (changed("stages", 0, to={"enter": []}), "rules.stages[0]"),
        (changed("stages", -1, "enter", to=["orders = 1"]), "rules.stages[9]"),
        (changed("stages", 1, "stage", to="new"), "rules.stages"),
        (changed("stages", 3, "enter", 1, to="nonsense"), "rules.stages[3].enter[1]"),
        (changed("stages", 7, "stay", to=["p_buy < 0.4"]), "rules.stages[7].stay[0]"),
        (changed("stages", 7, "stay", to=["tenure >= 1d"]), "rules.stages[7].stay[0]"),
        (changed("alerts", to=None), "rules.alerts"),
        (changed("alerts", "silence", "when", to=["silence < 3d"]), "rules.alerts.silence.when[0]"),
        (changed("alerts", "silence", "when", to=["orders >= 2"]), "rules.alerts.silence.when"),
        (changed("alerts", "silence", "expires", to=3), "rules.alerts.silence.expires"),
        (changed("alerts", "bad_experience", "opens", to=[{"sort": "x"}]), "rules.alerts.bad_experience.opens[0]"),
        (changed("alerts", "bad_experience", "opens", to=[{"kind": "a", "at_most": "2"}]), f"{BAD}.opens[0]"),
        (changed("alerts", "bad_experience", "clears", to=[{"kind": 1}]), f"{BAD}.clears[0]"),
        (changed("alerts", "bad_experience", "clears", to={}), f"{BAD}.clears"),
        (changed("purchase_trust_min", to="nobody"), "rules.purchase_trust_min"),
        (changed("purchase_trust_min", to=["public"]), "rules.purchase_trust_min"),
        (changed("days", to="3 days"), "rules.days"),
        (changed("days", to="0s"), "rules.days"),
    ],
)
def test_a_pack_that_cannot_be_right_is_refused_by_the_path_of_its_fault(rules: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        pack_of(rules)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "model", [{"r": 0}, {"r": True}, {"alpha": "x"}, {"unit": "0s"}, {"horizon": 3}, {"name": "bg"}, {"zeta": 1}]
)
def test_a_model_that_cannot_be_right_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        model_of(model)


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_what_is_no_map_is_no_pack(text: str) -> None:
    with pytest.raises(InvalidField):
        rules_of(text)


def test_the_published_first_version_compiles_to_the_default() -> None:
    definition = definition_of(first_definition("w"))
    assert definition == DEFINITION
    later = a_definition(2, 100)
    assert [in_force([definition, later], at).version for at in (-5, 0, 99, 100)] == [1, 1, 1, 2]


def test_triggers_read_the_scale_of_a_score() -> None:
    low = Trigger("survey_answered", "csat", at_most=2)
    assert low.meets(a_fact("survey_answered", metric="csat", score=2))
    assert not low.meets(a_fact("survey_answered", metric="csat", score=3))
    assert not low.meets(a_fact("survey_answered", metric="nps", score=2))
    assert not low.meets(a_fact("survey_answered", metric="csat"))
    assert low.text == "survey_answered csat <= 2"


def test_the_finder_answers_the_same_with_any_hint() -> None:
    for hint in (None, -5, 0, 1, 499, 500, 501, 900, 10_000):
        assert first_true(lambda t: t >= 500, 0, 1000, hint) == 500
        assert first_true(lambda t: t >= 0, 0, 1000, hint) == 0
        assert first_true(lambda _: False, 0, 1000, hint) is None
        assert first_true(lambda t: t >= 1000, 0, 1000, hint) == 1000


def test_a_condition_on_what_nobody_knows_is_false_and_never_flips() -> None:
    reading = Reading(None, None, DEFINITION.model)
    for text in ("silence >= 1d", "p_buy < 0.5", "contract_over >= 1d", "rhythm >= 0.1", "last_gap >= 1d"):
        assert not holds(condition_of(text), reading, day(9))
        assert flip_after(condition_of(text), reading, day(9)) is None


def test_the_reference_names_every_feature_and_every_stage() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "scoring.md").read_text(encoding="utf-8")
    assert [name for name in FEATURES if f"| `{name}` |" not in page] == []
    assert [rule.stage for rule in DEFINITION.pack.stages if f"| `{rule.stage}` |" not in page] == []
    assert [name for name in DEFAULT_MODEL if name != "name" and f"`{name}`" not in page] == []
