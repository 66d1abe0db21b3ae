"""Rows of the profiles database as values: what a step reads under lock and writes back."""

from typing import NamedTuple

import msgspec

from services.profiles.domain.identity import ALONE, NOT_FULL, Assertion, Place

_Leaf = bytes  # `ParkedRow` has a field of the type's name
TouchpointKey = tuple[int, bytes, bytes]
"""(day, id, scope): the proof that a touchpoint was seen."""


class LeafRow(msgspec.Struct, frozen=True, gc=False):
    """One leaf: its own state, its place, and on a root with several leaves their merged state.

    `version`: of the customer this leaf was or is the root of; never goes back · `moves`: how often its customer
    changed · `erased_at`: recorded time of the last erasure or reinstatement (-1: never) · `known`: its identifier is
    in `personal` · `changed_at`: when what raised `version` last was recorded (epoch ms, -1: never).
    """

    leaf: bytes
    workspace: str
    root: bytes
    standing: int = ALONE
    full: int = NOT_FULL
    state: bytes = b""
    merged: bytes = b""
    version: int = 0
    moves: int = 0
    erased: bool = False
    erased_at: int = -1
    known: bool = False
    changed_at: int = -1

    @property
    def place(self) -> Place:
        """Where it stands (identity's view of the row)."""
        return Place(self.root, self.standing, self.full)


class TouchpointRow(NamedTuple):
    """A touchpoint as kept: the proof it was seen, and the timeline. `body` is blank once erased."""

    day: int
    id: bytes
    scope: bytes
    workspace: str
    leaf: bytes
    partition: int
    position: int
    place: int  # its index in the record
    kind: str
    channel: str
    occurred_at: int
    recorded_at: int
    body: bytes

    @property
    def key(self) -> TouchpointKey:
        """Its dedup key."""
        return self.day, self.id, self.scope


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the timeline keeps of a touchpoint beside its columns."""

    name: str
    properties: dict[str, object]
    context: dict[str, object]
    client_at: str | None
    source: str
    trust: int
    received_at: int
    import_id: str
    leaves: tuple[bytes, ...]


class EdgeRow(NamedTuple):
    """An assertion as kept: append-only, with the time the log recorded it."""

    workspace: str
    said: Assertion
    recorded_at: int


class ParkedRow(NamedTuple):
    """A fact that could not be folded: where it lies, its bytes and why. `place` is -1 for a whole record.

    `leaf`: whose touchpoint it is, b"" for anything else · `sealing_key`: what its replay must be able to open.
    """

    topic: str
    partition: int
    position: int
    place: int
    workspace: str
    source: str
    reason: str
    bytes: bytes
    parked_at: int
    leaf: _Leaf = b""
    sealing_key: str = ""


class ErasureRow(NamedTuple):
    """The erasure of a customer as its command was folded: the leaves of that moment, each with the id of its fact."""

    id: bytes
    workspace: str
    customer: bytes
    requested_at: int
    recorded_at: int
    leaves: tuple[tuple[bytes, bytes], ...]  # (leaf, id of its `leaf.erased`)


class SealingUse(NamedTuple):
    """The latest record of a partition that was sealed to a key (epoch ms)."""

    workspace: str
    key: str
    partition: int
    last_at: int


class ListingRow(NamedTuple):
    """What customers are listed, filtered and sorted by. `spend_minor` is net, in the customer's main `currency`."""

    customer: bytes
    workspace: str
    first_seen_at: int
    last_seen_at: int
    purchases: int
    spend_minor: int
    currency: str


class PersonalRow(NamedTuple):
    """One personal value of a leaf; the later (at, id) holds. `value` is msgpack."""

    leaf: bytes
    field: str
    workspace: str
    value: bytes
    at: int
    id: bytes
