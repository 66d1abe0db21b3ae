"""What a feature of the profile is: a state that is a commutative monoid, how facts enter it, and how it is shown."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from shared.errors import Poison
from shared.events import Touchpoint
from shared.vocabulary import business_key, id_key

S = TypeVar("S")
R = TypeVar("R")

Fold = Callable[[S, Touchpoint, int], None]
"""(state, touchpoint, trust): folds one touchpoint into `state` in place."""


class Profile(msgspec.Struct, gc=False, eq=False):
    """All that is known of one leaf or customer: a part per component, None where nothing was folded yet.

    A part of a stored state may still be its bytes (`msgspec.Raw`): it is decoded when it is first asked for.

    Changed in place by `fold` only; `merge` never shares a mutable part with its arguments. Two profiles are equal
    when their bytes are.
    """

    parts: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and all(
            self.part(name) == other.part(name) for name in self.parts.__struct_fields__
        )

    __hash__ = None  # type: ignore[assignment]

    def part(self, name: str) -> Any:
        """The part of the component of this name, None where nothing was folded. Raises ValueError for no such part."""
        part = getattr(self.parts, name)
        if isinstance(part, msgspec.Raw):
            try:
                part = self.parts.DECODERS[name].decode(part)
            except msgspec.MsgspecError as error:
                raise ValueError(f"no profile state: {error}") from error
            setattr(self.parts, name, part)
        return part

    @property
    def first_at(self) -> int | None:
        """Time of the earliest touchpoint in epoch milliseconds; None for the empty profile."""
        behaviour = self.parts.behaviour
        return None if behaviour is None else int(behaviour.first_at)

    @property
    def last_at(self) -> int | None:
        """Time of the latest touchpoint in epoch milliseconds; None for the empty profile."""
        behaviour = self.parts.behaviour
        return None if behaviour is None else int(behaviour.last_at)


class Occurrence(NamedTuple):
    """Something a keyed map knows to have happened once; `active`: the customer did it."""

    kind: str
    channel: str
    at: int
    active: bool


class Source(Enum):
    """How a number shown comes from touchpoints.

    ADDS: a sum over the records of the map, each touchpoint adds what it changes of its own record · MEAN: the mean of
    one value per record · SAID: said by one touchpoint, which alone shows the same · WHOLE: made by all touchpoints of
    the one record that is shown.
    """

    ADDS = "adds"
    MEAN = "mean"
    SAID = "said"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Component(Generic[S]):
    """One feature of the profile, whole.

    `state`: type of the part, as msgspec decodes it · `empty`: makes the neutral element · `folds`: kind → fold ·
    `merge`: commutative, associative, pure, shares nothing that can change · `summary`: (state, at_ms) → what REST
    shows · `counts`: the kinds this component counts itself (value: the property without which it does not, "" =
    always), so that behaviour does not count them again · `occurrences`: what its map knows to have happened ·
    `sources`: name of a number in the summary, with `*` for any word, → how it comes from touchpoints · `shown_key`:
    the record that WHOLE numbers are about.
    """

    name: str
    state: Any
    empty: Callable[[], S]
    folds: Mapping[str, Fold[S]]
    merge: Callable[[S, S], S]
    summary: Callable[[S, int], dict[str, Any]]
    counts: Mapping[str, str] = field(default_factory=dict)
    occurrences: Callable[[S], Iterable[Occurrence]] = lambda state: ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    shown_key: Callable[[S], str | None] = lambda state: None

    def of(self, profile: Profile) -> S:
        """This component's part of `profile`, to be read only; the neutral element where there is none."""
        part: S | None = profile.part(self.name)
        return self.empty() if part is None else part


def join_maps(a: Mapping[str, R], b: Mapping[str, R], join: Callable[[R, R], R]) -> dict[str, R]:
    """A new map with the records of both, `join`ed where both have one."""
    joined = dict(a)
    for key, record in b.items():
        mine = joined.get(key)
        joined[key] = record if mine is None else join(mine, record)
    return joined


def keyed(lift: Callable[[Touchpoint, int], R], join: Callable[[R, R], R]) -> Fold[dict[str, R]]:
    """A fold into a map of immutable records: lifts the touchpoint to a record and joins it under its key.

    The key is the business key, or the touchpoint's id where it has none.
    """

    def fold_keyed(state: dict[str, R], touchpoint: Touchpoint, trust: int) -> None:
        key = fact_key_of(touchpoint)
        record, mine = lift(touchpoint, trust), state.get(key)
        state[key] = record if mine is None else join(mine, record)

    return fold_keyed


def fact_key_of(touchpoint: Touchpoint) -> str:
    """The business key of a touchpoint, or `id:<hex>`."""
    return business_key(touchpoint.kind, touchpoint.properties) or id_key(touchpoint.id)


def text_of(properties: Mapping[str, Any], name: str) -> str:
    """The text under `name`, "" when absent. Raises Poison for anything else than text."""
    value = properties.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise Poison(f"property {name} is no text")


def whole_of(properties: Mapping[str, Any], name: str) -> int | None:
    """The whole number under `name`, None when absent. Raises Poison for anything else, or beyond 64 bits."""
    value = properties.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    raise Poison(f"property {name} is no whole number of 64 bits")


def earlier(a: int | None, b: int | None) -> int | None:
    """The smaller of two times; None is no time."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def later(a: int | None, b: int | None) -> int | None:
    """The greater of two times; None is no time."""
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
