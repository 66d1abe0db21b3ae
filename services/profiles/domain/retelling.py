"""Telling a customer again: the last word about each leaf that was ever a customer, with the version it had.

A consumer that knows the version passes over it; one that knows nothing learns all there is to know now.
"""

from collections.abc import Mapping, Sequence

from services.profiles.domain.rows import LeafRow
from services.profiles.domain.terms import House
from shared import profile as profiles
from shared.codec import encode
from shared.events import (
    REPUBLISHING,
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    Fact,
    Place,
    ProfileChanged,
)
from shared.ids import partition_of
from shared.outbox import Parcel
from shared.topics import PROFILE_CHANGES

_NOTHING = profiles.encode(profiles.new())


def needs_members(row: LeafRow) -> bool:
    """Whether telling this customer again takes all its leaves' rows: it has several, or its one leaf ever moved."""
    return row.root == row.leaf and bool(row.merged)


def told_again(row: LeafRow, members: Sequence[LeafRow], house: House, republish_id: str) -> Parcel | None:
    """The fact that says what was said last about `row`, to its own partition; None for one never told of.

    `members`: all leaves of the customer where `needs_members`, else () · the row and its root are locked.
    """
    if not row.version:
        return None
    fact = _last_word(row, members, REPUBLISHING + republish_id)
    value = encode(fact)
    if len(value) > house.record_bytes_max:
        reason = f"its state has {len(value)} bytes, a record {house.record_bytes_max} at most"
        value = encode(CustomerParked(row.workspace, row.leaf, row.version, row.changed_at, reason))
    return Parcel(PROFILE_CHANGES, partition_of(row.leaf, house.partitions), row.leaf, value)


def _last_word(row: LeafRow, members: Sequence[LeafRow], import_id: str) -> Fact:
    if row.root != row.leaf:
        return CustomerAbsorbed(row.workspace, row.leaf, row.root, row.version, row.changed_at)
    # A reinstated leaf says nothing before it is tracked again: its erasure is the last that was told.
    is_unsaid = not row.state and not row.merged and row.erased_at >= row.changed_at
    if row.erased or is_unsaid:
        return CustomerErased(row.workspace, row.leaf, row.version, row.changed_at)
    state = row.merged or row.state or _NOTHING
    places = _places(row, members)
    return ProfileChanged(row.workspace, row.leaf, row.version, row.changed_at, state, (), places, import_id)


def _places(row: LeafRow, members: Sequence[LeafRow]) -> tuple[Place, ...]:
    """All leaves, as the change that moved the last of them named them; none for a leaf that never moved."""
    if members:
        return tuple(Place(member.leaf, member.moves) for member in sorted(members, key=lambda one: one.leaf))
    return (Place(row.leaf, row.moves),) if row.moves else ()


def retold(
    rows: Sequence[LeafRow], members: Mapping[bytes, Sequence[LeafRow]], house: House, republish_id: str
) -> tuple[list[Parcel], int]:
    """Parcels of a page of rows, in their order, and how many of them are customers."""
    told = [(row, told_again(row, members.get(row.leaf, ()), house, republish_id)) for row in rows]
    parcels = [parcel for _, parcel in told if parcel is not None]
    return parcels, sum(parcel is not None and row.root == row.leaf and not row.erased for row, parcel in told)
