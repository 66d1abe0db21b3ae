"""Deciding: `advance` takes what time flips, `on_change` what new facts bring, `due` says when to come back.

**What is decided when.** `settled` is the last instant up to which silence is decided. `advance` alone moves it, and
only below the watermark: evidence recorded later may still be unread on another partition. `on_change` judges new
facts at once, at the later of their record's stamp and the last decision, without deciding silence any further: stages
that depend on silence are asked at the clock `settled`, on everything known, and a purchase newer than that clock
counts as made just now. So a purchase ends a silence at once, and no silence is ever concluded from unread evidence.
"""

import msgspec

from services.scoring.domain.alerts import EXPIRED, OPEN, SILENCE, TIME, Alert, AlertExpired, Cause
from services.scoring.domain.deciding import INITIAL, Deciding, Decision, Outcome
from services.scoring.domain.definitions import Definition
from services.scoring.domain.experience import hear
from services.scoring.domain.lifecycle import next_stage_flip
from services.scoring.domain.reasons import Reasons, reasons_of
from services.scoring.domain.silence import count_unsettled, next_silence, raise_silence, review
from services.scoring.domain.snapshot import Snapshot
from shared.events import FactRef

__all__ = ["INITIAL", "Decision", "Outcome", "advance", "due", "hold", "on_change"]


def due(decision: Decision, snapshot: Snapshot, definition: Definition) -> int | None:
    """The first instant after `settled` at which time flips anything; None when time alone flips nothing any more.

    What already lies behind is due at `settled` + 1. A held customer is parked: None. The timer fires when the
    watermark is greater than the due time.
    """
    return None if decision.held else _next_flip(Deciding(decision, snapshot, definition))


def advance(decision: Decision, snapshot: Snapshot, until: int, definition: Definition) -> Outcome:
    """Take every flip by time before `until` (a watermark: epoch ms), each stamped with its exact instant.

    Afterwards `settled` is at least `until` - 1. Calling it again, or in steps, gives the same transitions; an `until`
    at or before `settled` gives none. A held customer is left as it is.
    """
    if decision.held:
        return Outcome(decision)
    deciding = Deciding(decision, snapshot, definition)
    while (flip := _next_flip(deciding)) is not None and flip < until:
        _expire(deciding, flip)
        if deciding.decision.stage:
            deciding.restage(flip, flip, TIME)
            if next_silence(deciding) == flip:
                raise_silence(deciding, flip, TIME)
        deciding.settle(flip)
    deciding.settle(until - 1)
    return deciding.outcome()


def on_change(
    decision: Decision,
    old: Snapshot,
    new: Snapshot,
    facts: tuple[FactRef, ...],
    recorded_at: int,
    watermark: int | None,
    definition: Definition,
    import_id: str = "",
) -> Outcome:
    """Judge a change of the customer from `old` to `new` that `facts` brought, recorded at `recorded_at` (epoch ms).

    `old`: the snapshot of the last change, without purchases for a new customer · `watermark`: of this partition, None
    while none was heard · `definition`: the one the decision is armed with (`succession.advance_through` switches) ·
    `import_id`: not "" for history, which holds the customer. Advances `old` to min(recorded_at, watermark) first;
    then bad experience, late evidence for silence alerts, and the stage. Raises no silence alert. Facts already judged
    bring nothing, so that a repeated call is silent.
    """
    before = Outcome(decision)
    if watermark is not None:
        before = advance(decision, old, min(recorded_at, watermark), definition)
    deciding = Deciding(before.decision, new, definition)
    deciding.transitions.extend(before.transitions)
    if import_id:
        deciding.decision = hold(deciding.decision, import_id)
        return deciding.outcome()
    at = max(recorded_at, deciding.decision.decided_at)
    cause = Cause("facts", tuple(fact.id for fact in facts))
    hear(deciding, facts, at, cause)
    if not deciding.decision.held:
        if old is not new and old.purchases:
            count_unsettled(deciding, Deciding(deciding.decision, old, definition).reading(), new)
        review(deciding, old, at, cause)
        deciding.restage(deciding.decision.settled, at, cause)
        if deciding.decision.version != definition.version:
            deciding.change(version=definition.version)
    return deciding.outcome()


def hold(decision: Decision, import_id: str) -> Decision:
    """The decision with one more unfinished history import; silence is not decided until all are released."""
    if import_id in decision.held:
        return decision
    return msgspec.structs.replace(decision, held=tuple(sorted((*decision.held, import_id))))


def _next_flip(deciding: Deciding) -> int | None:
    """The next flip by time; the one found last still holds while it lies ahead and rests on the same."""
    decision, evidence = deciding.decision, deciding.evidence
    arming, settled, flip = evidence.armed
    if arming != decision.arming or decision.settled < settled or (flip is not None and flip <= decision.settled):
        flip = _flip_found(deciding)
        evidence.armed = decision.arming, decision.settled, flip
    return flip


def _flip_found(deciding: Deciding) -> int | None:
    decision = deciding.decision
    flips = [max(a.expires_at, decision.settled + 1) for a in decision.alerts if a.state == OPEN]
    if decision.stage:
        pack, reading = deciding.definition.pack, deciding.reading()
        flips += [f for f in (next_stage_flip(pack, reading, decision.settled, decision.stage),) if f is not None]
        flips += [f for f in (next_silence(deciding),) if f is not None]
    return min(flips, default=None)


def _expire(deciding: Deciding, at: int) -> None:
    for alert in deciding.decision.alerts:
        if alert.state == OPEN and alert.expires_at <= at:
            deciding.write_alert(AlertExpired, _expired(alert, at), at, TIME, _why_expired(deciding, alert, at))


def _expired(alert: Alert, at: int) -> Alert:
    return msgspec.structs.replace(alert, state=EXPIRED, closed_at=at, revision=alert.revision + 1)


def _why_expired(deciding: Deciding, alert: Alert, at: int) -> Reasons:
    conditions = deciding.definition.pack.silence.when if alert.policy == SILENCE else ()
    return reasons_of(deciding.reading(), at, conditions)
