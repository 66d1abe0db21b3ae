"""From which touchpoints a number of the profile comes: each with what it added, so that together they are the number.

The folds and summaries of the components are asked themselves, touchpoint by touchpoint in the order of time: there is
no second formula that could say otherwise. Each component declares how its numbers come about (`Source`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any, Generic, NamedTuple, TypeVar

from shared.events import Touchpoint
from shared.ids import DAY_MS
from shared.profile import histogram
from shared.profile.component import Component, Profile, Source
from shared.profile.state import BEHAVIOUR, COMPONENTS
from shared.profile.views import activity, summary
from shared.vocabulary import KINDS

Row = TypeVar("Row")
Name = tuple[str, ...]

RECENT_DAYS = 30
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()

COUNTS, ACTIVITY, ACTIVE_DAYS = "counts", "activity", "active_days_30"


class Traced(NamedTuple, Generic[Row]):
    """A touchpoint that made a number. `row`: what it was handed in as · `contribution`: what it added, None where the
    value is no sum · `value`: the number after it; of the last one the number shown.
    """

    row: Row
    contribution: int | float | None
    value: Any


class Feature(NamedTuple):
    """One number shown: its name as words, its value, and how it comes about. `component`: None for what all show."""

    name: Name
    value: Any
    source: Source
    component: Component[Any] | None = None

    @property
    def text(self) -> str:
        """Its name in a path."""
        return ".".join(self.name)

    @property
    def adds_up(self) -> bool:
        """Whether the contributions add up to the value: of sums, means, and counts within one record."""
        return self.source in (Source.ADDS, Source.MEAN) or _is_count(self)


def _is_count(feature: Feature) -> bool:
    is_whole = isinstance(feature.value, int) and not isinstance(feature.value, bool)
    return feature.source is Source.WHOLE and is_whole and not feature.name[-1].endswith("_at")


# --- what is shown ------------------------------------------------------------------------------------------------


def features(profile: Profile, at_ms: int) -> dict[str, Feature]:
    """Everything a summary as of `at_ms` shows, by name: `orders.count`, `money.EUR`, `counts.purchased.web` …

    Raises LookupError for a number whose source nobody declared.
    """
    found = (_declared(name, value) for name, value in _named(summary(profile, at_ms)).items())
    return {feature.text: feature for feature in found}


def _named(shown: Mapping[str, Any]) -> dict[Name, Any]:
    """A summary as name → value. Traits stay whole, bins of activity are named by their first day."""
    named: dict[Name, Any] = {}
    for word, value in shown.items():
        if word == ACTIVITY:
            named |= {(ACTIVITY, day_text(a_bin["day"])): a_bin["count"] for a_bin in value}
        elif word == "traits":
            named |= {(word, trait): told for trait, told in value.items()}
        else:
            named |= _flat((word,), value)
    return named


def _flat(name: Name, value: Any) -> dict[Name, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {inner: found for word, one in value.items() for inner, found in _flat((*name, word), one).items()}


def day_text(day: int) -> str:
    """A UTC day number as a date; what no calendar holds stays a number."""
    ordinal = day + _EPOCH_ORDINAL
    return date.fromordinal(ordinal).isoformat() if 1 <= ordinal <= date.max.toordinal() else str(day)


def _declared(name: Name, value: Any) -> Feature:
    if name[0] in (COUNTS, ACTIVITY, ACTIVE_DAYS):
        return Feature(name, value, Source.ADDS)
    for component in COMPONENTS:
        for pattern, source in component.sources.items():
            if _matches(pattern.split("."), name):
                return Feature(name, value, source, component)
    raise LookupError(f"nobody says where {'.'.join(name)} comes from")


def _matches(pattern: list[str], name: Name) -> bool:
    return len(pattern) == len(name) and all(
        word in ("*", told) for word, told in zip(pattern, name, strict=True)
    )  # fmt: skip


def kinds_of(feature: Feature) -> tuple[str, ...]:
    """The kinds of touchpoints that can have made it; () = any."""
    if feature.name[0] == COUNTS:
        return (feature.name[1],)
    if feature.component is None:
        return tuple(name for name, kind in KINDS.items() if kind.active)
    return () if feature.component is BEHAVIOUR else tuple(feature.component.folds)


def is_resumable(feature: Feature) -> bool:
    """Whether tracing may go on in the middle, given the total so far: each touchpoint counts for itself."""
    keyed = any(feature.name[1:2] == (kind,) for component in COMPONENTS for kind in component.counts)
    return feature.name[0] == COUNTS and not keyed


def instant_of(feature: Feature) -> int | None:
    """The one instant (epoch ms) at which it was made, where that is the value itself; None: at any time."""
    return feature.value if feature.component is BEHAVIOUR else None


# --- tracing --------------------------------------------------------------------------------------------------------


class Tracing(Generic[Row]):
    """Traces one number. Hand in the touchpoints that can have made it, in the order of time, each once; then `last`.

    `shown`: the profile they fold to, as of `at_ms` · `total`: of what was taken before, where `is_resumable`. Only one
    record per business key is held, never a touchpoint.
    """

    def __init__(self, feature: Feature, shown: Profile, at_ms: int, total: int = 0) -> None:
        self._feature, self._at_ms = feature, at_ms
        self._parts: dict[tuple[str, str], Any] = {}
        self._said: dict[str, tuple[int, Row]] = {}
        self._total: int | float = total
        self._before: Any = 0
        self._taken = 0
        self._days: Counter[int] = Counter()
        self._measure = _measure_of(feature, shown, at_ms)
        self._shown_key = feature.component.shown_key(feature.component.of(shown)) if feature.component else None

    def take(self, row: Row, touchpoint: Touchpoint, trust: int) -> Iterator[Traced[Row]]:
        """What this touchpoint did, if it did anything."""
        if self._feature.source is Source.SAID:
            self._listen(row, touchpoint, trust)
        elif self._feature.source is Source.WHOLE:
            yield from self._follow(row, touchpoint, trust)
        elif contribution := self._added(touchpoint, trust):
            self._total += contribution
            yield Traced(row, contribution, self._rounded())

    def last(self) -> Iterator[Traced[Row]]:
        """What could only be said at the end: the one touchpoint that said the value."""
        component = self._feature.component
        holding = [
            said for key, said in self._said.items()
            if component is not None and self._shows(component, self._parts[component.name, key])
        ]  # fmt: skip
        if holding:
            yield Traced(max(holding, key=lambda said: said[0])[1], None, self._feature.value)

    def _rounded(self) -> int | float:
        return round(self._total, 2) if self._feature.source is Source.MEAN else self._total

    # --- sums

    def _added(self, touchpoint: Touchpoint, trust: int) -> int | float:
        before: Counter[Any] = Counter()
        after: Counter[Any] = Counter()
        for component, key, piece in self._pieces(touchpoint, trust):
            if component is BEHAVIOUR:  # counts what has no key: each touchpoint for itself
                after.update(self._measure(component, piece))
                continue
            known = self._parts.get((component.name, key))
            joined = self._parts[component.name, key] = piece if known is None else component.merge(known, piece)
            after.update(self._measure(component, joined))
            if known is not None:
                before.update(self._measure(component, known))
        after.subtract(before)
        return self._distinct(after) if self._feature.name == (ACTIVE_DAYS,) else sum(after.values())

    def _distinct(self, days: Counter[int]) -> int:
        """How many days became active by these, less those that are none any more."""
        was = {day for day in days if self._days[day] > 0}
        self._days.update(days)
        return sum(self._days[day] > 0 for day in days) - len(was)

    def _pieces(self, touchpoint: Touchpoint, trust: int) -> Iterator[tuple[Component[Any], str, Any]]:
        """What the touchpoint alone makes of each component that is asked, record by record."""
        for component in COMPONENTS if self._feature.component is None else (self._feature.component,):
            if component is not BEHAVIOUR and touchpoint.kind not in component.folds:
                continue
            state = component.empty()
            component.folds.get(touchpoint.kind, _unknown)(state, touchpoint, trust)
            if isinstance(state, dict):
                yield from ((component, key, {key: record}) for key, record in state.items())
            else:
                yield component, "", state

    # --- what one touchpoint said

    def _listen(self, row: Row, touchpoint: Touchpoint, trust: int) -> None:
        self._taken += 1
        for component, key, piece in self._pieces(touchpoint, trust):
            known = self._parts.get((component.name, key))
            self._parts[component.name, key] = piece if known is None else component.merge(known, piece)
            if self._shows(component, piece):
                self._said[key] = self._taken, row

    def _shows(self, component: Component[Any], part: Any) -> bool:
        value, name = self._feature.value, self._feature.name
        return value is not None and bool(_named(component.summary(part, self._at_ms)).get(name) == value)

    # --- what the one record shown went through

    def _follow(self, row: Row, touchpoint: Touchpoint, trust: int) -> Iterator[Traced[Row]]:
        for component, key, piece in self._pieces(touchpoint, trust):
            if key != self._shown_key:
                continue
            known = self._parts.get((component.name, key))
            joined = self._parts[component.name, key] = piece if known is None else component.merge(known, piece)
            value = _named(component.summary(joined, self._at_ms)).get(self._feature.name)
            counted = value - self._before if self._feature.adds_up and value is not None else None
            self._before = self._before if value is None else value
            yield Traced(row, counted, value)


def _unknown(state: Any, touchpoint: Touchpoint, trust: int) -> None:
    BEHAVIOUR.folds["custom"](state, touchpoint, trust)


Measure = Callable[[Component[Any], Any], Mapping[Any, int | float]]
"""(component, part) → what the part counts for; days of activity by day, for numbers of days."""


def _measure_of(feature: Feature, shown: Profile, at_ms: int) -> Measure:
    name = feature.name
    if name[0] == COUNTS:
        return lambda component, part: {"": _count(component, part, name[1], name[2])}
    if feature.component is not None:
        share = 1 if feature.source is Source.ADDS else _of_group(feature, shown, at_ms)

        def own(component: Component[Any], part: Any) -> dict[str, int | float]:
            value = _named(component.summary(part, at_ms)).get(name) or 0
            return {"": value if share == 1 else value / share}

        return own
    bins = activity(shown)
    newest = bins[-1][0] if bins else 0
    if name[0] == ACTIVITY:
        return lambda component, part: {
            "": sum(
                number
                for day, number in _days(component, part).items()
                if day_text(histogram.block_of(day, newest)) == name[1]
            )
        }
    first = max(at_ms // DAY_MS - RECENT_DAYS + 1, histogram.fine_from(newest))
    return lambda component, part: {
        day: number for day, number in _days(component, part).items() if first <= day <= at_ms // DAY_MS
    }


def _of_group(feature: Feature, shown: Profile, at_ms: int) -> int:
    """How many values a mean is made of: the `count` beside it."""
    beside = _named(summary(shown, at_ms)).get((*feature.name[:-1], "count"), 1)
    return int(beside)


def _count(component: Component[Any], part: Any, kind: str, channel: str) -> int:
    if component is BEHAVIOUR:
        tally = part.tallies.get(kind, {}).get(channel)
        return 0 if tally is None else int(tally.count)
    return sum(1 for seen in component.occurrences(part) if (seen.kind, seen.channel) == (kind, channel))


def _days(component: Component[Any], part: Any) -> Counter[int]:
    if component is BEHAVIOUR:
        return Counter(dict(zip(part.starts, part.counts, strict=True)))
    return Counter(seen.at // DAY_MS for seen in component.occurrences(part) if seen.active)
