"""The profiles store in memory. It also refuses what PostgreSQL would let pass: rows written without their lock."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

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
from shared.errors import Conflict
from shared.outbox import Parcel
from tests.simulation.memory_database import MemoryDatabase


class MemoryProfiles(MemoryDatabase):
    """The profiles database (`services.profiles.ports.Store`)."""

    names = ("leaf", "edge", "touchpoint", "customer", "personal", "parked", "locked")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["ProfilesTransaction"]:
        """Begin a step."""
        with self.begin():
            self.tables["locked"] = {}
            yield ProfilesTransaction(self)


class ProfilesTransaction:
    """One step (`services.profiles.ports.Transaction`)."""

    def __init__(self, database: MemoryProfiles) -> None:
        self._database = database

    async def move(self, claim: Claim, new: Claim) -> Claim:
        return self._database.move(claim, new)

    async def remember(self, rows: Sequence[TouchpointRow]) -> set[TouchpointKey]:
        self._database.call()
        kept = self._database.tables["touchpoint"]
        fresh = [row for row in rows if row.key not in kept]
        kept.update((row.key, row) for row in fresh)
        return {row.key for row in fresh}

    async def forget(self, keys: Collection[TouchpointKey]) -> None:
        self._database.call()
        for key in keys:
            del self._database.tables["touchpoint"][key]

    async def blank(self, keys: Collection[TouchpointKey]) -> None:
        self._database.call()
        kept = self._database.tables["touchpoint"]
        for key in keys:
            kept[key] = kept[key]._replace(body=b"")

    async def note_erasure(self, row: ErasureRow) -> None:
        """Receipts are for people."""

    async def note_sealing(self, uses: Sequence[SealingUse]) -> None:
        """The simulation seals nothing."""

    async def blank_leaf(self, leaf: bytes, recorded_at: int, identity: bytes) -> None:
        self._database.call()
        tables = self._database.tables
        kept = tables["touchpoint"]
        for key in [key for key, row in kept.items() if row.leaf == leaf]:
            kept[key] = kept[key]._replace(body=b"")
        tables["personal"] = {key: row for key, row in tables["personal"].items() if row.leaf != leaf}
        tables["edge"] = {
            said: row for said, row in tables["edge"].items() if leaf not in said.pair or row.recorded_at > recorded_at
        }

    def attempt(self) -> AbstractAsyncContextManager[None]:
        return self._database.savepoint()

    async def lock(self, leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        self._database.call()
        if self._database.conflicts_in:
            self._database.conflicts_in -= 1
            if not self._database.conflicts_in:
                raise Conflict("planned: a root moved while we waited")
        rows = self._database.tables["leaf"]
        for leaf in sorted(leaves):
            if leaf not in rows:
                assert leaves[leaf], "a leaf without a row was locked as if it had one"
                rows[leaf] = LeafRow(leaf, leaves[leaf], leaf)
        found = {leaf: rows[leaf] for leaf in leaves}
        roots = {row.root: rows[row.root] for row in found.values()}
        self._database.tables["locked"].update(dict.fromkeys(roots))
        return found | roots

    async def members(self, roots: Collection[bytes]) -> list[LeafRow]:
        self._database.call()
        return [row for row in self._database.tables["leaf"].values() if row.root in roots]

    async def edges(self, leaves: Collection[bytes]) -> list[EdgeRow]:
        self._database.call()
        rows = self._database.tables["leaf"]
        return [
            edge
            for said, edge in self._database.tables["edge"].items()
            if (said.a in leaves or said.b in leaves)
            and all(edge.recorded_at > rows[leaf].erased_at for leaf in said.pair)
        ]

    async def save_leaves(self, rows: Sequence[LeafRow]) -> None:
        self._database.call()
        kept = self._database.tables["leaf"]
        for row in rows:
            self._locked(kept[row.leaf].root)
            self._locked(kept[row.root].root)
        for row in rows:
            kept[row.leaf] = row
            self._database.tables["locked"][row.leaf] = None  # a row that was written is locked

    async def add_edges(self, rows: Sequence[EdgeRow]) -> None:
        self._database.call()
        for row in rows:
            for leaf in row.said.pair:
                self._locked(self._database.tables["leaf"][leaf].root)
            self._database.tables["edge"].setdefault(row.said, row)

    def _locked(self, root: bytes) -> None:
        assert root in self._database.tables["locked"], f"{root.hex()} was written without its lock"

    async def list_customers(self, rows: Sequence[ListingRow], gone: Collection[bytes], partitions: int) -> None:
        self._database.call()
        listed = self._database.tables["customer"]
        listed.update((row.customer, row) for row in rows)
        for customer in gone:
            listed.pop(customer, None)

    async def keep_personal(self, rows: Sequence[PersonalRow]) -> None:
        self._database.call()
        kept = self._database.tables["personal"]
        for row in rows:
            known = kept.get((row.leaf, row.field))
            if known is None or (row.at, row.id) > (known.at, known.id):
                kept[row.leaf, row.field] = row

    async def park(self, rows: Sequence[ParkedRow]) -> None:
        self._database.call()
        for row in rows:
            self._database.tables["parked"].setdefault(row[:4], row)

    async def send(self, parcels: Sequence[Parcel]) -> None:
        self._database.call()
        self._database.put(parcels)
