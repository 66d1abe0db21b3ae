"""Decisions that move between customers: joined, split, erased. Alerts go with their opening leaf, ids unchanged."""

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from services.scoring.domain.alerts import (
    ABSORBED,
    ERASED,
    OPEN,
    RETRACTED,
    SILENCE,
    Alert,
    AlertRetracted,
    kept,
)
from services.scoring.domain.deciding import PASSED_KEPT, Deciding, Decision, Outcome
from services.scoring.domain.definitions import Definition
from services.scoring.domain.reasons import Reasons
from services.scoring.domain.silence import review
from services.scoring.domain.snapshot import Snapshot


class Moved(NamedTuple):
    """What one customer hands to another: alerts, and the silences that raise nothing."""

    alerts: tuple[Alert, ...]
    passed: tuple[str, ...]


def on_absorbed(
    into: Decision,
    absorbed: Decision,
    snapshot: Snapshot,
    recorded_at: int,
    definition: Definition,
    is_known: bool = True,
) -> Outcome:
    """`into` with everything decided about `absorbed`, which became part of it; `snapshot` is the newest of `into`.

    Advance `absorbed` to min(recorded_at, W) first. Alerts move under their ids (the higher revision holds), then
    silence alerts are reviewed on the joined purchases, so that at most one stays open for one silence. `into` keeps
    its own `settled`: the other partition's watermark says nothing about this one. When the change of `into` itself
    was not read yet (no stage, or not `is_known`: recalled), the review waits for it.
    """
    merged = take(into, Moved(absorbed.alerts, absorbed.passed))
    merged = msgspec.structs.replace(
        merged,
        sequence=max(into.sequence, absorbed.sequence),
        decided_at=max(into.decided_at, absorbed.decided_at),
        held=tuple(sorted({*into.held, *absorbed.held})),
    )
    deciding = Deciding(merged, snapshot, definition)
    if is_known and merged.stage and not merged.held:
        review(deciding, None, max(recorded_at, merged.decided_at), ABSORBED)
    return deciding.outcome()


def surrender(decision: Decision) -> Decision:
    """What is left of an absorbed customer's decision: only how far its sequence and its silence had come."""
    return Decision(settled=decision.settled, decided_at=decision.decided_at, sequence=decision.sequence)


def give(decision: Decision, leaves: Collection[bytes]) -> tuple[Decision, Moved]:
    """A split: the decision without the alerts whose opening leaf is among `leaves`, and what moves with them.

    Passed silences go along and stay as well: their keys mean the same on both sides. The silences of moved alerts are
    passed for the side that stays, or it would raise them again until it reads that their purchases have gone.
    """
    moved = tuple(alert for alert in decision.alerts if alert.leaf in leaves)
    stays = tuple(alert for alert in decision.alerts if alert.leaf not in leaves)
    passed = _latest(*decision.passed, *(alert.spell for alert in moved if alert.policy == SILENCE))
    return msgspec.structs.replace(decision, alerts=stays, passed=passed), Moved(moved, decision.passed)


def take(decision: Decision, moved: Moved) -> Decision:
    """The decision with what another customer handed over; of one alert on both sides the higher revision holds."""
    alerts = decision.alerts
    for alert in moved.alerts:
        mine = next((a for a in alerts if a.id == alert.id), None)
        if mine is None or alert.revision > mine.revision:
            alerts = kept(alerts, alert)
    return msgspec.structs.replace(decision, alerts=alerts, passed=_latest(*moved.passed, *decision.passed))


def _latest(*spells: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(spells))[-PASSED_KEPT:]


def on_erased(decision: Decision, recorded_at: int, snapshot: Snapshot, definition: Definition) -> Outcome:
    """Forget a customer, and tell: open alerts are retracted without reasons, then the customer is said to be erased.

    Only the sequence and `settled` remain.
    """
    deciding = _retracted(decision, decision.alerts, recorded_at, snapshot, definition)
    deciding.write_forgotten(max(recorded_at, deciding.decision.decided_at))
    deciding.decision = surrender(deciding.decision)
    return deciding.outcome()


def on_leaf_erased(
    decision: Decision, leaf: bytes, recorded_at: int, snapshot: Snapshot, definition: Definition
) -> Outcome:
    """Forget what opened with an erased leaf of a customer that lives on; open alerts are retracted without reasons."""
    opened = tuple(alert for alert in decision.alerts if alert.leaf == leaf)
    deciding = _retracted(decision, opened, recorded_at, snapshot, definition)
    deciding.change(alerts=tuple(alert for alert in deciding.decision.alerts if alert.leaf != leaf))
    return deciding.outcome()


def _retracted(
    decision: Decision, alerts: tuple[Alert, ...], recorded_at: int, snapshot: Snapshot, definition: Definition
) -> Deciding:
    deciding = Deciding(decision, snapshot, definition)
    at = max(recorded_at, decision.decided_at)
    for alert in alerts:
        if alert.state == OPEN:
            closed = msgspec.structs.replace(
                alert, state=RETRACTED, closed_at=at, revision=alert.revision + 1, risk=None
            )
            deciding.write_alert(AlertRetracted, closed, at, ERASED, Reasons())
    return deciding
