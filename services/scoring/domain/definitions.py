"""Versions of what decides: a rule pack and model parameters, in force from an instant on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.scoring.domain.conditions import Model, duration_ms
from services.scoring.domain.mbg import CDNOW, Parameters
from services.scoring.domain.pack import Pack, pack_of
from shared.errors import InvalidField
from shared.events import DefinitionPublished

DEFAULT_MODEL: dict[str, Any] = {
    "name": "mbg/nbd",
    "r": CDNOW.r,
    "alpha": CDNOW.alpha,
    "a": CDNOW.a,
    "b": CDNOW.b,
    "unit": "1w",
    "horizon": "90d",
    "shop_gap": "45d",
    "gap_weight": 1.5,
    "gap_shape": 1.5,
}
"""Version 1, until a shop's own history is fitted: CDNOW's published parameters, a mean gap of 45 days."""

FIGURES = "fit"
"""Where a fitted model carries how good it is. Nothing is decided by it."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One version, compiled. `version` ≥ 1; in force from `effective_at` (epoch ms) until the next version's."""

    version: int
    effective_at: int
    pack: Pack
    model: Model


def definition_of(fact: DefinitionPublished) -> Definition:
    """The compiled form of a published version. Raises InvalidField for rules or a model that mean nothing."""
    return Definition(fact.version, fact.effective_at, pack_of(fact.rules), model_of(fact.model))


def model_of(parameters: dict[str, Any]) -> Model:
    """The model of plain `parameters`; what is left out is as in DEFAULT_MODEL. Raises InvalidField."""
    unknown = sorted(set(parameters) - set(DEFAULT_MODEL) - {FIGURES})
    if unknown:
        raise InvalidField(f"model.{unknown[0]}", f"no such parameter, only {', '.join(DEFAULT_MODEL)}")
    given = DEFAULT_MODEL | parameters
    if given["name"] != DEFAULT_MODEL["name"]:
        raise InvalidField("model.name", f"the only model so far is {DEFAULT_MODEL['name']}")
    return Model(
        Parameters(*(_positive(given, name) for name in ("r", "alpha", "a", "b"))),
        unit_ms=_duration(given, "unit"),
        horizon_ms=_duration(given, "horizon"),
        shop_gap_ms=_duration(given, "shop_gap"),
        gap_weight=_positive(given, "gap_weight"),
        gap_shape=_positive(given, "gap_shape"),
    )


def in_force(definitions: Sequence[Definition], at: int) -> Definition:
    """The version in force at `at`: the newest whose `effective_at` ≤ `at`, or the first one before any was.

    `definitions` in ascending order of version, at least one; a later version never takes effect earlier.
    """
    reached = [definition for definition in definitions if definition.effective_at <= at]
    return reached[-1] if reached else definitions[0]


def _positive(given: dict[str, Any], name: str) -> float:
    value = given[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise InvalidField(f"model.{name}", "a number above 0")
    return float(value)


def _duration(given: dict[str, Any], name: str) -> int:
    try:
        value = duration_ms(given[name])
    except ValueError as error:
        raise InvalidField(f"model.{name}", str(error)) from error
    if value <= 0:
        raise InvalidField(f"model.{name}", "a duration above 0")
    return value
