"""Telling consumers of customers that another version of the projection sees differently. Pure.

Each is told as an ordinary change, one version further, so that whoever follows `profile-changes` learns it like
anything else: a state that differs, leaves that belong to another customer, a customer that is none any more.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from services.profiles.domain.rows import LeafRow, ParkedRow
from services.profiles.domain.terms import House
from shared.codec import encode
from shared.events import CustomerAbsorbed, CustomerErased, CustomerParked, Departure, Fact, Place, ProfileChanged
from shared.ids import partition_of
from shared.outbox import Parcel
from shared.topics import PROFILE_CHANGES


class Was(NamedTuple):
    """The customer a leaf belonged to before the switch."""

    leaf: bytes
    customer: bytes


class Told(NamedTuple):
    """What is to be written: rows whose version grew, facts to send, states too large to send."""

    rows: list[LeafRow]
    parcels: list[Parcel]
    parked: list[ParkedRow]


def concerned(before: Iterable[Was], rows: Mapping[bytes, LeafRow]) -> list[bytes]:
    """Customers who must be told, sorted: where each leaf was and where it is."""
    return sorted({root for one in before for root in (one.customer, rows[one.leaf].root)})


def told(
    before: Sequence[Was],
    rows: Mapping[bytes, LeafRow],
    members: Mapping[bytes, Collection[bytes]],
    house: House,
    now_ms: int,
) -> Told:
    """The facts of all customers `before` concerns, as they are now.

    `rows`: of every leaf and customer named, and of all `members` (customer → its leaves) · `now_ms`: when the facts
    count as recorded.
    """
    out = Told([], [], [])
    for customer in concerned(before, rows):
        row = msgspec.structs.replace(rows[customer], version=rows[customer].version + 1, changed_at=now_ms)
        mine = [one.leaf for one in before if one.customer == customer and rows[one.leaf].root != customer]
        departed = tuple(_departure(rows[leaf]) for leaf in sorted(mine))
        moved = bool(mine) or any(rows[one.leaf].root == customer != one.customer for one in before)
        places = tuple(Place(leaf, rows[leaf].moves) for leaf in sorted(members.get(customer, ()))) if moved else ()
        fact = _fact(row, places, departed, now_ms)
        value = encode(fact)
        if len(value) > house.record_bytes_max:
            reason = f"its state has {len(value)} bytes, a record {house.record_bytes_max} at most"
            place = (PROFILE_CHANGES, partition_of(customer, house.partitions), row.version, -1)
            out.parked.append(ParkedRow(*place, row.workspace, "", reason, value, now_ms))
            value = encode(CustomerParked(row.workspace, customer, row.version, now_ms, reason))
        out.rows.append(row)
        out.parcels.append(Parcel(PROFILE_CHANGES, partition_of(customer, house.partitions), customer, value))
    return out


def _departure(row: LeafRow) -> Departure:
    return Departure(row.leaf, row.moves, b"" if row.erased else row.root)


def _fact(row: LeafRow, places: tuple[Place, ...], departed: tuple[Departure, ...], now_ms: int) -> Fact:
    state = row.merged or row.state
    if row.erased or (row.root == row.leaf and not state):
        return CustomerErased(row.workspace, row.leaf, row.version, now_ms)
    if row.root != row.leaf:
        elsewhere = tuple(gone for gone in departed if gone.into != row.root)
        return CustomerAbsorbed(row.workspace, row.leaf, row.root, row.version, now_ms, elsewhere)
    return ProfileChanged(row.workspace, row.leaf, row.version, now_ms, state, (), places, "", departed)
