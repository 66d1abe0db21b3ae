"""The words of a step: what it is told, what it may want, what it answers."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from services.profiles.domain.rows import EdgeRow, ErasureRow, ParkedRow, TouchpointKey
from shared.errors import Stopped
from shared.events import (
    ErasureRequested,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    LeafErased,
    LeafReinstated,
    Touchpoint,
)
from shared.outbox import Parcel

FAILURES_IN_A_ROW_MAX = 20
"""So many failures in a row from more than one source are our fault, not theirs: stop the partition."""

Command = IdentityLinked | IdentityUnlinked | ErasureRequested | LeafErased | LeafReinstated | ImportFinished


class Wanted(Exception):
    """Not an error: these rows, their edges and these customers' members are needed, under lock."""

    def __init__(self, leaves: Iterable[bytes] = (), customers: Iterable[bytes] = ()) -> None:
        super().__init__("more rows are wanted")
        self.leaves, self.customers = frozenset(leaves), frozenset(customers)


class House(NamedTuple):
    """What a step must know of the house: partitions of the log, and the largest record it takes."""

    partitions: int
    record_bytes_max: int


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """A touchpoint not seen before, with its dedup key and its index in the record."""

    place: int
    key: TouchpointKey
    touchpoint: Touchpoint


class Streak(msgspec.Struct):
    """Failures in a row and the sources they came from."""

    failures: int = 0
    sources: frozenset[str] = frozenset()

    def succeeded(self) -> None:
        """One touchpoint was folded: the row is broken."""
        if self.failures:
            self.failures, self.sources = 0, frozenset()

    def failed(self, source: str) -> None:
        """One more failure."""
        self.failures, self.sources = self.failures + 1, self.sources | {source}

    def check(self) -> None:
        """Asked when the failures are kept and can be looked at. Raises Stopped when no one source is to blame."""
        if self.failures >= FAILURES_IN_A_ROW_MAX and len(self.sources) > 1:
            raise Stopped(
                f"{self.failures} touchpoints in a row from {len(self.sources)} sources could not be folded: "
                "look at the parked events, mend the cause, then restart the service"
            )


class Outcome(msgspec.Struct):
    """What a World asks to be written, beside its rows."""

    parcels: list[Parcel] = msgspec.field(default_factory=list)
    edges: list[EdgeRow] = msgspec.field(default_factory=list)
    parked: list[ParkedRow] = msgspec.field(default_factory=list)
    unseen: list[TouchpointKey] = msgspec.field(default_factory=list)  # parked: their replay must count
    blanked: list[TouchpointKey] = msgspec.field(default_factory=list)  # dropped: their leaf is erased
    erasures: list[ErasureRow] = msgspec.field(default_factory=list)
    blank_leaves: list[tuple[bytes, int, bytes]] = msgspec.field(default_factory=list)  # recorded time, id of the fact
    spread: int = 0  # changes recorded on another partition than the customer's own: their order is what was recorded
