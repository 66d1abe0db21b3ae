"""What a touchpoint is about: its business key, its score, and the reference to it that decisions carry."""

from typing import Any

from shared.events import FactRef, Touchpoint
from shared.vocabulary.kinds import KINDS

_KEYS: dict[str, tuple[str, str]] = {
    kind.name: (declared.name, declared.name.removesuffix("_id") + ":")
    for kind in KINDS.values()
    for declared in kind.properties
    if declared.key
}


def business_key(kind: str, properties: dict[str, Any]) -> str:
    """`order:1001`, `ticket:T-5`, `call:…`, `response:…`, `message:…`, `subscription:…`, `complaint:…`, or "" for none.

    Purchases and refunds of one order share one key. Properties are the normalised ones.
    """
    declared = _KEYS.get(kind)
    if declared is None:
        return ""
    value = properties.get(declared[0])
    return declared[1] + value if value else ""


def id_key(touchpoint_id: bytes) -> str:
    """The key of a fact that has no business key: `id:` and 32 hexadecimal digits."""
    return "id:" + touchpoint_id.hex()


def fact_key(ref: FactRef) -> str:
    """The business key of a fact, or `id:<hex of its id>`: the same text `Purchase.key` and its kin carry."""
    return ref.key or id_key(ref.id)


def score_of(kind: str, properties: dict[str, Any]) -> int | None:
    """The survey score on its metric's own scale; None for anything but an answered survey."""
    if kind != "survey_answered":
        return None
    score = properties.get("score")
    return score if isinstance(score, int) else None


def fact_ref(touchpoint: Touchpoint, trust: int) -> FactRef:
    """The reference to `touchpoint` that profile changes carry; `trust` is the envelope's."""
    kind, properties = touchpoint.kind, touchpoint.properties
    key = business_key(kind, properties) if kind in _KEYS else ""
    score, metric = score_of(kind, properties), ""
    if kind == "survey_answered":
        metric = str(properties.get("metric", ""))
    # By position: each touchpoint of each step comes this way, and naming nine fields costs as much again.
    return FactRef(
        touchpoint.id, touchpoint.leaves[0], kind, touchpoint.occurred_at, trust, key, score, touchpoint.channel, metric
    )
