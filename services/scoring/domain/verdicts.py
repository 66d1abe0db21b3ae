"""A person's word on an alert: acknowledged, or judged true or false. Facts like any other decision."""

import msgspec

from services.scoring.domain.alerts import (
    JUDGED,
    OPEN,
    OPERATOR,
    Alert,
    AlertAcknowledged,
    AlertJudged,
    known,
)
from services.scoring.domain.deciding import Deciding, Decision, Outcome
from services.scoring.domain.definitions import Definition
from services.scoring.domain.reasons import Reasons
from services.scoring.domain.snapshot import Snapshot
from shared.errors import InvalidField, NotFound

TRUE_ALARM, FALSE_ALARM = "true_alarm", "false_alarm"


def acknowledge(decision: Decision, alert_id: bytes, at: int, snapshot: Snapshot, definition: Definition) -> Outcome:
    """Note that a person takes care of an alert; a second time is silent. Raises NotFound for an unknown id."""
    deciding, alert = _found(decision, alert_id, snapshot, definition)
    if alert.acknowledged_at is not None:
        return deciding.outcome()
    seen = msgspec.structs.replace(alert, acknowledged_at=at, revision=alert.revision + 1)
    deciding.write_alert(AlertAcknowledged, seen, max(at, decision.decided_at), OPERATOR, Reasons(risk=alert.risk))
    return deciding.outcome()


def judge(
    decision: Decision, alert_id: bytes, verdict: str, at: int, snapshot: Snapshot, definition: Definition
) -> Outcome:
    """Record a person's `verdict`, `true_alarm` or `false_alarm`; it closes an open alert and is never corrected.

    Raises NotFound for an unknown id and InvalidField for another verdict or an alert a person judged already.
    """
    if verdict not in (TRUE_ALARM, FALSE_ALARM):
        raise InvalidField("verdict", f"one of {TRUE_ALARM}, {FALSE_ALARM}")
    deciding, alert = _found(decision, alert_id, snapshot, definition)
    if alert.state == JUDGED:
        raise InvalidField("verdict", "this alert is judged already", code="already_judged")
    at = max(at, decision.decided_at)
    closed_at = at if alert.state == OPEN else alert.closed_at
    judged = msgspec.structs.replace(
        alert, state=JUDGED, closed_at=closed_at, corrected=True, revision=alert.revision + 1
    )
    deciding.write_alert(AlertJudged, judged, at, OPERATOR, Reasons(risk=alert.risk), verdict=verdict)
    return deciding.outcome()


def _found(decision: Decision, alert_id: bytes, snapshot: Snapshot, definition: Definition) -> tuple[Deciding, Alert]:
    alert = known(decision.alerts, alert_id)
    if alert is None:
        raise NotFound("no such alert of this customer")
    return Deciding(decision, snapshot, definition), alert
