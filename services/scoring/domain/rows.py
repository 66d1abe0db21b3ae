"""Rows of the scoring database as values: what a step reads under lock and writes back."""

import msgspec

from services.scoring.domain.alerts import Alert
from services.scoring.domain.deciding import INITIAL, Decision


class DecisionRow(msgspec.Struct, frozen=True, gc=False):
    """One customer: the newest snapshot read, what was decided, and when to come back.

    `version`: of the last profile change read; one not greater is ignored · `state`: profile bytes (b"" before the
    first) · `due_at`: None when nothing flips by time, or while held, absorbed or parked · `absorbed_into`: b"" for a
    customer of its own · `parked`: why it is disarmed, "" = it is not.
    """

    customer: bytes
    workspace: str
    partition: int
    version: int = 0
    state: bytes = b""
    decision: Decision = INITIAL
    due_at: int | None = None
    absorbed_into: bytes = b""
    parked: str = ""


class AlertRow(msgspec.Struct, frozen=True, gc=False):
    """One alert as listed and as found by its opening leaf.

    `moves`: of the opening leaf when the alert came to this customer; a later saying moves it on · `revision` grows
    with every record about it, whoever decides · `body`: the last CloudEvent about it, without text once erased.
    """

    id: bytes
    workspace: str
    customer: bytes
    leaf: bytes
    moves: int
    policy: str
    state: str
    revision: int
    raised_at: int
    risk_ppm: int  # -1: no risk can be told
    body: bytes


def moves_of(alert: Alert, decision: Decision, known: AlertRow | None) -> int:
    """How often the opening leaf had moved, as far as is known here: an older saying must not move the alert back."""
    told = next((place.moves for place in decision.places if place.leaf == alert.leaf), 0)
    return max(told, known.moves) if known is not None and known.leaf == alert.leaf else told
