"""From rows and decisions to what REST shows. Pure."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from services.scoring.domain.alerts import AlertTransition, AnyTransition, StageChanged
from services.scoring.domain.conditions import Reading
from services.scoring.domain.definitions import Definition
from services.scoring.domain.emitting import SEGMENT_CHANGED, reasons_told
from services.scoring.domain.outlook import outlook
from services.scoring.domain.reasons import reasons_of
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.snapshot import Snapshot, buying
from services.scoring.domain.step import PPM
from services.scoring.rulebook import Edition
from services.scoring.wire import AlertShown, DecisionShown, DefinitionShown, Upcoming
from shared.ids import leaf_text, uuid_text

SHOWN_MS_MAX = 253_402_300_799_999
"""The end of year 9999: later instants have no RFC 3339 form."""


def moment(at_ms: int) -> datetime:
    """An instant in UTC; the last one there is for anything later."""
    return datetime.fromtimestamp(max(0, min(at_ms, SHOWN_MS_MAX)) / 1000, UTC)


def known_moment(at_ms: int | None) -> datetime | None:
    """The same; None for no instant, or one before 1970, which stands for none."""
    return None if at_ms is None or at_ms < 0 else moment(at_ms)


def alert_shown(row: AlertRow) -> AlertShown:
    """An alert row with its newest event."""
    event: dict[str, Any] | None = msgspec.json.decode(row.body) if row.body else None
    return AlertShown(
        alert_id=uuid_text(row.id),
        customer_id=leaf_text(row.customer),
        policy=row.policy,
        state=row.state,
        revision=row.revision,
        raised_at=moment(row.raised_at),
        acknowledged_at=known_moment(event["data"].get("acknowledged_at") if event else None),
        risk=None if row.risk_ppm < 0 else row.risk_ppm / PPM,
        event=event,
    )


def decision_shown(
    row: DecisionRow, asked: bytes, snapshot: Snapshot, definition: Definition, now: int, alerts: list[AlertRow]
) -> DecisionShown:
    """Where a customer stands at `now` (epoch ms), under the definition they are armed with."""
    decided, pack = row.decision, definition.pack
    bought = buying(snapshot, pack.purchase_trust_min, pack.day_ms)
    reasons = reasons_of(Reading(bought, snapshot.contract_ended_at, definition.model), now)
    armed = row.due_at is not None
    ahead = outlook(decided, snapshot, definition) if armed else None
    return DecisionShown(
        customer_id=leaf_text(row.customer),
        resolved_from=None if asked == row.customer else leaf_text(asked),
        version=row.version,
        definition_version=definition.version,
        stage=decided.stage or None,
        stage_since=known_moment(decided.stage_since),
        risk=reasons.risk,
        risk_at=moment(now),
        reasons=msgspec.to_builtins(reasons_told(reasons)),
        settled_at=known_moment(decided.settled),
        due_at=known_moment(row.due_at),
        upcoming=[upcoming(one) for one in ahead.transitions] if ahead else [],
        alerts=[alert_shown(one) for one in alerts],
        held_by_imports=list(decided.held),
        parked=row.parked or None,
    )


def upcoming(transition: AnyTransition) -> Upcoming:
    """A transition that time will bring."""
    if isinstance(transition, StageChanged):
        return Upcoming(type=SEGMENT_CHANGED, stage=transition.stage)
    assert isinstance(transition, AlertTransition)  # noqa: S101 (the only other kind)
    name = f"raftar.{transition.__struct_config__.tag}"
    return Upcoming(type=name, policy=transition.alert.policy, alert_id=uuid_text(transition.alert.id))


def definition_shown(edition: Edition, in_force: int, built_in: bool) -> DefinitionShown:
    """A version; `in_force`: the version that decides now."""
    fact = edition.fact
    return DefinitionShown(
        version=fact.version,
        effective_at=moment(fact.effective_at),
        in_force=not edition.refused and fact.version == in_force,
        built_in=built_in,
        refused=edition.refused or None,
        rules=fact.rules,
        model=fact.model,
    )
