"""Republish: every customer told again to `profile-changes`, page by page through the outbox, then a marker.

A page locks the roots of its leaves and is written in one transaction with how far it is, so an older version never
follows a newer one, a killed process leaves nothing half done, and any other process goes on. It waits while the
outbox is full: what is new goes first.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.domain.retelling import needs_members, retold
from services.profiles.domain.rows import LeafRow
from services.profiles.domain.terms import House
from services.profiles.store import SqlStore, SqlTransaction
from shared.clock import Clock
from shared.codec import encode
from shared.database import execute, fetch
from shared.errors import Conflict, Fenced, Retryable
from shared.events import RepublishPassed, RepublishRequested
from shared.lane import named
from shared.outbox import Parcel
from shared.topics import DAY_MS, PROFILE_CHANGES

PAGE = 250
OUTBOX_ROWS_MAX = 2_000
PAUSE_SECONDS = 0.05
LOOK_SECONDS = 1.0
ATTEMPTS_MAX = 20
REQUEST_MS_MAX = 7 * DAY_MS
"""An older request on the log is nobody's any more: a database made anew does not carry it out."""

_log = structlog.get_logger("republish")


@dataclass(frozen=True, slots=True)
class Republish:
    """One request. `leaves`: how many of `leaves_total` rows are told · `customers`: how many of them are customers ·
    `after`: the last leaf told · times in epoch ms, 0 = not yet.
    """

    id: str
    requested_at: int
    started_at: int = 0
    finished_at: int = 0
    leaves: int = 0
    leaves_total: int = 0
    customers: int = 0
    after: bytes = b""


_COLUMNS = tuple(Republish.__dataclass_fields__)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM republish"
_UNFINISHED = f"{_SELECT} WHERE finished_at = 0 ORDER BY requested_at, id LIMIT 1"
_INSERT = f"""INSERT INTO republish ({", ".join(_COLUMNS)}) VALUES ($1, $2, 0, 0, 0, 0, 0, $3)
ON CONFLICT DO NOTHING"""
_BEGIN = "UPDATE republish SET started_at = $2, leaves_total = $3 WHERE id = $1 AND started_at = 0"
_GO_ON = "UPDATE republish SET after = $2, leaves = leaves + $3, customers = customers + $4 WHERE id = $1"
_FINISH = "UPDATE republish SET finished_at = $2 WHERE id = $1"
_OUTBOX = "SELECT count(*) AS n FROM (SELECT seq FROM outbox LIMIT $1) AS waiting"


async def newest(connection: AsyncConnection) -> Republish | None:
    """The republish asked for last; None when none ever was."""
    rows = await fetch(connection, f"{_SELECT} ORDER BY requested_at DESC, id DESC LIMIT 1")
    return Republish(*rows[0]) if rows else None


async def one(connection: AsyncConnection, identity: str) -> Republish | None:
    """The republish of this id."""
    rows = await fetch(connection, f"{_SELECT} WHERE id = $1", identity)
    return Republish(*rows[0]) if rows else None


@dataclass(slots=True)
class Republishing:
    """Carries out what `definitions` asks for. `wake`: something lies in the outbox. `run()` until cancelled."""

    store: SqlStore
    house: House
    clock: Clock
    wake: Callable[[], None]
    customers: int = 0  # told again by this process
    waited: int = 0  # pauses because the outbox was full
    _asked: dict[str, RepublishRequested] = field(default_factory=dict)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, request: RepublishRequested) -> None:
        """A request was read from `definitions`."""
        if request.requested_at > self.clock.now_ms() - REQUEST_MS_MAX:
            self._asked[request.id] = request
            self._moved.set()

    async def run(self) -> None:
        """Go on with what is unfinished, and begin what is asked for; a failure is tried again."""
        while True:
            try:
                if await self.step():
                    continue
            except Exception as error:
                _log.warning("republish waits", error=named(error))
            self._moved.clear()
            with suppress(TimeoutError):  # another process may have left one unfinished
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._moved.wait()

    async def step(self) -> bool:
        """Tell one page, or wait a moment for the outbox; False when nothing is unfinished. Raises what SQL raises."""
        await self.take_up()
        async with self.store.database.snapshot() as connection:
            if not await fetch(connection, _UNFINISHED):
                return False
            rows = (await fetch(connection, _OUTBOX, OUTBOX_ROWS_MAX))[0].n
        if rows >= OUTBOX_ROWS_MAX:
            self.waited += 1
            await asyncio.sleep(PAUSE_SECONDS)
            return True
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._page()
            except Fenced:
                raise
            except Conflict:
                continue  # a root moved while we waited for its lock
        raise Retryable("customers of one page move too fast just now")

    async def take_up(self) -> None:
        """Write down what was asked for since."""
        while self._asked:
            request = next(iter(self._asked.values()))
            async with self.store.database.transaction() as connection:
                await execute(connection, _INSERT, request.id, request.requested_at, b"")
            self._asked.pop(request.id, None)  # the route and the task may have taken up the same one

    async def _page(self) -> bool:
        async with self.store.database.transaction() as connection:
            transaction = SqlTransaction(connection, self.store.database.is_sqlite)
            rows = await fetch(connection, f"{_UNFINISHED} FOR UPDATE")  # one process at a time tells a page
            if not rows:
                return False
            now = Republish(*rows[0])
            if not now.started_at:
                total = (await fetch(connection, "SELECT count(*) AS n FROM leaf"))[0].n
                await execute(connection, _BEGIN, now.id, self.clock.now_ms(), total)
            page = await fetch(
                connection, "SELECT leaf FROM leaf WHERE leaf > $1 ORDER BY leaf LIMIT $2", now.after, PAGE
            )
            leaves = [row.leaf for row in page]
            if leaves:
                told = await self._tell(transaction, now.id, leaves)
                await execute(connection, _GO_ON, now.id, leaves[-1], len(leaves), told)
                self.customers += told
            else:
                await self._pass(transaction, now.id)
                await execute(connection, _FINISH, now.id, self.clock.now_ms())
        self.wake()
        return True

    async def _tell(self, transaction: SqlTransaction, identity: str, leaves: list[bytes]) -> int:
        found = await transaction.lock(dict.fromkeys(leaves, ""))
        rows = [found[leaf] for leaf in leaves]
        several = [row.leaf for row in rows if needs_members(row)]
        members: dict[bytes, list[LeafRow]] = {root: [] for root in several}
        for member in await transaction.members(several) if several else []:
            members[member.root].append(member)
        parcels, customers = retold(rows, members, self.house, identity)
        await transaction.send(parcels)
        return customers

    async def _pass(self, transaction: SqlTransaction, identity: str) -> None:
        passed = encode(RepublishPassed(identity, self.clock.now_ms()))
        # No key: the relay keeps it behind every earlier row of its partition.
        await transaction.send([Parcel(PROFILE_CHANGES, q, b"", passed) for q in range(self.house.partitions)])


class Progress(NamedTuple):
    """`share` of the leaves, 0..1 · `left_seconds`: None while nothing is known about the rate."""

    share: float
    leaves_per_second: float
    left_seconds: float | None


def progress(now: Republish, at: int) -> Progress:
    """How far it is at `at` (epoch ms)."""
    if not now.started_at:
        return Progress(0.0, 0.0, None)
    seconds = ((now.finished_at or at) - now.started_at) / 1000
    rate = now.leaves / seconds if seconds > 0 else 0.0
    if now.finished_at:
        return Progress(1.0, rate, 0.0)
    share = min(1.0, now.leaves / now.leaves_total) if now.leaves_total else 0.0
    return Progress(share, rate, max(0, now.leaves_total - now.leaves) / rate if rate else None)
