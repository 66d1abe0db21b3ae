"""Houses with one mistake each, planted at a small seam, to show that the simulation would find it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from services.profiles.domain.rows import LeafRow, TouchpointKey, TouchpointRow
from services.profiles.domain.step import World
from services.scoring.domain.watermark import Heard
from shared.checkpoint import Claim
from shared.codec import encode
from shared.events import CustomerAbsorbed, Fact
from shared.ids import partition_of
from shared.outbox import OutboxSnapshot, Parcel, Pending
from shared.relay import Relay, append_chunk
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from tests.simulation.driving import pause
from tests.simulation.house import Simulation
from tests.simulation.memory_database import Tables
from tests.simulation.memory_profiles import MemoryProfiles, ProfilesTransaction
from tests.simulation.seats import ProfilesSeat, ScoringSeat

# --- a watermark taken without the lock's snapshot ----------------------------------------------------------------


class _LateFrontiers(MemoryProfiles):
    """Frontiers are read in an instant of their own, after the rows; whatever is folded in between is promised."""

    async def outbox(self, partitions: Sequence[int], limit: int) -> OutboxSnapshot:
        rows = await super().outbox(partitions, limit)
        await pause()
        later = await super().outbox(partitions, limit)
        return OutboxSnapshot(rows.rows, later.frontiers, rows.complete, rows.epochs)


class WatermarkWithoutSnapshot(Simulation):
    """Rows and frontiers of two instants."""

    profiles_database = _LateFrontiers


# --- advance past W -----------------------------------------------------------------------------------------------


class _Hasty(Heard):
    """Believes that silence may be decided a little further than was stated."""

    def watermark(self, partition: int) -> int | None:
        heard = super().watermark(partition)
        return None if heard is None else heard + 5_000


class _HastySeat(ScoringSeat):
    heard_class = _Hasty


class AdvancePastTheWatermark(Simulation):
    """Silence is decided five seconds past W."""

    scoring_seat = _HastySeat


# --- a cache kept over a take-over --------------------------------------------------------------------------------


class _RememberingTransaction(ProfilesTransaction):
    """Believes the rows its own process wrote last, and leaves those of others alone."""

    cache: dict[bytes, LeafRow]

    async def lock(self, leaves: Mapping[bytes, str]) -> dict[bytes, LeafRow]:
        rows = await super().lock(leaves)
        return {leaf: self.cache.get(leaf, row) for leaf, row in rows.items()}

    async def save_leaves(self, rows: Sequence[LeafRow]) -> None:
        await super().save_leaves(rows)
        self.cache.update((row.leaf, row) for row in rows)


class _RememberingStore:
    """The one database, seen through one process's cache."""

    def __init__(self, database: MemoryProfiles) -> None:
        self._database = database
        self._cache: dict[bytes, LeafRow] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[ProfilesTransaction]:
        cached = dict(self._cache)
        async with self._database.transaction():
            transaction = _RememberingTransaction(self._database)
            transaction.cache = cached
            yield transaction
        self._cache = cached


class _RememberingSeat(ProfilesSeat):
    def __init__(self, log: Any, clock: Any, partitions: int, store: MemoryProfiles) -> None:
        remembering: Any = _RememberingStore(store)
        super().__init__(log, clock, partitions, remembering)


class CacheKeptOverATakeOver(Simulation):
    """A process believes rows it wrote before another one had the partition."""

    profiles_seat = _RememberingSeat


# --- absorbed on the wrong partition ------------------------------------------------------------------------------


def send_absorbed_to_the_taker(world: World, customer: bytes, fact: Fact) -> None:
    """Stands in for `World._send`: an absorbed customer's last word goes where its new root is."""
    place = fact.into if isinstance(fact, CustomerAbsorbed) else customer
    partition = partition_of(place, world._partitions)
    world.outcome.parcels.append(Parcel(PROFILE_CHANGES, partition, customer, encode(fact)))


# --- checkpoint before effects ------------------------------------------------------------------------------------


class _CheckpointFirst(MemoryProfiles):
    """The checkpoint stands although the effects of its transaction were rolled back."""

    def rolled_back(self, before: Tables) -> Tables:
        return before | {"checkpoint": self.tables["checkpoint"]}


class CheckpointBeforeEffects(Simulation):
    """A crash between the checkpoint and its effects loses them."""

    profiles_database = _CheckpointFirst


# --- dedup skipped ------------------------------------------------------------------------------------------------


class _Forgetful(ProfilesTransaction):
    async def remember(self, rows: Sequence[TouchpointRow]) -> set[TouchpointKey]:
        await super().remember(rows)
        return {row.key for row in rows}


class _ForgetfulDatabase(MemoryProfiles):
    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[ProfilesTransaction]:
        async with super().transaction():
            yield _Forgetful(self)


class DedupSkipped(Simulation):
    """Whatever is sent twice is counted twice."""

    profiles_database = _ForgetfulDatabase


# --- the relay deletes before the ack -----------------------------------------------------------------------------


class _DeletingFirst(Relay):
    async def _relay(self, chunk: Sequence[Pending], claims: Mapping[int, Claim]) -> None:
        await self._store.relayed([claims[row.partition] for row in chunk], [row.seq for row in chunk], True)
        for (topic, partition), end in (await append_chunk(self._log, chunk)).items():
            if topic == PROFILE_CHANGES and partition in self._lanes:
                self._lanes[partition].relayed_to = end


class _DeletingSeat(ProfilesSeat):
    relay_class = _DeletingFirst


class RelayDeletesBeforeTheAck(Simulation):
    """Rows are gone from the outbox while the log may still refuse them."""

    profiles_seat = _DeletingSeat


# --- an owner that is never refused -------------------------------------------------------------------------------


class _Unfenced(MemoryProfiles):
    """Takes the word of whoever held the partition once."""

    def move(self, claim: Any, new: Any) -> Any:
        return super().move(self.claims(TOUCHPOINTS)[claim.partition], new)


class ZombiesWrite(Simulation):
    """A replaced worker goes on writing."""

    profiles_database = _Unfenced
