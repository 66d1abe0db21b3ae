"""What leaves scoring: transitions as CloudEvents 1.0 in JSON, one fact a record, so that any consumer reads them."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from services.scoring.domain.alerts import AlertJudged, AlertTransition, StageChanged, Transition
from services.scoring.domain.reasons import Reasons
from shared.ids import derived_id, leaf_text, uuid_text
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

_encode = msgspec.json.Encoder(order="deterministic").encode

SEGMENT_CHANGED = "raftar.segment.changed"


def topic_of(transition: Transition) -> str:
    """Where a transition goes."""
    return SEGMENT_CHANGES if isinstance(transition, StageChanged) else CHURN_ALERTS


def cloud_event(workspace: str, customer: bytes, transition: Transition, emitted_at: int) -> bytes:
    """The CloudEvent of a transition.

    `id` depends on what was decided only, so that a repetition is recognised · `time` is the instant it speaks of (for
    a silence the exact crossing), `data.emitted_at` when it was said · `sequence`: per customer, sortable text.
    """
    is_stage = isinstance(transition, StageChanged)
    event = {
        "specversion": "1.0",
        "id": uuid_text(_event_id(workspace, customer, transition)),
        "source": f"raftar/scoring/{workspace}",
        "type": SEGMENT_CHANGED if is_stage else "raftar." + str(_name(transition)),
        "subject": leaf_text(customer),
        "time": _iso(transition.at),
        "datacontenttype": "application/json",
        "workspace": workspace,
        "sequence": f"{transition.sequence:020d}",
        "data": {
            "customer": leaf_text(customer),
            "at": transition.at,
            "emitted_at": emitted_at,
            "cause": transition.cause.what,
            "causes": [uuid_text(fact) for fact in transition.cause.facts],
            "definition_version": transition.version,
            "rule_version": transition.version,  # rules and model are published together, under one number
            "model_version": transition.version,
            "risk": transition.risk,
            "risk_at": transition.at,
            "reasons": reasons_told(transition.reasons),
            **_particulars(transition),
        },
    }
    return _encode(event)


def _event_id(workspace: str, customer: bytes, transition: Transition) -> bytes:
    if isinstance(transition, StageChanged):
        return derived_id(workspace, customer, "stage", str(transition.sequence))
    if isinstance(transition, AlertTransition):
        return derived_id(workspace, transition.alert.id, _name(transition), str(transition.alert.revision))
    raise TypeError(f"{type(transition).__name__} is neither about a stage nor about an alert")


def _name(transition: Transition) -> str:
    return str(transition.__struct_config__.tag)


def _particulars(transition: Transition) -> dict[str, Any]:
    if isinstance(transition, StageChanged):
        return {"stage": transition.stage, "previous": transition.previous}
    return _alert(transition) if isinstance(transition, AlertTransition) else {}


def _alert(transition: AlertTransition) -> dict[str, Any]:
    alert = transition.alert
    told: dict[str, Any] = {
        "alert_id": uuid_text(alert.id),
        "revision": alert.revision,
        "policy": alert.policy,
        "kind": alert.kind,
        "key": alert.key,
        "state": alert.state,
        "opened_at": alert.opened_at,
        "crossed_at": alert.crossed_at,
        "raised_at": alert.raised_at,
        "expires_at": alert.expires_at,
        "closed_at": alert.closed_at,
        "acknowledged_at": alert.acknowledged_at,
        "clears": list(transition.reasons.clears),
    }
    if isinstance(transition, AlertJudged):
        told["verdict"] = transition.verdict
    return told


def reasons_told(reasons: Reasons) -> dict[str, Any]:
    """Reasons as JSON carries them: durations and times in ms, ids as UUIDs."""
    return {
        "risk": reasons.risk,
        "parts": [{"name": part.name, "amount": part.amount} for part in reasons.parts],
        "conditions": [{"condition": met.condition, "value": met.value} for met in reasons.conditions],
        "orders": reasons.orders,
        "silence_ms": reasons.silence_ms,
        "usual_gap_ms": reasons.usual_gap_ms,
        "rhythm": reasons.rhythm,
        "facts": [
            {
                "id": uuid_text(fact.id),
                "kind": fact.kind,
                "occurred_at": fact.occurred_at,
                "key": fact.key,
                "score": fact.score,
            }
            for fact in reasons.facts
        ],
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
