"""Traits: what is known of the customer as such, each value by its last writer. Personal ones never come here."""

from typing import Any

import msgspec

from shared.errors import Poison
from shared.events import Touchpoint
from shared.profile.component import Component, Profile, Source, join_maps, text_of


class Trait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value and its writer; None as value means it was taken back."""

    occurred_at: int
    id: bytes
    value: Any


Traits = dict[str, Trait]

_canonical = msgspec.msgpack.Encoder(order="deterministic")


def _join(a: Trait, b: Trait) -> Trait:
    mine, other = (a.occurred_at, a.id), (b.occurred_at, b.id)
    if mine != other:
        return a if mine > other else b
    # Ids are unique within a source only: of two writers of one id and time the greater bytes win, in any order.
    return a if _canonical.encode(a.value) >= _canonical.encode(b.value) else b


def _set(state: Traits, name: str, trait: Trait) -> None:
    mine = state.get(name)
    state[name] = trait if mine is None else _join(mine, trait)


def _fold_identified(state: Traits, touchpoint: Touchpoint, trust: int) -> None:
    traits = touchpoint.properties.get("traits") or {}
    if not isinstance(traits, dict):
        raise Poison("traits are no map")
    for name, value in traits.items():
        _set(state, name, Trait(touchpoint.occurred_at, touchpoint.id, value))


def _fold_grouped(state: Traits, touchpoint: Touchpoint, trust: int) -> None:
    group_id = text_of(touchpoint.properties, "group_id")
    if group_id:
        _set(state, "group_id", Trait(touchpoint.occurred_at, touchpoint.id, group_id))


def _merge(a: Traits, b: Traits) -> Traits:
    return join_maps(a, b, _join)


def _values(state: Traits) -> dict[str, Any]:
    return {name: trait.value for name, trait in sorted(state.items()) if trait.value is not None}


def _summary(state: Traits, at_ms: int) -> dict[str, Any]:
    return {"traits": _values(state)}


TRAITS: Component[Traits] = Component(
    "traits",
    Traits,
    dict,
    {"identified": _fold_identified, "grouped": _fold_grouped},
    _merge,
    _summary,
    sources={"traits.*": Source.SAID},
)


def traits(profile: Profile) -> dict[str, Any]:
    """Trait → value, by name; what was taken back is absent."""
    return _values(TRAITS.of(profile))
