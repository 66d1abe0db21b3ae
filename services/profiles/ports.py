"""What the profiles step asks of its database: one transaction, rows in sets. Implemented by `store.py` on SQLite
and PostgreSQL, and in memory by the simulation."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.profiles.domain.rows import (
    EdgeRow,
    ErasureRow,
    LeafRow,
    ListingRow,
    ParkedRow,
    PersonalRow,
    SealingUse,
    TouchpointKey,
    TouchpointRow,
)
from shared.checkpoint import Claim
from shared.loop import ProjectionStore
from shared.outbox import Parcel


class Transaction(Protocol):
    """One step. Everything in it commits together or not at all."""

    async def move(self, claim: Claim, new: Claim) -> Claim:
        """Compare and raise the checkpoint's revision. Raises Fenced. Comes first: it serialises zombies."""

    async def remember(self, rows: Sequence[TouchpointRow]) -> set[TouchpointKey]:
        """Insert touchpoints not seen before; returns the keys that are new. Keys in `rows` are distinct."""

    async def forget(self, keys: Collection[TouchpointKey]) -> None:
        """Take touchpoints back that could not be applied: their replay must count."""

    async def blank(self, keys: Collection[TouchpointKey]) -> None:
        """Keep the proof, drop the body (touchpoints of an erased leaf)."""

    async def blank_leaf(self, leaf: bytes, recorded_at: int, identity: bytes) -> None:
        """Blank every body of a leaf, drop its personal values and the edges recorded up to `recorded_at`.

        What was done is written into the receipt that expects the fact of this `identity`.
        """

    async def note_erasure(self, row: ErasureRow) -> None:
        """Open the receipt of an erasure; one that is open stays as it is."""

    async def note_sealing(self, uses: Sequence[SealingUse]) -> None:
        """Keep the latest use of sealing keys; what was noted never goes back."""

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """A savepoint: an exception inside gives back locks and rows taken in it, and goes on."""

    async def lock(self, leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        """Lock the roots of `leaves` (leaf → its workspace) in one sorted statement.

        Missing rows are inserted first, in the same order; where one writes after another, `save_leaves` makes them.

        Returns the rows of `leaves` and of their roots as they are under the lock. Raises Conflict when a leaf's
        root changed while we waited: leave the attempt and start over.
        """

    async def members(self, roots: Collection[bytes]) -> list[LeafRow]:
        """All leaves of these (locked) roots' customers."""

    async def edges(self, leaves: Collection[bytes]) -> list[EdgeRow]:
        """Every assertion about a pair that touches one of `leaves`, as far as it was recorded after the last erasure
        or reinstatement of both (`LeafRow.erased_at`).
        """

    async def save_leaves(self, rows: Sequence[LeafRow]) -> None:
        """Write rows back, all of them locked; what `lock` found missing is there afterwards, changed or not."""

    async def add_edges(self, rows: Sequence[EdgeRow]) -> None:
        """Append assertions."""

    async def list_customers(self, rows: Sequence[ListingRow], gone: Collection[bytes], partitions: int) -> None:
        """Upsert what customers are listed by; `gone` are customers no more · `partitions`: of the house."""

    async def keep_personal(self, rows: Sequence[PersonalRow]) -> None:
        """Keep personal values; the later (at, id) of a (leaf, field) holds."""

    async def park(self, rows: Sequence[ParkedRow]) -> None:
        """Keep facts that could not be folded."""

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Put facts into the outbox, numbered in this order."""


class Store(ProjectionStore, Protocol):
    """The profiles database."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a step; commits when the block ends, rolls back on any exception."""
