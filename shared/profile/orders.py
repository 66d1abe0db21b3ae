"""Orders: each counts once, whoever reports it. Its time is the earliest report's, its money the best trusted one's."""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.events import Touchpoint
from shared.profile.component import (
    Component,
    Occurrence,
    Profile,
    Source,
    fact_key_of,
    join_maps,
    keyed,
    text_of,
    whole_of,
)
from shared.vocabulary import KINDS


class Copy(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """The earliest report of an order by keys of one trust; the smallest (occurred_at, leaf) wins."""

    trust: int
    occurred_at: int
    leaf: bytes
    channel: str


class Amount(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """What an order costs, by its last writer: the greatest (trust, occurred_at, id, ...) wins."""

    trust: int
    occurred_at: int
    id: bytes
    amount_minor: int
    currency: str


class Refund(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """One refund, by its last writer as above; a report with an amount beats one without.

    Not `partial`: no report gave an amount, the whole order is cancelled.
    """

    trust: int
    partial: bool
    occurred_at: int
    id: bytes
    amount_minor: int
    currency: str


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`copies`: one per trust, ascending (empty: only refunds were seen yet) · `refunds`: by refund id."""

    copies: tuple[Copy, ...] = ()
    amount: Amount | None = None
    refunds: dict[str, Refund] = {}


Orders = dict[str, Order]
"""Business key, or `id:<hex>` for purchases and refunds without an order id → order."""


class Purchase(msgspec.Struct, frozen=True):
    """An order that stands. `leaf`, `channel`: of its earliest report · `trust`: the best of its reports.

    `amount_minor` is what was bought for, before partial refunds; 0 and "" while no report named an amount.
    """

    at: int
    key: str
    leaf: bytes
    trust: int
    amount_minor: int
    currency: str
    channel: str


def _purchase_of(touchpoint: Touchpoint, trust: int) -> Order:
    properties, at = touchpoint.properties, touchpoint.occurred_at
    amount_minor = whole_of(properties, "amount_minor")
    amount = None
    if amount_minor is not None:
        amount = Amount(trust, at, touchpoint.id, amount_minor, text_of(properties, "currency"))
    return Order((Copy(trust, at, touchpoint.leaves[0], touchpoint.channel),), amount)


def _refund_of(touchpoint: Touchpoint, trust: int) -> Order:
    properties, at = touchpoint.properties, touchpoint.occurred_at
    amount_minor = whole_of(properties, "amount_minor")
    partial = amount_minor is not None
    currency = text_of(properties, "currency") if partial else ""
    refund = Refund(trust, partial, at, touchpoint.id, amount_minor or 0, currency)
    return Order(refunds={text_of(properties, "refund_id") or touchpoint.id.hex(): refund})


def _fold_refund(state: Orders, touchpoint: Touchpoint, trust: int) -> None:
    refund_id = text_of(touchpoint.properties, "refund_id")
    key = fact_key_of(touchpoint)
    if refund_id and key.startswith("id:"):
        key = "refund:" + refund_id
    order, mine = _refund_of(touchpoint, trust), state.get(key)
    state[key] = order if mine is None else _join(mine, order)


def _join_copies(a: tuple[Copy, ...], b: tuple[Copy, ...]) -> tuple[Copy, ...]:
    best: dict[int, Copy] = {}
    for copy in (*a, *b):
        mine = best.get(copy.trust)
        best[copy.trust] = copy if mine is None else min(mine, copy)
    return tuple(best[trust] for trust in sorted(best))


def _join(a: Order, b: Order) -> Order:
    amount = max(a.amount, b.amount) if a.amount is not None and b.amount is not None else a.amount or b.amount
    return Order(_join_copies(a.copies, b.copies), amount, join_maps(a.refunds, b.refunds, max))


def _merge(a: Orders, b: Orders) -> Orders:
    return join_maps(a, b, _join)


def _earliest(copies: Sequence[Copy]) -> Copy:
    return min(copies, key=lambda copy: (copy.occurred_at, copy.leaf, copy.channel))


def _stands(order: Order, trust_min: int) -> bool:
    """Not fully cancelled by refunds of at least that trust."""
    if not order.refunds:
        return True
    refunds = [refund for refund in order.refunds.values() if refund.trust >= trust_min]
    if not all(refund.partial for refund in refunds):
        return False
    amount = order.amount
    if amount is None or not amount.amount_minor:
        return True
    back = sum(refund.amount_minor for refund in refunds if refund.currency == amount.currency)
    return back < amount.amount_minor


def _bought(state: Orders, trust_min: int) -> list[Purchase]:
    found = []
    for key, order in state.items():
        copies = [copy for copy in order.copies if copy.trust >= trust_min]
        if not copies or not _stands(order, trust_min):
            continue
        first = copies[0] if len(copies) == 1 else _earliest(copies)
        amount = order.amount if order.amount is not None and order.amount.trust >= trust_min else None
        minor, currency = (amount.amount_minor, amount.currency) if amount else (0, "")
        trust = copies[-1].trust
        found.append(Purchase(first.occurred_at, key, first.leaf, trust, minor, currency, first.channel))
    return sorted(found, key=lambda purchase: (purchase.at, purchase.key))


def _money(state: Orders) -> dict[str, int]:
    net: dict[str, int] = {}
    for key, order in state.items():
        if order.copies:
            if order.amount is not None and all(refund.partial for refund in order.refunds.values()):
                amount = order.amount
                net[amount.currency] = net.get(amount.currency, 0) + _left(order, amount)
        elif not key.startswith("order:"):
            for refund in order.refunds.values():
                if refund.partial:
                    net[refund.currency] = net.get(refund.currency, 0) - refund.amount_minor
    return dict(sorted(net.items()))


def _left(order: Order, amount: Amount) -> int:
    back = sum(refund.amount_minor for refund in order.refunds.values() if refund.currency == amount.currency)
    return max(0, amount.amount_minor - back)


def _occurrences(state: Orders) -> list[Occurrence]:
    found = []
    for order in state.values():
        if order.copies:
            first = _earliest(order.copies)
            found.append(Occurrence("purchased", first.channel, first.occurred_at, True))
        channel = KINDS["refunded"].channel
        found += [Occurrence("refunded", channel, refund.occurred_at, False) for refund in order.refunds.values()]
    return found


def _summary(state: Orders, at_ms: int) -> dict[str, Any]:
    standing = _bought(state, 0)
    return {
        "orders": {
            "count": len(standing),
            "cancelled": sum(1 for order in state.values() if order.copies) - len(standing),
            "refunds": sum(len(order.refunds) for order in state.values()),
            "first_at": standing[0].at if standing else None,
            "last_at": standing[-1].at if standing else None,
        },
        "money": _money(state),
    }


ORDERS: Component[Orders] = Component(
    "orders",
    Orders,
    dict,
    {"purchased": keyed(_purchase_of, _join), "refunded": _fold_refund},
    _merge,
    _summary,
    {"purchased": "", "refunded": ""},
    _occurrences,
    {
        "orders.count": Source.ADDS,
        "orders.cancelled": Source.ADDS,
        "orders.refunds": Source.ADDS,
        "orders.first_at": Source.SAID,
        "orders.last_at": Source.SAID,
        "money.*": Source.ADDS,
    },
)


def purchases(profile: Profile, trust_min: int = 0) -> list[Purchase]:
    """The orders that stand, by (at, key).

    With `trust_min` only reports, amounts and refunds of at least that trust count, so that a public key can neither
    invent, move nor cancel a purchase where trusted sources report them.
    """
    return _bought(ORDERS.of(profile), trust_min)


def spending(profile: Profile) -> tuple[int, int, str]:
    """(orders that stand, net spend in minor units, its currency): of the currency in which most was spent, "" = none.

    Of two with equal spend the alphabetically later currency counts.
    """
    state = ORDERS.of(profile)
    if not state:
        return 0, 0, ""
    currency, spend = max(_money(state).items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return sum(1 for order in state.values() if order.copies and _stands(order, 0)), spend, currency


def money(profile: Profile) -> dict[str, int]:
    """Net spend per currency in minor units: orders less their refunds.

    A refund of an order not seen yet waits for it; one that names no order is taken off its currency.
    """
    return _money(ORDERS.of(profile))
