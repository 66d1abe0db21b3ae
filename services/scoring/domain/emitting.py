"""What leaves scoring: transitions as CloudEvents 1.0 in JSON, one fact a record, so that any consumer reads them."""

from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType

from services.scoring.domain.alerts import AlertJudged, AlertTransition, CustomerForgotten, StageChanged, Transition
from services.scoring.domain.reasons import Reasons
from services.scoring.domain.rows import DecisionRow
from services.scoring.domain.told import (
    Carried,
    CarriedAlert,
    ChurnAlertData,
    ChurnAlertEvent,
    CustomerErasedData,
    CustomerErasedEvent,
    SegmentChangeData,
    SegmentChangeEvent,
    ToldCondition,
    ToldFact,
    ToldPart,
    ToldReasons,
)
from shared.ids import derived_id, leaf_text, uuid_text
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

_encode = msgspec.json.Encoder().encode

SEGMENT_CHANGED = "raftar.segment.changed"
_EVENTS: dict[type[Transition], type[SegmentChangeEvent | CustomerErasedEvent]] = {
    StageChanged: SegmentChangeEvent,
    CustomerForgotten: CustomerErasedEvent,
}


def topic_of(transition: Transition) -> str:
    """Where a transition goes. An erasure is said on both topics, so that no listener keeps what it was told."""
    if isinstance(transition, CustomerForgotten):
        return transition.topic
    return SEGMENT_CHANGES if isinstance(transition, StageChanged) else CHURN_ALERTS


def cloud_event(
    workspace: str, customer: bytes, transition: Transition, emitted_at: int, carried: Carried | UnsetType = UNSET
) -> bytes:
    """The CloudEvent of a transition. `carried`: what a rebuild needs of the decision behind it.

    `id` depends on what was decided only, so that a repetition is recognised · `time` is the instant it speaks of (for
    a silence the exact crossing), `data.emitted_at` when it was said · `sequence`: per customer, sortable text.
    """
    return _encode(
        _EVENTS.get(type(transition), ChurnAlertEvent)(
            id=uuid_text(_event_id(workspace, customer, transition)),
            source=f"raftar/scoring/{workspace}",
            type=_type(transition),
            subject=leaf_text(customer),
            time=_iso(transition.at),
            workspace=workspace,
            sequence=f"{transition.sequence:020d}",
            data=_data(leaf_text(customer), transition, emitted_at, carried),  # type: ignore[arg-type]  # each event its own
        )
    )


def _event_id(workspace: str, customer: bytes, transition: Transition) -> bytes:
    if isinstance(transition, StageChanged):
        return derived_id(workspace, customer, "stage", str(transition.sequence))
    if isinstance(transition, AlertTransition):
        return derived_id(workspace, transition.alert.id, _name(transition), str(transition.alert.revision))
    if isinstance(transition, CustomerForgotten):
        return derived_id(workspace, customer, _name(transition), str(transition.sequence))
    raise TypeError(f"{type(transition).__name__} is about no stage, no alert and no erasure")


def _name(transition: Transition) -> str:
    return str(transition.__struct_config__.tag)


def _type(transition: Transition) -> str:
    return SEGMENT_CHANGED if isinstance(transition, StageChanged) else "raftar." + _name(transition)


def carried_of(row: DecisionRow, transition: Transition, moves: int, read: tuple[int, int] | None) -> Carried:
    """What a rebuild needs beside what is told. `row`: after the transition · `moves`: of the opening leaf ·
    `read`: partition and position of profile-changes before which everything was decided.
    """
    decision = row.decision
    kept: CarriedAlert | UnsetType = UNSET
    if isinstance(transition, AlertTransition):
        alert = transition.alert
        kept = CarriedAlert(
            corrected=alert.corrected,
            leaf=leaf_text(alert.leaf),
            moves=moves,
            risk=alert.risk,
            spell=alert.spell,
            version=alert.version,
        )
    return Carried(
        alert=kept,
        held=decision.held,
        passed=decision.passed,
        profile_version=row.version,
        read=UNSET if read is None else read,
        settled=decision.settled,
        spell=decision.stage_spell,
    )


def _data(
    customer: str, transition: Transition, emitted_at: int, carried: Carried | UnsetType
) -> SegmentChangeData | ChurnAlertData | CustomerErasedData:
    if isinstance(transition, StageChanged):
        return _stage(customer, transition, emitted_at, carried)
    if isinstance(transition, AlertTransition):
        return _alert(customer, transition, emitted_at, carried)
    if isinstance(transition, CustomerForgotten):
        return CustomerErasedData(at=transition.at, customer=customer, emitted_at=emitted_at)
    raise TypeError(f"{type(transition).__name__} is about no stage, no alert and no erasure")


def _stage(customer: str, transition: StageChanged, emitted_at: int, carried: Carried | UnsetType) -> SegmentChangeData:
    return SegmentChangeData(
        at=transition.at,
        carried=carried,
        cause=transition.cause.what,
        causes=_causes(transition),
        customer=customer,
        definition_version=transition.version,
        emitted_at=emitted_at,
        model_version=transition.version,
        previous=transition.previous,
        reasons=reasons_told(transition.reasons),
        risk=transition.risk,
        risk_at=transition.at,
        rule_version=transition.version,  # rules and model are published together, under one number
        stage=transition.stage,
    )


def _alert(customer: str, transition: AlertTransition, emitted_at: int, carried: Carried | UnsetType) -> ChurnAlertData:
    alert = transition.alert
    return ChurnAlertData(
        acknowledged_at=alert.acknowledged_at,
        alert_id=uuid_text(alert.id),
        at=transition.at,
        carried=carried,
        cause=transition.cause.what,
        causes=_causes(transition),
        clears=transition.reasons.clears,
        closed_at=alert.closed_at,
        crossed_at=alert.crossed_at,
        customer=customer,
        definition_version=transition.version,
        emitted_at=emitted_at,
        expires_at=alert.expires_at,
        key=alert.key,
        kind=alert.kind,
        model_version=transition.version,
        opened_at=alert.opened_at,
        policy=alert.policy,
        raised_at=alert.raised_at,
        reasons=reasons_told(transition.reasons),
        revision=alert.revision,
        risk=transition.risk,
        risk_at=transition.at,
        rule_version=transition.version,
        state=alert.state,
        verdict=transition.verdict if isinstance(transition, AlertJudged) else UNSET,
    )


def _causes(transition: Transition) -> tuple[str, ...]:
    return tuple(map(uuid_text, transition.cause.facts))


def reasons_told(reasons: Reasons) -> ToldReasons:
    """Reasons as JSON carries them: durations and times in ms, ids as UUIDs."""
    return ToldReasons(
        conditions=tuple(ToldCondition(met.condition, met.value) for met in reasons.conditions),
        facts=tuple(
            ToldFact(uuid_text(fact.id), fact.key, fact.kind, fact.occurred_at, fact.score) for fact in reasons.facts
        ),
        orders=reasons.orders,
        parts=tuple(ToldPart(part.amount, part.name) for part in reasons.parts),
        rhythm=reasons.rhythm,
        risk=reasons.risk,
        silence_ms=reasons.silence_ms,
        usual_gap_ms=reasons.usual_gap_ms,
    )


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
