"""Questions about the past: what profiles kept of a customer, and what the rules of then say of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.asking import AlertTold, Profiles, Told
from services.scoring.domain.computed import Computed, computed
from services.scoring.domain.definitions import in_force
from services.scoring.domain.emitting import reasons_told
from services.scoring.domain.snapshot import snapshot_of_state
from services.scoring.domain.step import Rules
from services.scoring.showing import known_moment, moment
from services.scoring.wire import AlertPage, AlertShown
from services.scoring.wire_past import ComputedThen, DecidedThen, PastDecision
from shared.clock import Clock
from shared.epoch import epoch_ms
from shared.errors import InvalidField
from shared.ids import leaf_text

OPEN = ("open", "acknowledged")


@dataclass(frozen=True, slots=True)
class Question:
    """Whose past, as of when and as known when; `authorization`: the caller's, as sent."""

    workspace: str
    authorization: str
    customer: bytes
    as_of: datetime | None
    known_at: datetime | None


@dataclass(frozen=True, slots=True)
class PastDesk:
    """Answers questions about what was. `rules` of a workspace."""

    profiles: Profiles
    rules: Callable[[str], Rules]
    clock: Clock

    async def decision(self, asked: Question) -> PastDecision:
        """Where a customer stood: decided then, and computed anew. Raises NotFound, InvalidField, Retryable."""
        told = await self._told(asked)
        anew = await asyncio.to_thread(self._computed, asked, told)  # others are answered meanwhile
        own_id = leaf_text(asked.customer)
        return PastDecision(
            customer_id=told.customer_id,
            resolved_from=None if own_id == told.customer_id else own_id,
            as_of=_utc(asked.as_of),
            known_at=_utc(asked.known_at),
            complete=told.complete,
            decided=_decided(told),
            computed=None if anew is None else _computed_shown(anew),
        )

    async def alerts(self, asked: Question, state: str | None, policy: str | None, limit: int) -> AlertPage:
        """The alerts of a customer as known then, the newest word first. Raises NotFound, InvalidField, Retryable."""
        shown = [_alert_shown(alert) for alert in (await self._told(asked)).alerts if alert.event is not None]
        wanted = [one for one in shown if state in (None, one.state) and policy in (None, one.policy)]
        return AlertPage(items=wanted[:limit], next=None)

    async def _told(self, asked: Question) -> Told:
        return await self.profiles.past(asked.authorization, asked.customer, asked.as_of, asked.known_at)

    def _computed(self, asked: Question, told: Told) -> Computed | None:
        if told.first_at is None:
            return None
        rules, at = self.rules(asked.workspace), self._at(asked)
        definition = in_force(rules.definitions, at)
        trust_min = definition.pack.purchase_trust_min
        snapshot = snapshot_of_state(asked.workspace, told.state_bytes, rules.zone, trust_min)
        return computed(snapshot, epoch_ms(told.first_at), at, definition)

    def _at(self, asked: Question) -> int:
        """The instant computed for: `as_of`, else `known_at`; never later than now."""
        at = asked.as_of or asked.known_at
        now = self.clock.now_ms()
        return now if at is None else min(epoch_ms(at), now)


def customer_needed(customer: bytes | None) -> bytes:
    """The customer of a question about past alerts. Raises InvalidField: alerts of the past are kept by customer."""
    if customer is None:
        raise InvalidField("customer", "is needed with `as_of` or `known_at`: past alerts are told of one customer")
    return customer


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else moment(epoch_ms(at))


def _decided(told: Told) -> DecidedThen:
    return DecidedThen(
        stage=told.stage,
        stage_since=told.stage_at,
        risk=told.risk,
        risk_at=told.risk_at,
        reasons=told.reasons,
        alerts=[_alert_shown(alert) for alert in told.alerts if alert.event is not None and alert.state in OPEN],
    )


def _computed_shown(anew: Computed) -> ComputedThen:
    return ComputedThen(
        at=moment(anew.at),
        definition_version=anew.version,
        stage=anew.stage or None,
        risk=anew.reasons.risk,
        reasons=msgspec.to_builtins(reasons_told(anew.reasons)),
        silent_since=known_moment(anew.silent_since),
    )


def _alert_shown(alert: AlertTold) -> AlertShown:
    event: dict[str, Any] = alert.event or {}
    data = event.get("data", {})
    return AlertShown(
        alert_id=str(UUID(alert.alert_id)),
        customer_id=alert.customer_id,
        policy=str(data.get("policy", "")),
        state=alert.state,
        revision=alert.revision,
        raised_at=moment(int(data.get("raised_at", 0))),
        acknowledged_at=known_moment(data.get("acknowledged_at")),
        risk=data.get("risk"),
        event=alert.event,
    )
