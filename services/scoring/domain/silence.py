"""Silence alerts: their exact crossing, raising them once per silence, and what late evidence does to them."""

import msgspec

from services.scoring.domain.alerts import (
    EXPIRED,
    OPEN,
    RECOVERED,
    RETRACTED,
    SILENCE,
    Alert,
    AlertAmended,
    AlertJudged,
    AlertRaised,
    AlertRecovered,
    AlertRetracted,
    Cause,
    alert_id,
    known,
    open_alerts,
)
from services.scoring.domain.conditions import Reading, all_hold, flip_after, holds
from services.scoring.domain.crossing import NEVER_MS, first_true
from services.scoring.domain.deciding import PASSED_KEPT, Deciding, Decision
from services.scoring.domain.definitions import Definition
from services.scoring.domain.evidence import UNASKED
from services.scoring.domain.reasons import clears_silence, reasons_of
from services.scoring.domain.snapshot import Purchase, Snapshot

OPENING_KIND = "purchased"


def silent(definition: Definition, reading: Reading, at: int) -> bool:
    """THE predicate of silence: whether every condition of the silence alert holds at `at`."""
    return reading.buying is not None and all_hold(definition.pack.silence.when, reading, at)


def crossing(definition: Definition, reading: Reading) -> int | None:
    """The first millisecond since the last purchase at which the customer is silent; None when that never comes."""
    if reading.buying is None:
        return None
    last_at, hint = reading.buying.last_at, 0
    for condition in definition.pack.silence.when:
        flip = flip_after(condition, reading, last_at)
        if flip is not None:
            hint = max(hint, flip)
        elif not holds(condition, reading, last_at):
            return None
    return first_true(lambda t: silent(definition, reading, t), last_at, last_at + NEVER_MS, hint)


def present_crossing(deciding: Deciding) -> int | None:
    """`crossing` of the present silence, found once for all that is decided on the same evidence."""
    evidence = deciding.evidence
    if evidence.crossed_at == UNASKED:
        evidence.crossed_at = crossing(evidence.definition, deciding.reading())
    return evidence.crossed_at


def told(decision: Decision, spell: str) -> bool:
    """Whether the silence after purchase `spell` raises nothing (any more): raised before, passed, or one is open."""
    if not decision.alerts:
        return spell in decision.passed
    alerts = [a for a in decision.alerts if a.policy == SILENCE and a.state != RETRACTED]
    return spell in decision.passed or any(a.state == OPEN or a.spell == spell for a in alerts)


def next_silence(deciding: Deciding) -> int | None:
    """When the present silence is due: at its crossing, or at `settled` + 1 when that already lies behind."""
    if not deciding.last_key or told(deciding.decision, deciding.last_key):
        return None
    crossed_at = present_crossing(deciding)
    return None if crossed_at is None else max(crossed_at, deciding.decision.settled + 1)


def raise_silence(deciding: Deciding, at: int, cause: Cause) -> None:
    """Raise the alert of the present silence at `at`, under the id it had if it was retracted before."""
    reading, definition = deciding.reading(), deciding.definition
    bought, crossed_at = reading.buying, present_crossing(deciding)
    if bought is None or crossed_at is None:
        raise AssertionError("only a silence that was crossed is raised")
    silence_id = alert_id(deciding.snapshot.workspace, SILENCE, bought.last_key, OPENING_KIND)
    before = known(deciding.decision.alerts, silence_id)
    alert = Alert(
        id=silence_id,
        policy=SILENCE,
        kind=OPENING_KIND,
        key=bought.last_key,
        leaf=bought.last_leaf,
        opened_at=bought.last_at,
        crossed_at=crossed_at,
        raised_at=at,
        expires_at=at + definition.pack.silence.expires_ms,
        version=definition.version,
        risk=deciding.risk(at),
        spell=bought.last_key,
        revision=before.revision + 1 if before else 1,
        acknowledged_at=before.acknowledged_at if before else None,
    )
    clears = clears_silence(definition.pack.purchase_trust_min)
    reasons = reasons_of(reading, at, definition.pack.silence.when, clears=clears)
    deciding.write_alert(AlertRaised, alert, at, cause, reasons)


def pass_over(deciding: Deciding, clock: int) -> None:
    """Mark a silence that already holds at `clock` as passed: nobody is told of what began before it was watched."""
    key = deciding.last_key
    if key and not told(deciding.decision, key) and silent(deciding.definition, deciding.reading(), clock):
        deciding.change(passed=(*deciding.decision.passed, key)[-PASSED_KEPT:])


def count_unsettled(deciding: Deciding, old: Reading, new: Snapshot) -> None:
    """Count the silence of `old` if its crossing was never settled and a purchase in `new` ended it after that."""
    bought = old.buying
    if bought is None or told(deciding.decision, bought.last_key):
        return
    trust_min = deciding.definition.pack.purchase_trust_min
    ended_at = next((p.at for p in new.purchases if p.at > bought.last_at and p.trust >= trust_min), None)
    if ended_at is None:
        return
    # A silence that holds lasts until it is ended, so it was crossed before if it held at the last instant.
    deciding.unsettled_silences += silent(deciding.definition, old, ended_at - 1)


# --- late evidence ------------------------------------------------------------------------------------------------


def review(deciding: Deciding, old: Snapshot | None, at: int, cause: Cause) -> None:
    """Ask about the past again, for each silence alert whose evidence is not what it was in `old` (None: for all).

    Open: silent at `raised_at` and a purchase after it → recovered; silent then and now → amended; silent neither then
    nor after → retracted. One that was not silent then but is now, with no purchase between, stays as amended: taking
    it back to raise it again would say twice what is true. Closed (recovered or expired): not silent then → judged a
    false alarm, once. Of several open ones the latest opening stands and the others are retracted.
    """
    if not deciding.decision.alerts:
        return
    for alert in deciding.decision.alerts:
        if alert.policy != SILENCE or (old is not None and not _evidence_changed(alert, old, deciding.snapshot)):
            continue
        if alert.state == OPEN:
            _review_open(deciding, alert, at, cause)
        elif alert.state in (RECOVERED, EXPIRED) and not alert.corrected:
            _review_closed(deciding, alert, at, cause)
    for surplus in sorted(open_alerts(deciding.decision.alerts, SILENCE), key=lambda a: (a.opened_at, a.id))[:-1]:
        _close(deciding, surplus, AlertRetracted, RETRACTED, at, cause)


def review_open(deciding: Deciding, at: int, cause: Cause) -> None:
    """Ask about the open silence alerts alone, where it is not known what was known before; the closed ones stand."""
    for alert in open_alerts(deciding.decision.alerts, SILENCE):
        _review_open(deciding, alert, at, cause)
    for surplus in sorted(open_alerts(deciding.decision.alerts, SILENCE), key=lambda a: (a.opened_at, a.id))[:-1]:
        _close(deciding, surplus, AlertRetracted, RETRACTED, at, cause)


def _evidence_changed(alert: Alert, old: Snapshot, new: Snapshot) -> bool:
    if old is new:
        return False
    if alert.state == OPEN and old.purchases != new.purchases:
        return True
    return _until(old.purchases, alert.raised_at) != _until(new.purchases, alert.raised_at)


def _until(purchases: tuple[Purchase, ...], at: int) -> list[Purchase]:
    return [purchase for purchase in purchases if purchase.at <= at]


def _review_open(deciding: Deciding, alert: Alert, at: int, cause: Cause) -> None:
    was = silent(deciding.definition, deciding.reading_of(alert.raised_at), alert.raised_at)
    bought = deciding.reading().buying
    if bought is not None and bought.last_at > alert.raised_at:
        kind, state = (AlertRecovered, RECOVERED) if was else (AlertRetracted, RETRACTED)
        _close(deciding, alert, kind, state, at, cause)
        return
    now = silent(deciding.definition, deciding.reading(), max(deciding.decision.settled, alert.raised_at))
    if was or now:
        _amend(deciding, alert, at, cause)
    else:
        _close(deciding, alert, AlertRetracted, RETRACTED, at, cause)


def _review_closed(deciding: Deciding, alert: Alert, at: int, cause: Cause) -> None:
    reading = deciding.reading_of(alert.raised_at)
    if silent(deciding.definition, reading, alert.raised_at):
        return
    judged = msgspec.structs.replace(alert, corrected=True, revision=alert.revision + 1)
    reasons = reasons_of(reading, alert.raised_at, deciding.definition.pack.silence.when)
    deciding.write_alert(AlertJudged, judged, at, cause, reasons, verdict="false_alarm")


def _amend(deciding: Deciding, alert: Alert, at: int, cause: Cause) -> None:
    reading = deciding.reading()
    crossed_at = present_crossing(deciding)
    amended = msgspec.structs.replace(
        alert,
        spell=deciding.last_key,
        crossed_at=alert.crossed_at if crossed_at is None else crossed_at,
        risk=deciding.risk(alert.raised_at),
    )
    if amended == alert:
        return
    amended = msgspec.structs.replace(amended, revision=alert.revision + 1)
    pack, clock = deciding.definition.pack, max(deciding.decision.settled, alert.raised_at)
    reasons = reasons_of(reading, clock, pack.silence.when, clears=clears_silence(pack.purchase_trust_min))
    deciding.write_alert(AlertAmended, amended, at, cause, reasons)


def _close(
    deciding: Deciding,
    alert: Alert,
    kind: type[AlertRecovered | AlertRetracted],
    state: str,
    at: int,
    cause: Cause,
) -> None:
    closed = msgspec.structs.replace(alert, state=state, closed_at=at, revision=alert.revision + 1)
    clock = max(deciding.decision.settled, alert.raised_at)
    reasons = reasons_of(deciding.reading(), clock, deciding.definition.pack.silence.when)
    deciding.write_alert(kind, closed, at, cause, reasons)
