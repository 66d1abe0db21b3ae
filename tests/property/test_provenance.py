"""Where a number comes from: the touchpoints listed make the very number shown, for every number of a profile."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import profile as profiles
from shared.events import SECRET, Touchpoint
from shared.profile.component import Source
from shared.profile.provenance import Feature, Traced, Tracing, features, instant_of, kinds_of
from shared.vocabulary import KINDS
from tests.builders import DAY_MS, NOON_MS, a_touchpoint
from tests.property.strategies import histories

Happened = tuple[Touchpoint, int]


def folded(history: list[Happened]) -> profiles.Profile:
    state = profiles.new()
    for touchpoint, trust in history:
        profiles.fold(state, touchpoint, "shop", trust)
    return state


def in_order(history: list[Happened]) -> list[Happened]:
    return sorted(history, key=lambda one: (one[0].occurred_at, one[0].id))


def traced(feature: Feature, history: list[Happened], at_ms: int) -> list[Traced[Happened]]:
    """The touchpoints that made it, of those that can have."""
    tracing: Tracing[Happened] = Tracing(feature, folded(history), at_ms)
    kinds, instant = kinds_of(feature), instant_of(feature)
    found: list[Traced[Happened]] = []
    for one in in_order(history):
        if (not kinds or one[0].kind in kinds) and instant in (None, one[0].occurred_at):
            found += tracing.take(one, *one)
    return [*found, *tracing.last()]


@given(histories, st.integers(0, 40))
def test_the_touchpoints_listed_make_the_number_shown(history: list[Happened], days: int) -> None:
    """Sums add up, and the value after the last touchpoint is the one shown; what one said, it says alone."""
    at_ms = NOON_MS + days * DAY_MS
    for name, feature in features(folded(history), at_ms).items():
        found = traced(feature, history, at_ms)
        if feature.adds_up:
            total = sum(one.contribution or 0 for one in found)
            assert total == pytest.approx(feature.value, abs=0.0051), name
            if feature.source is not Source.MEAN:
                assert total == feature.value, name
        if found:
            shown = pytest.approx(feature.value, abs=0.011) if feature.source is Source.MEAN else feature.value
            assert found[-1].value == shown, name
        else:
            assert not feature.value, name
        if feature.source is Source.SAID and feature.value is not None:
            [one] = found
            assert features(folded([one.row]), at_ms)[name].value == feature.value, name


@given(histories)
def test_every_touchpoint_listed_moves_the_number(history: list[Happened]) -> None:
    """No touchpoint of a sum is listed for nothing, and none twice."""
    for name, feature in features(folded(history), NOON_MS).items():
        found = traced(feature, history, NOON_MS)
        rows = [id(one.row) for one in found]
        assert len(rows) == len(set(rows)), name
        if feature.source is Source.ADDS:
            assert all(one.contribution for one in found), name


def example(kind: str, at: int, **more: Any) -> Touchpoint:
    """The kind's own example."""
    return a_touchpoint(kind, at=at, id=f"{kind} {at}", **{**KINDS[kind].example, **more})


def test_every_number_a_profile_can_show_says_where_it_comes_from() -> None:
    """One touchpoint of every kind: all that the summary shows is declared, nothing is left without its source."""
    history = [(example(kind, NOON_MS + n), SECRET) for n, kind in enumerate(KINDS)]
    shown = features(folded(history), NOON_MS + DAY_MS)
    assert {name.split(".")[0] for name in shown} == profiles.summary(folded(history), NOON_MS).keys()
    for name, feature in shown.items():
        assert traced(feature, history, NOON_MS + DAY_MS) or not feature.value, name


def test_a_cancelled_order_is_one_more_and_one_less() -> None:
    """The ledger of a number: what each touchpoint added, in order, with the running value."""
    bought = [example("purchased", NOON_MS + n, order_id=str(n), amount=10) for n in range(3)]
    copy = a_touchpoint("purchased", at=NOON_MS + 5, id="copy", order_id="0", amount=10, currency="EUR")
    back = a_touchpoint("refunded", at=NOON_MS + 9, id="back", order_id="1")
    history = [(one, SECRET) for one in (*bought, copy, back)]
    shown = features(folded(history), NOON_MS)
    told = [(one.row[0], one.contribution, one.value) for one in traced(shown["orders.count"], history, NOON_MS)]
    assert told == [(bought[0], 1, 1), (bought[1], 1, 2), (bought[2], 1, 3), (back, -1, 2)]
    spent = [(one.contribution, one.value) for one in traced(shown["money.EUR"], history, NOON_MS)]
    assert spent == [(1000, 1000), (1000, 2000), (1000, 3000), (-1000, 2000)]
    [last] = traced(shown["orders.last_at"], history, NOON_MS)
    assert (last.row[0], last.contribution, last.value) == (bought[2], None, NOON_MS + 2)


def test_of_two_that_say_the_same_the_last_writer_is_named() -> None:
    """Two answers with one score: the latest one is it; and a trait is its last writer's."""
    answers = [
        a_touchpoint("survey_answered", at=NOON_MS + n, id=f"a{n}", response_id=str(n), metric="csat", score=4)
        for n in range(2)
    ]
    told = [a_touchpoint("identified", at=NOON_MS + n, id=f"t{n}", traits={"plan": "pro"}) for n in range(2)]
    history = [(one, SECRET) for one in (*answers, *told)]
    shown = features(folded(history), NOON_MS)
    assert [one.row[0] for one in traced(shown["surveys.csat.latest"], history, NOON_MS)] == [answers[1]]
    assert [one.row[0] for one in traced(shown["traits.plan"], history, NOON_MS)] == [told[1]]
    assert [one.contribution for one in traced(shown["surveys.csat.mean"], history, NOON_MS)] == [2.0, 2.0]
