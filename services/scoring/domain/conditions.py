"""One condition of a rule: a feature of the customer against a threshold, and the instant when time alone flips it.

Written as text: `silence >= 30d`, `orders within 365d >= 4`, `p_buy < 0.5`. Every feature is constant in time or moves
one way, so that a condition flips at most once by time; that is what makes every crossing exact.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from services.scoring.domain import mbg, rhythm
from services.scoring.domain.crossing import NEVER_MS, first_true
from services.scoring.domain.snapshot import Buying

CONSTANT, RISING, FALLING = 0, 1, -1
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {">=": operator.ge, "<": operator.lt, "=": operator.eq}
_UNKNOWN = -1

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_CONDITION = re.compile(r"(\w+)(?: within (\S+))? (>=|<|=) (\S+)")


@dataclass(frozen=True, slots=True)
class Model:
    """The parameters behind `p_buy`, `rhythm` and `gaps_silent`. Durations in ms.

    `unit_ms`: the MBG parameters' unit of time · `horizon_ms`: "buys in the next …" · `shop_gap_ms`, `gap_weight`: the
    shop's mean gap and how many gaps of the customer it weighs · `gap_shape`: gamma shape of gaps.
    """

    parameters: mbg.Parameters
    unit_ms: int
    horizon_ms: int
    shop_gap_ms: int
    gap_weight: float
    gap_shape: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What conditions are asked about. `same_spell`: no purchase since the present stage was entered.

    `flips` remembers what `flip_of` found, by text of the condition; share it only between readings of the same
    purchases, contract and model. `ways` remembers which stages time leaves open (`lifecycle.py` asks).
    """

    buying: Buying | None
    contract_ended_at: int | None
    model: Model
    same_spell: bool = False
    flips: dict[str, int | None] = field(default_factory=dict, compare=False, repr=False)
    ways: list[Any] = field(default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Condition:
    """`feature` (within the last `within_ms`, where it counts) `operator` `threshold`; durations in ms.

    `course`: how time moves the feature, CONSTANT, RISING or FALLING · `value`, `compared`: what the names mean,
    looked up once, since conditions are asked many times for each decision.
    """

    text: str
    feature: str
    within_ms: int
    operator: str
    threshold: float
    course: int = field(init=False, compare=False, repr=False)
    value: "Valuation" = field(init=False, compare=False, repr=False)
    compared: Callable[[Any, Any], bool] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Look up what the names mean."""
        feature = FEATURES[self.feature]
        object.__setattr__(self, "course", FALLING if self.within_ms else feature.course)
        object.__setattr__(self, "value", feature.value)
        object.__setattr__(self, "compared", _COMPARED[self.operator])

    @property
    def time_can_only_make_it_true(self) -> bool:
        """Whether it never turns false by time: what the condition of a silence alert must be."""
        rises_in = self.course == RISING and self.operator == ">="
        return self.course == CONSTANT or rises_in or (self.course == FALLING and self.operator == "<")


# --- features ---------------------------------------------------------------------------------------------------


def _orders(reading: Reading, at: int, within_ms: int) -> float:
    """Orders, or those younger than `within_ms`: an order exactly that old no longer counts."""
    times = reading.buying.order_times if reading.buying else ()
    return sum(1 for t in times if t > at - within_ms) if within_ms else len(times)


def silence_ms(buying: Buying, at: int) -> int:
    """Time since the last purchase; 0 for a purchase newer than `at`."""
    return at - buying.last_at if at > buying.last_at else 0


def usual_gap_ms(buying: Buying, model: Model) -> float:
    """The customer's own mean gap, drawn to the shop's (`rhythm.usual_gap`)."""
    return rhythm.usual_gap(
        model.shop_gap_ms, model.gap_weight, buying.orders - 1, float(buying.last_at - buying.first_at)
    )


def rhythm_quantile(buying: Buying, model: Model, at: int) -> float:
    """The rhythm quantile u in 0..1 of the silence at `at`."""
    return rhythm.unusual(silence_ms(buying, at), usual_gap_ms(buying, model), model.gap_shape)


def times_of(buying: Buying, model: Model, at: int) -> tuple[int, float, float]:
    """(x, t_x, age) in the model's unit at `at`, never before the last purchase."""
    t_x = (buying.last_at - buying.first_at) / model.unit_ms
    return buying.orders - 1, t_x, (max(at, buying.last_at) - buying.first_at) / model.unit_ms


def buys_again(buying: Buying, model: Model, at: int) -> float:
    """P(at least one purchase within the horizon from `at`), in 0..1 (`mbg.p_buy`)."""
    x, t_x, age = times_of(buying, model, at)
    return mbg.p_buy(model.parameters, x, t_x, age, model.horizon_ms / model.unit_ms)


def _contract_over(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.contract_ended_at is None else at - reading.contract_ended_at


# What only someone who bought has: every condition on it is false for others.


def _last_gap(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.buying is None else reading.buying.last_gap_ms


def _silence(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.buying is None else silence_ms(reading.buying, at)


def _tenure(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.buying is None else max(0, at - reading.buying.first_at)


def _gaps_silent(reading: Reading, at: int, _: int) -> float | None:
    bought = reading.buying
    return None if bought is None else silence_ms(bought, at) / usual_gap_ms(bought, reading.model)


def _rhythm(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.buying is None else rhythm_quantile(reading.buying, reading.model, at)


def _p_buy(reading: Reading, at: int, _: int) -> float | None:
    return None if reading.buying is None else buys_again(reading.buying, reading.model, at)


Valuation = Callable[[Reading, int, int], float | None]


@dataclass(frozen=True, slots=True)
class Feature:
    """How time moves it, what it is, whether its threshold is a duration, and its value (None: undefined)."""

    course: int
    meaning: str
    duration: bool
    value: Valuation


FEATURES: dict[str, Feature] = {
    "orders": Feature(CONSTANT, "days with a purchase; `within D` counts those younger than D", False, _orders),
    "last_gap": Feature(CONSTANT, "the gap before the last order", True, _last_gap),
    "same_spell": Feature(
        CONSTANT, "1 when no purchase came since the stage was entered", False, lambda r, _t, _w: int(r.same_spell)
    ),
    "silence": Feature(RISING, "time since the last purchase", True, _silence),
    "tenure": Feature(RISING, "time since the first purchase", True, _tenure),
    "gaps_silent": Feature(RISING, "silence as a multiple of the own usual gap", False, _gaps_silent),
    "rhythm": Feature(RISING, "share of the own gaps that are shorter than the silence", False, _rhythm),
    "p_buy": Feature(FALLING, "probability of a purchase within the model's horizon", False, _p_buy),
    "contract_over": Feature(RISING, "time since the contract ended", True, _contract_over),
}


# --- asking -----------------------------------------------------------------------------------------------------


def value_of(condition: Condition, reading: Reading, at: int) -> float | None:
    """The feature's value at `at` (epoch ms), on everything the reading knows; None where it is undefined."""
    return condition.value(reading, at, condition.within_ms)


def is_defined(condition: Condition, reading: Reading) -> bool:
    """Whether the feature has a value at any time; whoever bought has all but that of a contract."""
    if reading.buying is not None and condition.feature != "contract_over":
        return True
    return condition.value(reading, 0, condition.within_ms) is not None


def holds(condition: Condition, reading: Reading, at: int) -> bool:
    """Whether the condition is true at `at`; an undefined feature makes it false. A value equal to a `>=` enters."""
    value = condition.value(reading, at, condition.within_ms)
    return value is not None and condition.compared(value, condition.threshold)


def all_hold(conditions: tuple[Condition, ...], reading: Reading, at: int) -> bool:
    """Whether every condition is true at `at`; true when there is none."""
    for condition in conditions:  # as in `holds`: one call less for each of very many
        value = condition.value(reading, at, condition.within_ms)
        if value is None or not condition.compared(value, condition.threshold):
            return False
    return True


def flip_after(condition: Condition, reading: Reading, at: int) -> int | None:
    """The first instant after `at` at which the condition is not what it is at `at`; None when time never flips it."""
    flip = flip_of(condition, reading)
    return flip if flip is not None and flip > at else None


def flip_of(condition: Condition, reading: Reading) -> int | None:
    """The one instant at which time flips the condition, on what is known; None when it never does."""
    flip = reading.flips.get(condition.text, _UNKNOWN)
    if flip == _UNKNOWN:
        start = _start(condition, reading)
        flip = reading.flips[condition.text] = None if start is None else _flip_since(condition, reading, start)
    return flip


def _flip_since(condition: Condition, reading: Reading, start: int) -> int | None:
    hint = _hint(condition, reading)
    if hint is not None and start < hint and holds(condition, reading, hint) != holds(condition, reading, hint - 1):
        return hint  # a condition flips once, so this is it; hints are nearly always exact
    was = holds(condition, reading, start)
    return first_true(lambda t: holds(condition, reading, t) != was, start, start + NEVER_MS, hint)


def _start(condition: Condition, reading: Reading) -> int | None:
    """An instant up to which the feature has not moved yet; None for one that time does not move."""
    if condition.feature == "contract_over":
        return None if reading.contract_ended_at is None else reading.contract_ended_at - 1
    if condition.course == CONSTANT or reading.buying is None:
        return None
    return reading.buying.first_at - 1


def _hint(condition: Condition, reading: Reading) -> int | None:
    """Where the flip lies, in nearly all cases exactly: saves the finder evaluations and never decides anything."""
    if condition.feature == "contract_over" and reading.contract_ended_at is not None:
        return reading.contract_ended_at + int(condition.threshold)
    if reading.buying is None or condition.feature not in _HINTS:
        return None
    since = _HINTS[condition.feature](reading.buying, reading.model, condition)
    return None if since is None else ceil(since)


def _hint_of_orders(b: Buying, _: Model, condition: Condition) -> float | None:
    """The n-th last order is the one whose ageing leaves fewer than n."""
    counted = 1 <= condition.threshold <= b.orders
    return b.order_times[-int(condition.threshold)] + condition.within_ms if counted else None


def _hint_of_p_buy(b: Buying, model: Model, condition: Condition) -> float | None:
    if not 0.0 < condition.threshold < 1.0:
        return None
    x, t_x, _ = times_of(b, model, b.last_at)
    age = mbg.age_at_p_buy(model.parameters, x, t_x, model.horizon_ms / model.unit_ms, condition.threshold)
    return b.first_at + age * model.unit_ms


def _hint_of_rhythm(b: Buying, model: Model, condition: Condition) -> float | None:
    if not 0.0 < condition.threshold < 1.0:
        return None
    return b.last_at + rhythm.quantile(model.gap_shape, condition.threshold) * usual_gap_ms(b, model) / model.gap_shape


_HINTS: dict[str, Callable[[Buying, Model, Condition], float | None]] = {
    "orders": _hint_of_orders,
    "silence": lambda b, _, c: b.last_at + c.threshold,
    "tenure": lambda b, _, c: b.first_at + c.threshold,
    "gaps_silent": lambda b, model, c: b.last_at + c.threshold * usual_gap_ms(b, model),
    "p_buy": _hint_of_p_buy,
    "rhythm": _hint_of_rhythm,
}


# --- reading ----------------------------------------------------------------------------------------------------


def duration_ms(text: object) -> int:
    """Milliseconds of a duration as people write it: `30d`, `1.5h`, `5s`, `250ms`. Raises ValueError for others."""
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no duration: write a number and one of ms, s, m, h, d, w, such as 30d")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def condition_of(text: str) -> Condition:
    """A condition from its text. Raises ValueError that names the feature or the part that is wrong."""
    match = _CONDITION.fullmatch(" ".join(str(text).split()))
    if match is None:
        raise ValueError(f"{text!r} is no condition: write `feature >= value` or `feature within 30d < value`")
    name, within, operator, threshold = match.groups()
    feature = FEATURES.get(name)
    if feature is None:
        raise ValueError(f"{text!r}: there is no feature {name!r}, only {', '.join(sorted(FEATURES))}")
    if within and name != "orders":
        raise ValueError(f"{text!r}: only `orders` counts within a time")
    if operator == "=" and (feature.course != CONSTANT or within):
        raise ValueError(f"{text!r}: what time moves is compared by >= or <")
    number = duration_ms(threshold) if feature.duration else float(threshold)
    return Condition(match[0], name, duration_ms(within) if within else 0, operator, number)
