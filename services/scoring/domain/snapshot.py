"""What decisions know of a customer: purchases with their times, and the contract. The one reader of the profile."""

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from services.scoring.domain.remembered import Remembered
from shared.epoch import EPOCH
from shared.ids import DAY_MS
from shared.profile import Profile, decode, narrowed, purchases, subscriptions

STATES_REMEMBERED_BYTES = 8 << 20
ORDERS_REMEMBERED = 60_000
"""About 25 MB; a snapshot weighs as much as SNAPSHOT_ORDERS of them beside its own."""
SNAPSHOT_ORDERS = 5


class Purchase(NamedTuple):
    """One order: when (epoch ms), its business key, the leaf it came by, its trust, its local day number."""

    at: int
    key: str
    leaf: bytes
    trust: int
    day: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A customer as decisions see them. `purchases` are sorted by (at, key).

    `contract_ended_at`: when the last contract ends or ended (epoch ms, may lie ahead); None without a contract, or
    with one whose end nobody said · `memory`: what was derived from it so far (`evidence.py`); says nothing of its own.
    """

    workspace: str
    purchases: tuple[Purchase, ...] = ()
    contract_ended_at: int | None = None
    memory: list[Any] = field(default_factory=list, compare=False, repr=False)


def snapshot_of(workspace: str, profile: Profile, zone: tzinfo, trust_min: int = 0) -> Snapshot:
    """What decisions see of `profile`, days by the calendar of `zone`, the workspace's time zone.

    `trust_min`: the definition's `purchase_trust_min`; reports of lesser trust neither make nor move a purchase. A
    customer with several subscriptions has a contract until the last of them ends.
    """
    bought = tuple(Purchase(p.at, p.key, p.leaf, p.trust, local_day(p.at, zone)) for p in purchases(profile, trust_min))
    return Snapshot(workspace, bought, _contract_end(profile))


def snapshot_of_state(workspace: str, state: bytes, zone: tzinfo, trust_min: int = 0) -> Snapshot:
    """`snapshot_of` the profile with these bytes: equal orders and subscriptions give one and the same object.

    Most changes are page views: what was derived from the purchases is derived once for all of them.
    """
    return _remembered(workspace, _narrowed(state), zone, trust_min)


_narrowed_states: Remembered[bytes] = Remembered(STATES_REMEMBERED_BYTES)
_snapshots: Remembered[Snapshot] = Remembered(ORDERS_REMEMBERED)


def _narrowed(state: bytes) -> bytes:
    """A state is asked for several times in the step that brings it."""
    found = _narrowed_states.get(state)
    if found is not None:
        return found
    made = narrowed(state, "orders", "subscriptions")
    return _narrowed_states.keep(state, made, len(state) + len(made))


def _remembered(workspace: str, state: bytes, zone: tzinfo, trust_min: int) -> Snapshot:
    key = workspace, state, zone, trust_min
    found = _snapshots.get(key)
    if found is not None:
        return found
    made = snapshot_of(workspace, decode(state), zone, trust_min)
    return _snapshots.keep(key, made, SNAPSHOT_ORDERS + len(made.purchases))


def _contract_end(profile: Profile) -> int | None:
    running = [s for _, s in subscriptions(profile) if s.running_at is not None or s.cancelled_at is not None]
    ends = [s.ends_at for s in running if s.ends_at is not None]
    return max(ends) if ends and len(ends) == len(running) else None


@dataclass(frozen=True, slots=True)
class Buying:
    """What follows from the purchases that count. An *order* here is a day with purchases: a day's baskets are one.

    `order_times`: first purchase of each such day, ascending · `last_gap_ms`: from the previous day's last purchase to
    the last day's first one; 0 with one order · times in epoch ms.
    """

    first_at: int
    last_at: int
    last_key: str
    last_leaf: bytes
    order_times: tuple[int, ...]
    last_gap_ms: int

    @property
    def orders(self) -> int:
        """Number of days with a purchase, at least 1; the model's x is one less."""
        return len(self.order_times)


def buying(
    snapshot: Snapshot, trust_min: int = 0, day_ms: int | None = None, until: int | None = None
) -> Buying | None:
    """The buying that purchases of at least `trust_min` show, up to and including `until` (epoch ms; None: all).

    `day_ms` replaces the local calendar day by a fixed width, so that a trial's days may be seconds long. None when
    nothing counts.
    """
    counted = [p for p in snapshot.purchases if p.trust >= trust_min]
    if until is not None:
        counted = counted[: bisect_right(counted, until, key=lambda p: p.at)]
    if not counted:
        return None
    days = [p.day if day_ms is None else p.at // day_ms for p in counted]
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(days)) if a != b)]
    last, start = counted[-1], starts[-1]
    gap_ms = counted[start].at - counted[start - 1].at if start else 0
    return Buying(counted[0].at, last.at, last.key, last.leaf, tuple(counted[i].at for i in starts), gap_ms)


def local_day(at_ms: int, zone: tzinfo) -> int:
    """Day number of `at_ms` on the calendar of `zone` (1970-01-01 is 0)."""
    utc_day = at_ms // DAY_MS
    offset_ms = _offset_ms(utc_day, zone)
    return (at_ms + (_offset_at(at_ms, zone) if offset_ms is None else offset_ms)) // DAY_MS


@lru_cache(maxsize=65_536)
def _offset_ms(utc_day: int, zone: tzinfo) -> int | None:
    """The offset of `zone` from UTC on a whole day of UTC; None when it changes in it (never twice within a day)."""
    first, last = (_offset_at(day * DAY_MS, zone) for day in (utc_day, utc_day + 1))
    return first if first == last else None


def _offset_at(at_ms: int, zone: tzinfo) -> int:
    offset = (EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // timedelta(milliseconds=1)
