"""Profiles folding a real log with a rebuild beside them: what the tests of rebuild and verify stand in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from services.profiles import tables
from services.profiles.decisions import list_stages
from services.profiles.digest import digest, refold
from services.profiles.domain.decided import StandingRow
from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from services.profiles.rebuilding import Rebuilder
from services.profiles.store import SqlStore
from services.profiles.switching import NAME, begin
from services.profiles.switching import House as Switching
from shared import rebuild
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import Database, execute, fetch, insert_rows
from shared.events import ErasureRequested, Fact, IdentityLinked, LeafErased, LeafReinstated, TouchpointsRecorded
from shared.ids import partition_of
from shared.log.ownership import AllPartitions
from shared.log.port import RECORD_BYTES_MAX, Outgoing, Topic
from shared.log.sqlite import SqliteLog
from shared.loop import Worker
from shared.profile import FOLD_VERSION
from shared.rebuild import Rebuild, Wish
from shared.relay import Relaying
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS, WATERMARKS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.support.steps import PARTITIONS

DEADLINE_SECONDS = 60.0
TOPICS = [Topic(TOUCHPOINTS, PARTITIONS), Topic(PROFILE_CHANGES, PARTITIONS), Topic(WATERMARKS, 1)]


@dataclass
class Beside:
    """A live projection with its worker, and rebuilders that come and go."""

    log: SqliteLog
    database: Database
    clock: SystemClock = field(default_factory=SystemClock)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    rebuilders: list[Rebuilder] = field(default_factory=list)
    deadline_seconds: float = DEADLINE_SECONDS

    def __post_init__(self) -> None:
        self.projection = TouchpointsProjection(
            SqlStore(self.database), House(PARTITIONS, RECORD_BYTES_MAX), open_sealed=lambda workspace, sealed: {}
        )

    def work(self) -> Worker:
        """Start a live worker."""
        relaying = Relaying(PARTITIONS, True, 0)
        worker = Worker(self.log, AllPartitions(PARTITIONS), self.projection, self.clock, relaying)
        self.tasks.append(asyncio.create_task(worker.run()))
        self.workers.append(worker)
        return worker

    def rebuild(self, patience_seconds: float = 60.0) -> asyncio.Task[None]:
        """Start a process' part in the rebuild; it replaces a holder who is silent for `patience_seconds`."""

        def relay() -> None:
            for worker in self.workers:
                worker.wake()

        made = Rebuilder(self.log, self.database, self.clock, PARTITIONS, relay, patience_seconds)
        self.rebuilders.append(made)
        task = asyncio.create_task(made.run())
        self.tasks.append(task)
        return task

    async def say(self, *facts: Fact) -> None:
        """Append facts, each to the partition of its leaf."""
        out = [Outgoing(partition_of(_leaf_of(fact), PARTITIONS), encode(fact)) for fact in facts]
        await self.log.append(TOUCHPOINTS, out)

    async def begin(self, wanted: Wish = "", fold_version: int = FOLD_VERSION) -> None:
        """Begin a rebuild."""
        await begin(Switching(self.log, self.database, PARTITIONS), self.clock.now_ms(), fold_version, wanted)
        self._wake()

    async def decide(self, customers: Sequence[bytes], stage: str) -> None:
        """Fold that these customers are in a stage."""
        rows = [StandingRow(one, "main", 1, stage, 0, -1, 0, b"null") for one in customers]
        async with self.database.transaction() as connection:
            await insert_rows(connection, tables.standing, StandingRow._fields, rows)
            await list_stages(connection, customers)

    async def row(self) -> Rebuild | None:
        """The rebuild as it stands."""
        async with self.database.snapshot() as connection:
            return await rebuild.load(connection, NAME)

    async def ask(self, wanted: Wish) -> None:
        """Want something of it."""
        row = await self.row()
        assert row is not None
        async with self.database.transaction() as connection:
            await rebuild.ask(connection, row, wanted)
        self._wake()

    def _wake(self) -> None:
        for one in self.rebuilders:
            one.wake()

    async def until(self, met: Callable[[Rebuild | None], bool]) -> Rebuild | None:
        """The row once `met` says so; a failed rebuild ends the waiting."""
        async with asyncio.timeout(self.deadline_seconds):
            while True:
                row = await self.row()
                if met(row):
                    return row
                assert row is None or row.phase != "failed", row.why
                await asyncio.sleep(0.02)

    async def phase(self, phase: str) -> Rebuild:
        """The row once it is in this phase and nothing more is wanted."""
        row = await self.until(lambda row: row is not None and row.phase == phase and not row.wanted)
        assert row is not None
        return row

    async def settle(self) -> None:
        """Wait until live has folded everything and its outbox is empty."""
        async with asyncio.timeout(self.deadline_seconds):
            while not await self._is_settled():
                await asyncio.sleep(0.02)

    async def _is_settled(self) -> bool:
        rows = await self.rows("SELECT partition, position FROM checkpoint WHERE topic = $1", TOUCHPOINTS)
        folded = {row.partition: row.position for row in rows}
        ends = await self.log.bounds(TOUCHPOINTS)
        if any(folded.get(partition, 0) < bounds.end for partition, bounds in ends.items()):
            return False
        return not await self.rows("SELECT seq FROM outbox LIMIT 1")

    async def rows(self, statement: str, *values: Any) -> list[Any]:
        """Rows straight from the database."""
        async with self.database.snapshot() as connection:
            return await fetch(connection, statement, *values)

    async def write(self, statement: str, *values: Any) -> int:
        """Change rows behind everybody's back."""
        async with self.database.transaction() as connection:
            return await execute(connection, statement, *values)

    async def digests(self) -> tuple[str, str]:
        """Of what is live, and of the log folded anew."""
        return await digest(self.database), (await refold(self.log)).digest

    async def versions(self) -> dict[bytes, tuple[int, int]]:
        """Version and moves of every leaf."""
        rows = await self.rows("SELECT leaf, version, moves FROM leaf")
        return {row.leaf: (row.version, row.moves) for row in rows}

    async def close(self) -> None:
        """End every task."""
        for task in self.tasks:
            await ended(task)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def profiles_beside(folder: Path, database: Database) -> AsyncIterator[Beside]:
    """A log of its own, and profiles on `database`; all tasks end with the block."""
    log = SqliteLog(folder / "log", SystemClock())
    await log.ensure(TOPICS)
    made = Beside(log, database)
    async with database.transaction() as connection:
        await rebuild.declare(connection, NAME, FOLD_VERSION)
    try:
        yield made
    finally:
        await made.close()
        await log.close()


def history(seed: int, count: int, people: int = 40) -> Iterator[Fact]:
    """Page views, purchases and ties of some people, links, erasures and what cannot be folded, in any order."""
    random = Random(seed)
    users = [a_leaf(f"user {n}", 0) for n in range(people)]
    cookies = [a_leaf(f"cookie {n}", 4) for n in range(people)]
    for n in range(count):
        who, at, chance = random.randrange(people), NOON_MS + seed * 1_000_000 + n, random.random()
        leaves = (users[who], cookies[random.randrange(people)]) if chance < 0.15 else (users[who],)
        if chance > 0.99:
            yield _command(random, users, at)
        elif chance > 0.97:  # a number where text belongs: it is parked
            yield a_record(a_touchpoint("page_viewed", at=at, leaves=(users[who],)), _broken(users[who], at))
        elif chance > 0.6:
            yield a_record(a_touchpoint("purchased", at=at, leaves=leaves, order_id=f"o{n}", amount=9, currency="EUR"))
        else:
            times = range(at, at + random.randint(1, 3))
            yield a_record(*(a_touchpoint("page_viewed", at=one, leaves=leaves, url_path="/") for one in times))


def _broken(leaf: bytes, at: int) -> Any:
    bought = a_touchpoint("purchased", at=at, leaves=(leaf,), id=f"broken {at}")
    return msgspec.structs.replace(bought, properties={"order_id": 17})


def _command(random: Random, users: list[bytes], at: int) -> Fact:
    one, other = random.sample(users, 2)
    identity = random.randbytes(16)
    return random.choice(
        [
            IdentityLinked("main", identity, min(one, other), max(one, other), True, True, at),
            ErasureRequested("main", identity, one, at),
            LeafErased("main", identity, one, at),
            LeafReinstated("main", identity, one, at),
        ]
    )


def _leaf_of(fact: Fact) -> bytes:
    if isinstance(fact, TouchpointsRecorded):
        return fact.touchpoints[0].leaves[0]
    leaf: bytes = fact.a if isinstance(fact, IdentityLinked) else getattr(fact, "leaf")  # noqa: B009
    return leaf
