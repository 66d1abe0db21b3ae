"""Bad-experience alerts: opened by one fact, closed by a good one or by time. Never recomputed."""

import msgspec

from services.scoring.domain.alerts import (
    BAD_EXPERIENCE,
    OPEN,
    RECOVERED,
    RETRACTED,
    Alert,
    AlertRaised,
    AlertRecovered,
    Cause,
    alert_id,
    known,
    open_alerts,
)
from services.scoring.domain.deciding import Deciding
from services.scoring.domain.pack import Trigger
from services.scoring.domain.reasons import clears_bad_experience, reasons_of
from shared.events import FactRef
from shared.vocabulary import fact_key


def hear(deciding: Deciding, facts: tuple[FactRef, ...], at: int, cause: Cause) -> None:
    """Take what `facts` tell of bad and good experience, in the order they happened, stamped `at`.

    A fact older than the rule's expiry opens nothing; one that only repeats what raised an alert (same business key,
    or same id, not later than the alert's end) opens nothing either.
    """
    rule = deciding.definition.pack.bad_experience
    decisive = [fact for fact in facts if fact.kind in rule.kinds]
    for fact in sorted(decisive, key=lambda f: (f.occurred_at, f.id)):
        if _meets(rule.clears, fact):
            _clear(deciding, fact, at, cause)
        if _meets(rule.opens, fact) and fact.occurred_at + rule.expires_ms > at:
            _open(deciding, fact, at, cause)


def _meets(triggers: tuple[Trigger, ...], fact: FactRef) -> bool:
    return any(trigger.meets(fact) for trigger in triggers)


def _open(deciding: Deciding, fact: FactRef, at: int, cause: Cause) -> None:
    rule = deciding.definition.pack.bad_experience
    key = fact_key(fact)
    opened_id = alert_id(deciding.snapshot.workspace, BAD_EXPERIENCE, key, fact.kind)
    before = known(deciding.decision.alerts, opened_id)
    if before is not None and not _may_open_again(before, fact):
        return
    alert = Alert(
        id=opened_id,
        policy=BAD_EXPERIENCE,
        kind=fact.kind,
        key=key,
        leaf=fact.leaf,
        opened_at=fact.occurred_at,
        crossed_at=fact.occurred_at,
        raised_at=at,
        expires_at=fact.occurred_at + rule.expires_ms,
        version=deciding.definition.version,
        risk=deciding.risk(at),
        revision=before.revision + 1 if before else 1,
    )
    reasons = reasons_of(deciding.reading(), at, facts=(fact,), clears=clears_bad_experience(rule.clears))
    deciding.write_alert(AlertRaised, alert, at, cause, reasons)


def _may_open_again(before: Alert, fact: FactRef) -> bool:
    if before.state == OPEN:
        return False
    return before.state == RETRACTED or before.closed_at is None or fact.occurred_at > before.closed_at


def _clear(deciding: Deciding, fact: FactRef, at: int, cause: Cause) -> None:
    for alert in open_alerts(deciding.decision.alerts, BAD_EXPERIENCE):
        if alert.opened_at < fact.occurred_at:
            closed = msgspec.structs.replace(alert, state=RECOVERED, closed_at=at, revision=alert.revision + 1)
            reasons = reasons_of(deciding.reading(), at, facts=(fact,))
            deciding.write_alert(AlertRecovered, closed, at, cause, reasons)
