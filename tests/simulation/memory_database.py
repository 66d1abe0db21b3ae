"""A database in memory with serial transactions, savepoints and rollback; it crashes where the schedule says.

What both services' stores have in common: tables as dicts of frozen rows, the checkpoint and the outbox.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from shared.checkpoint import Claim
from shared.errors import Fenced
from shared.outbox import OutboxSnapshot, Parcel, Pending
from shared.topics import TOUCHPOINTS
from tests.simulation.driving import Crashed

Tables = dict[str, dict[Any, Any]]


@dataclass
class Fault:
    """Crash at the `calls`-th call from now on, or just after the next commit."""

    calls: int
    after_commit: bool


class MemoryDatabase:
    """Tables, one writer at a time. `journal` keeps every parcel ever committed, in order."""

    names: tuple[str, ...] = ()

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.tables: Tables = {name: {} for name in ("checkpoint", "outbox", "journal", *self.names)}
        self.fault: Fault | None = None
        self.conflicts_in = 0  # the lock so many locks ahead meets a conflict
        self.on_commit: Callable[[Tables], None] = lambda before: None

    # --- transactions -----------------------------------------------------------------------------------------

    def call(self) -> None:
        """One statement reaches the database, or is the one the process dies at."""
        if self.fault is not None and not self.fault.after_commit:
            self.fault.calls -= 1
            if self.fault.calls <= 0:
                self.fault = None
                raise Crashed("planned: in the middle of a transaction")

    @contextmanager
    def begin(self) -> Iterator[None]:
        """All or nothing."""
        self.call()
        before = self.tables
        self.tables = self.copied()
        try:
            yield
            self.call()
        except BaseException:
            self.tables = self.rolled_back(before)
            raise
        self.on_commit(before)
        if self.fault is not None and self.fault.after_commit:
            self.fault = None
            raise Crashed("planned: committed, and nobody was told")

    def copied(self) -> Tables:
        """A working copy; rows themselves never change."""
        return {name: dict(rows) for name, rows in self.tables.items()}

    def rolled_back(self, before: Tables) -> Tables:
        """What stands after a rollback: what stood before."""
        return before

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """An exception inside gives back what was written and locked since."""
        self.call()
        before = self.copied()
        try:
            yield
        except BaseException:
            self.tables = before
            raise

    # --- checkpoint -------------------------------------------------------------------------------------------

    def claims(self, topic: str) -> dict[int, Claim]:
        """The checkpoint of every partition of a topic."""
        return {claim.partition: claim for claim in self.tables["checkpoint"].values() if claim.topic == topic}

    def check(self, claim: Claim) -> None:
        """Refuse a claim whose epoch is over."""
        self.call()
        if self.tables["checkpoint"][claim.topic, claim.partition].epoch != claim.epoch:
            raise Fenced(f"{claim.topic}/{claim.partition}: epoch {claim.epoch} is over")

    def move(self, claim: Claim, new: Claim) -> Claim:
        """Compare and raise the revision under the epoch."""
        self.call()
        now = self.tables["checkpoint"][claim.topic, claim.partition]
        if (now.epoch, now.revision) != (claim.epoch, claim.revision):
            raise Fenced(f"{claim.topic}/{claim.partition}: epoch {claim.epoch} is over")
        moved = replace(new, revision=claim.revision + 1)
        self.tables["checkpoint"][claim.topic, claim.partition] = moved
        return moved

    async def acquire(self, topic: str, partition: int, log_identity: str) -> Claim:
        """Raise the epoch."""
        with self.begin():
            known = self.tables["checkpoint"].get((topic, partition))
            claim = (
                replace(known, epoch=known.epoch + 1, revision=known.revision + 1)
                if known is not None
                else Claim(topic, partition, 1, 1, 0)
            )
            self.tables["checkpoint"][topic, partition] = claim
        return claim

    async def hold(self, moves: Sequence[tuple[Claim, Claim]]) -> list[Claim]:
        """Move several checkpoints, or none."""
        with self.begin():
            return [self.move(claim, new) for claim, new in moves]

    # --- outbox -----------------------------------------------------------------------------------------------

    def put(self, parcels: Sequence[Parcel]) -> None:
        """Number parcels and keep them."""
        for parcel in parcels:
            seq = len(self.tables["journal"])
            self.tables["journal"][seq] = self.tables["outbox"][seq] = Pending(seq, *parcel)

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        """Rows and frontiers of one instant."""
        self.call()
        rows = [row for _, row in sorted(self.tables["outbox"].items()) if row.partition in partitions][:limit]
        frontiers = {partition: claim.frontier for partition, claim in self.claims(TOUCHPOINTS).items()}
        epochs = {partition: claim.epoch for partition, claim in self.claims(TOUCHPOINTS).items()}
        return OutboxSnapshot(tuple(rows), frontiers, len(rows) < limit, epochs)

    async def relayed(self, claims: Sequence[Claim], seqs: Sequence[int], hurried: bool = True) -> None:
        """Delete acknowledged rows under these claims."""
        with self.begin():
            for claim in claims:
                self.check(claim)
            for seq in seqs:
                self.tables["outbox"].pop(seq, None)
