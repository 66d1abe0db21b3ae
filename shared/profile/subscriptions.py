"""Subscriptions: when each started, was renewed, ends and was cancelled. Without an id a customer has a single one."""

from typing import Any

import msgspec

from shared.events import Touchpoint
from shared.ids import DAY_MS
from shared.profile.component import (
    Component,
    Fold,
    Occurrence,
    Profile,
    Source,
    earlier,
    join_maps,
    later,
    text_of,
    whole_of,
)
from shared.vocabulary import business_key

RENEWALS_KEPT = 64


class Term(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """What was last said of the paid term, by its last writer: the greatest (occurred_at, id, ...) wins."""

    occurred_at: int
    id: bytes
    ends_at: int
    plan: str


class Subscription(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Times in epoch milliseconds, None for never.

    `started_at`: first start · `running_at`: latest start or renewal · `renewed_days`: the latest 64 UTC days of
    renewals, ascending · `cancelled_at`, `failed_at`: latest cancellation and failed payment · `term`: latest that
    named its end.
    """

    started_at: int | None = None
    running_at: int | None = None
    renewed_days: tuple[int, ...] = ()
    term: Term | None = None
    cancelled_at: int | None = None
    failed_at: int | None = None

    @property
    def ends_at(self) -> int | None:
        """When it ends: the end of its term; cancelled without a term, at once; None while nothing says so."""
        if self.term is not None:
            return self.term.ends_at
        return self.cancelled_at if self.is_cancelled else None

    @property
    def is_cancelled(self) -> bool:
        """Cancelled, and neither started nor renewed since."""
        return self.cancelled_at is not None and (self.running_at is None or self.cancelled_at >= self.running_at)

    def is_active(self, at_ms: int) -> bool:
        """It runs at that time: it began, and its end is unknown or still to come."""
        began = self.started_at if self.started_at is not None else self.running_at
        ends_at = self.ends_at
        return began is not None and began <= at_ms and (ends_at is None or at_ms < ends_at)


Subscriptions = dict[str, Subscription]
"""Business key ("" where none is sent) → subscription."""


def _term_of(touchpoint: Touchpoint) -> Term | None:
    ends_at = whole_of(touchpoint.properties, "ends_at")
    if ends_at is None:
        return None
    return Term(touchpoint.occurred_at, touchpoint.id, ends_at, text_of(touchpoint.properties, "plan"))


def _started(touchpoint: Touchpoint) -> Subscription:
    at = touchpoint.occurred_at
    return Subscription(started_at=at, running_at=at, term=_term_of(touchpoint))


def _renewed(touchpoint: Touchpoint) -> Subscription:
    at = touchpoint.occurred_at
    return Subscription(running_at=at, renewed_days=(at // DAY_MS,), term=_term_of(touchpoint))


def _cancelled(touchpoint: Touchpoint) -> Subscription:
    return Subscription(cancelled_at=touchpoint.occurred_at, term=_term_of(touchpoint))


def _fold_as(lift: Any) -> Fold[Subscriptions]:
    def fold_subscription(state: Subscriptions, touchpoint: Touchpoint, trust: int) -> None:
        key = business_key(touchpoint.kind, touchpoint.properties)
        record, mine = lift(touchpoint), state.get(key)
        state[key] = record if mine is None else _join(mine, record)

    return fold_subscription


def _fold_failed(state: Subscriptions, touchpoint: Touchpoint, trust: int) -> None:
    subscription_id = text_of(touchpoint.properties, "subscription_id")
    if not subscription_id:
        return
    key = "subscription:" + subscription_id
    record, mine = Subscription(failed_at=touchpoint.occurred_at), state.get(key)
    state[key] = record if mine is None else _join(mine, record)


def _join(a: Subscription, b: Subscription) -> Subscription:
    return Subscription(
        earlier(a.started_at, b.started_at),
        later(a.running_at, b.running_at),
        tuple(sorted({*a.renewed_days, *b.renewed_days})[-RENEWALS_KEPT:]),
        max(a.term, b.term) if a.term is not None and b.term is not None else a.term or b.term,
        later(a.cancelled_at, b.cancelled_at),
        later(a.failed_at, b.failed_at),
    )


def _merge(a: Subscriptions, b: Subscriptions) -> Subscriptions:
    return join_maps(a, b, _join)


def _occurrences(state: Subscriptions) -> list[Occurrence]:
    found = []
    for known in state.values():
        if known.started_at is not None:
            found.append(Occurrence("subscription_started", "web", known.started_at, True))
        if known.cancelled_at is not None:
            found.append(Occurrence("subscription_cancelled", "web", known.cancelled_at, True))
        found += [Occurrence("subscription_renewed", "server", day * DAY_MS, False) for day in known.renewed_days]
    return found


def _newest(state: Subscriptions) -> tuple[str, Subscription] | None:
    begun = [
        (key, known) for key, known in state.items() if known.running_at is not None or known.cancelled_at is not None
    ]
    return max(begun, key=lambda item: (later(item[1].running_at, item[1].cancelled_at) or 0, item[0]), default=None)


def _shown_key(state: Subscriptions) -> str | None:
    newest = _newest(state)
    return None if newest is None else newest[0]


def _summary(state: Subscriptions, at_ms: int) -> dict[str, Any]:
    newest = _newest(state)
    if newest is None:
        return {"subscription": None}
    key, known = newest
    return {
        "subscription": {
            "key": key,
            "plan": known.term.plan if known.term else "",
            "active": known.is_active(at_ms),
            "started_at": known.started_at,
            "renewals": len(known.renewed_days),
            "ends_at": known.ends_at,
            "cancelled_at": known.cancelled_at if known.is_cancelled else None,
            "payment_failed_at": known.failed_at,
        }
    }


SUBSCRIPTIONS: Component[Subscriptions] = Component(
    "subscriptions",
    Subscriptions,
    dict,
    {
        "subscription_started": _fold_as(_started),
        "subscription_renewed": _fold_as(_renewed),
        "subscription_cancelled": _fold_as(_cancelled),
        "payment_failed": _fold_failed,
    },
    _merge,
    _summary,
    {"subscription_started": "", "subscription_renewed": "", "subscription_cancelled": ""},
    _occurrences,
    {"subscription": Source.WHOLE, "subscription.*": Source.WHOLE},
    _shown_key,
)


def subscriptions(profile: Profile) -> list[tuple[str, Subscription]]:
    """(business key or "", subscription), by key; one of which only a failed payment is known is among them."""
    return sorted(SUBSCRIPTIONS.of(profile).items())


def subscription(profile: Profile) -> Subscription | None:
    """The subscription last started, renewed or cancelled; None without any."""
    newest = _newest(SUBSCRIPTIONS.of(profile))
    return None if newest is None else newest[1]
