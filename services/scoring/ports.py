"""What the scoring step asks of its database. Implemented by `store.py` on SQLite and PostgreSQL, and in memory by the
simulation."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.scoring.domain.rows import AlertRow, DecisionRow
from shared.checkpoint import Claim
from shared.loop import ProjectionStore
from shared.outbox import Parcel

Armed = tuple[int, bytes]
"""The version a customer is armed with, and the customer."""
FIRST_ARMED: Armed = (-1, b"")
"""Before everybody."""


class Transaction(Protocol):
    """One step. Everything in it commits together or not at all."""

    async def move(self, claim: Claim, new: Claim) -> Claim:
        """Compare and raise the checkpoint's revision. Raises Fenced. Comes first: it serialises zombies."""

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """A savepoint: an exception inside gives back locks and rows taken in it, and goes on."""

    async def lock(self, customers: Mapping[bytes, str]) -> dict[bytes, DecisionRow]:
        """Lock decision rows (customer → workspace) in one sorted statement; missing ones are inserted first,
        or, where one writes after another, made by `save_decisions`.

        A customer whose workspace is "" exists for certain, or is left out.
        """

    async def lock_alerts(self, ids: Collection[bytes]) -> dict[bytes, AlertRow | None]:
        """Lock alert rows by id, sorted, after their customers; None where there is none."""

    async def alerts_of_leaves(self, leaves: Collection[bytes]) -> list[AlertRow]:
        """Alerts that opened with one of these leaves (not locked: lock what you change)."""

    async def save_decisions(self, rows: Sequence[DecisionRow]) -> None:
        """Write rows back, all of them locked; what `lock` found missing is there afterwards, changed or not."""

    async def save_alerts(self, rows: Sequence[AlertRow]) -> None:
        """Insert or update alerts."""

    async def blank_alerts(self, customers: Collection[bytes]) -> None:
        """Drop the text of every alert of erased customers."""

    async def note_import(self, partition: int, import_id: str, from_partition: int, workspace: str) -> None:
        """Touchpoints partition `from_partition` has folded this import's end."""

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Put facts into the outbox, numbered in this order."""


class Store(ProjectionStore, Protocol):
    """The scoring database."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a step; commits when the block ends, rolls back on any exception."""

    async def due(self, partition: int, before: int, limit: int) -> list[tuple[bytes, str]]:
        """Customers (with workspace) of a partition that are due before `before`, the earliest first."""

    async def next_due(self, partition: int) -> int | None:
        """The earliest due time of a partition; None when nobody is armed."""

    async def held(self, partition: int, after: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Customers (with workspace) of a partition that a history import holds, by customer, from `after` on."""

    async def armed_before(self, partition: int, workspace: str, version: int, after: Armed, limit: int) -> list[Armed]:
        """Customers of a workspace whose definition is older than `version`, behind `after`, in that order.

        Those without a due time too: the newer version may give them one.
        """

    async def imports_passed(self, partition: int) -> dict[str, int]:
        """Import → from how many touchpoints partitions its end has arrived on this one."""
