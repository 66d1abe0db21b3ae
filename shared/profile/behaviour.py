"""Behaviour: first and last sign of life, counts per kind and channel, and activity per day.

Only keyless touchpoints are counted here; what a keyed map knows is counted from the map.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.events import Touchpoint
from shared.ids import DAY_MS
from shared.profile import histogram
from shared.profile.component import Component, Fold, Source
from shared.vocabulary import KINDS


class Tally(msgspec.Struct, array_like=True, gc=False):
    """How often, and first and last time (epoch milliseconds)."""

    count: int
    first_at: int
    last_at: int


class Behaviour(msgspec.Struct, array_like=True, gc=False):
    """`tallies`: kind → channel → tally · `starts`/`counts`: histogram of active days (see `histogram`)."""

    first_at: int = 2**63 - 1
    last_at: int = -(2**63)
    tallies: dict[str, dict[str, Tally]] = {}
    starts: list[int] = []
    counts: list[int] = []


def _see(state: Behaviour, touchpoint: Touchpoint, trust: int) -> None:
    at = touchpoint.occurred_at
    if at < state.first_at:
        state.first_at = at
    if at > state.last_at:
        state.last_at = at


def _count(state: Behaviour, touchpoint: Touchpoint, trust: int) -> None:
    at = touchpoint.occurred_at
    if at < state.first_at:
        state.first_at = at
    if at > state.last_at:
        state.last_at = at
    channels = state.tallies.get(touchpoint.kind)
    if channels is None:
        channels = state.tallies[touchpoint.kind] = {}
    tally = channels.get(touchpoint.channel)
    if tally is None:
        channels[touchpoint.channel] = Tally(1, at, at)
        return
    tally.count += 1
    if at > tally.last_at:
        tally.last_at = at
    elif at < tally.first_at:
        tally.first_at = at


def _count_activity(state: Behaviour, touchpoint: Touchpoint, trust: int) -> None:
    # `_count` again, written out: this is the step most touchpoints take, and the call would be a tenth of it.
    at, kind, channel = touchpoint.occurred_at, touchpoint.kind, touchpoint.channel
    if at < state.first_at:
        state.first_at = at
    if at > state.last_at:
        state.last_at = at
    channels = state.tallies.get(kind)
    if channels is not None and channel in channels:
        tally = channels[channel]
        tally.count += 1
        if at > tally.last_at:
            tally.last_at = at
        elif at < tally.first_at:
            tally.first_at = at
    else:
        state.tallies.setdefault(kind, {})[channel] = Tally(1, at, at)
    starts, day = state.starts, at // DAY_MS
    if starts and starts[-1] == day:
        state.counts[-1] += 1
    else:
        histogram.add(starts, state.counts, day)


def _count_reply(state: Behaviour, touchpoint: Touchpoint, trust: int) -> None:
    by_agent = touchpoint.properties.get("by") == "agent"
    (_count if by_agent else _count_activity)(state, touchpoint, trust)


def _counted_with(name: str, otherwise: Fold[Behaviour]) -> Fold[Behaviour]:
    """Counted elsewhere when the touchpoint has the property `name`."""

    def count_unless_keyed(state: Behaviour, touchpoint: Touchpoint, trust: int) -> None:
        (_see if touchpoint.properties.get(name) else otherwise)(state, touchpoint, trust)

    return count_unless_keyed


def _fold_of(kind: str, counted: Mapping[str, str]) -> Fold[Behaviour]:
    if kind == "ticket_replied":
        return _count_reply
    here = _count_activity if KINDS[kind].active else _count
    if kind not in counted:
        return here
    return _counted_with(counted[kind], here) if counted[kind] else _see


def _merge(a: Behaviour, b: Behaviour) -> Behaviour:
    tallies: dict[str, dict[str, Tally]] = {}
    for side in (a, b):
        for kind, channels in side.tallies.items():
            sums = tallies.setdefault(kind, {})
            for channel, tally in channels.items():
                mine = sums.get(channel)
                sums[channel] = _sum(tally, mine if mine is not None else _NO_TALLY)
    starts, counts = histogram.merged(a.starts, a.counts, b.starts, b.counts)
    return Behaviour(min(a.first_at, b.first_at), max(a.last_at, b.last_at), tallies, starts, counts)


_NO_TALLY = Tally(0, 2**63 - 1, -(2**63))


def _sum(a: Tally, b: Tally) -> Tally:
    return Tally(a.count + b.count, min(a.first_at, b.first_at), max(a.last_at, b.last_at))


def _summary(state: Behaviour, at_ms: int) -> dict[str, Any]:
    if state.first_at > state.last_at:
        return {"first_at": None, "last_at": None}
    return {"first_at": state.first_at, "last_at": state.last_at}


def behaviour_component(counted: Mapping[str, str]) -> Component[Behaviour]:
    """The component for a house whose keyed maps count `counted` (kind → property they need, "" = none)."""
    folds = {kind: _fold_of(kind, counted) for kind in KINDS}
    sources = {"first_at": Source.SAID, "last_at": Source.SAID}
    return Component("behaviour", Behaviour, Behaviour, folds, _merge, _summary, sources=sources)


count_unknown: Fold[Behaviour] = _count
"""An unknown kind is kept and counted; whether it is activity nobody knows."""
