"""From a customer as of then to what people read: the same view, and what scoring computes from."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from services.profiles.domain.decided import NEVER_AT, NO_RISK
from services.profiles.domain.past import Cut
from services.profiles.facts import Found
from services.profiles.past import Then
from services.profiles.reading import Happened, Standing
from services.profiles.reading_past import AlertThen
from services.profiles.showing import (
    customer_view,
    identifiers_shown,
    known_moment,
    moment,
    risk_of,
    text_field,
    timed,
    touchpoint_shown,
)
from services.profiles.wire import CustomerView
from services.profiles.wire_past import AlertThen as AlertShown
from services.profiles.wire_past import Contribution, Features, Past, Provenance
from shared import profile as profiles
from shared.cursors import text_of
from shared.ids import leaf_text, uuid_text
from shared.profile.provenance import Feature

OPEN = ("open", "acknowledged")
_UNDECIDED = Standing("", NEVER_AT, NO_RISK, NEVER_AT, b"null")


def customer_then(then: Then, asked: bytes, cut: Cut, now_ms: int) -> CustomerView:
    """The view of a customer under `cut`: what depends on today is told for the instant asked about."""
    whole = then.members.whole
    identifiers = identifiers_shown(whole.leaves, then.kept, then.said, then.places)
    state = replace(whole, state=profiles.encode(then.state))
    alerts = [alert.body for alert in then.alerts if alert.state in OPEN and alert.body]
    at = now_ms if cut.at is None else min(cut.at, now_ms)
    view = customer_view(state, asked, then.standing, alerts, identifiers, then.kept, at)
    past: dict[str, Any] = {
        "as_of": known_moment(cut.as_of),
        "known_at": known_moment(cut.known_at),
        "complete": then.complete,
        "version": None,
    }
    return view.model_copy(update=past)


def past_shown(then: Then, asked: bytes, cut: Cut) -> Past:
    """What was decided, and the state that decisions see."""
    decided, root = then.standing or _UNDECIDED, then.members.whole.customer
    state = profiles.narrowed(profiles.encode(then.state), "orders", "subscriptions")
    return Past(
        customer_id=leaf_text(root),
        resolved_from=None if asked == root else leaf_text(asked),
        as_of=known_moment(cut.as_of),
        known_at=known_moment(cut.known_at),
        complete=then.complete,
        first_at=known_moment(then.state.first_at),
        stage=decided.stage or None,
        stage_at=known_moment(decided.stage_at),
        risk=risk_of(decided.risk_ppm),
        risk_at=known_moment(decided.risk_at),
        reasons=timed(msgspec.json.decode(decided.reasons)),
        alerts=[_alert_shown(alert) for alert in then.alerts],
        state=b64encode(state).decode(),
    )


def provenance_shown(found: Found, cut: Cut) -> Provenance:
    """A page of what made a number."""
    feature = found.feature
    items = [
        Contribution(
            contribution=one.contribution,
            value=_value(feature, one.value),
            touchpoint=touchpoint_shown(Happened(*one.row), found.texts.get((one.row.leaf, text_field(one.row.id)))),
        )
        for one in found.traced
    ]
    return Provenance(
        customer_id=leaf_text(found.customer),
        feature=feature.text,
        value=_value(feature, feature.value),
        adds_up=feature.adds_up,
        as_of=known_moment(cut.as_of),
        known_at=known_moment(cut.known_at),
        items=items,
        next=text_of(found.after) if found.after is not None else None,
    )


def features_shown(customer: bytes, shown: Mapping[str, Feature]) -> Features:
    """Every number there is, with its value."""
    values = {name: _value(feature, feature.value) for name, feature in sorted(shown.items())}
    return Features(customer_id=leaf_text(customer), features=values)


def _value(feature: Feature, value: Any) -> Any:
    """Times as text, as the profile shows them; traits as they were told."""
    return value if feature.name[0] == "traits" else timed({feature.name[-1]: value})[feature.name[-1]]


def _alert_shown(alert: AlertThen) -> AlertShown:
    return AlertShown(
        alert_id=uuid_text(alert.id),
        customer_id=leaf_text(alert.customer),
        state=alert.state,
        revision=alert.revision,
        recorded_at=moment(alert.recorded_at),
        event=msgspec.json.decode(alert.body) if alert.body else None,
    )
