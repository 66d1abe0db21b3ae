"""A lost scoring database makes itself again from what scoring said, before anything is decided.

An empty database beside topics that hold decisions must not begin afresh: every alert would be raised once more. Rows
are brought back as they were said; profiles is asked to tell every customer again, and the ordinary step goes on from
where decisions were taken last. One process does it, any other waits or takes over; it may be killed anywhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import recall
from shared import rebuild
from shared.checkpoint import NEVER
from shared.clock import Clock
from shared.codec import encode
from shared.database import Database, execute, fetch
from shared.errors import Conflict, Fenced, Retryable
from shared.events import RepublishRequested
from shared.ids import uuid_text
from shared.lane import named
from shared.log.port import Log, Outgoing
from shared.rebuild import FILLING, SILENT_SECONDS, SWITCHED, Rebuild, Silence
from shared.topics import DEFINITIONS, PROFILE_CHANGES

NAME = "scoring"
RECALL = "recall"
PAGE = 500
LOOK_SECONDS = 0.25
READ_WAIT_SECONDS = 1.0

_log = structlog.get_logger("recovering")

_BEGIN_AT = f"""INSERT INTO checkpoint
(topic, partition, epoch, revision, position, frontier, last_position, last_checksum, log_identity)
VALUES ($1, $2, 0, 0, $3, {NEVER}, {NEVER}, 0, $4) ON CONFLICT DO NOTHING"""


async def read_on(
    log: Log,
    hold: Callable[[AsyncConnection], Awaitable[None]],
    database: Database,
    breathe: Callable[[int], Awaitable[None]],
) -> int:
    """Read both topics of what was said to the ends they have now; returns how many records were no decision.

    `hold`: refuses a replaced process, in every transaction · `breathe`: called with the records of each piece.
    """
    foreign = 0
    async with database.snapshot() as connection:
        known = await recall.positions(connection)
    for topic in recall.TOPICS:
        for partition, (earliest, end) in sorted((await log.bounds(topic)).items()):
            position = max(earliest, known.get((topic, partition), 0))
            while position < end:
                batch = await log.read(topic, partition, position, wait_seconds=READ_WAIT_SECONDS)
                if batch.next_position == position:
                    raise Retryable("the log does not answer")
                async with database.transaction() as connection:
                    await hold(connection)
                    foreign += await recall.take(connection, topic, partition, batch)
                position = batch.next_position
                await breathe(len(batch.records))
            await log.release(topic, partition)
    return foreign


class Recovering:
    """Looks once, at the start. `finished`: folding may begin · `patience_seconds`: a holder silent for so long is
    replaced.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        clock: Clock,
        partitions: int,
        patience_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.finished = asyncio.Event()
        self.records = 0
        self.foreign = 0
        self._source, self._database, self._clock, self._partitions = log, database, clock, partitions
        self._silence = Silence(patience_seconds)
        self._held: Rebuild | None = None
        self._goal = 0
        self._phase = ""

    def check(self) -> dict[str, Any]:
        """Readiness: not ok while decisions are being brought back."""
        if self.finished.is_set():
            return {"ok": True}
        return {"ok": False, "phase": self._phase, "records": self.records, "records_total": self._goal}

    async def run(self, then: Callable[[], Awaitable[None]]) -> None:
        """Bring decisions back if they are lost, then run `then` for ever; a failure is tried again."""
        while not self.finished.is_set():
            try:
                if await self._attend():
                    self.finished.set()
                    break
            except Fenced:
                self._held = None
            except Exception as error:
                _log.warning("decisions cannot be brought back now", error=named(error))
            await asyncio.sleep(LOOK_SECONDS)
        await then()

    async def _attend(self) -> bool:
        """Whether everything is there."""
        async with self._database.snapshot() as connection:
            row = await rebuild.load(connection, NAME)
            begun = bool(await fetch(connection, "SELECT 1 FROM checkpoint WHERE topic = $1 LIMIT 1", PROFILE_CHANGES))
        is_ours = row is not None and row.kind == RECALL and row.phase != SWITCHED
        if not is_ours:
            if begun or not await self._is_lost():
                return True
            await self._begin()
            return False
        assert row is not None  # noqa: S101  # `is_ours`
        if self._held is None and not await self._seize(row):
            self._phase = "another process brings decisions back"
            return False
        await self._read()
        await self._bring_back()
        await self._hand_over()
        return True

    async def _is_lost(self) -> bool:
        """Whether decisions were said which this database knows nothing of."""
        for topic in recall.TOPICS:
            bounds = await self._source.bounds(topic)
            if any(end > earliest for earliest, end in bounds.values()):
                return True
        return False

    async def _begin(self) -> None:
        now = self._clock.now_ms()
        row = Rebuild(NAME, 1, RECALL, FILLING, "", 0, 0, 1, "", now, 0, 0, "", b"", b"")
        try:
            async with self._database.transaction() as connection:
                await rebuild.begin(connection, row)
        except Conflict:
            return  # another process was quicker
        _log.warning("this database knows of no decision, and decisions were said: bringing them back from the log")

    async def _seize(self, row: Rebuild) -> bool:
        if not self._silence.look(row, self._clock.monotonic()):
            return False
        async with self._database.transaction() as connection:
            self._held = await rebuild.seize(connection, row)
        return True

    async def _hold(self, connection: AsyncConnection) -> None:
        if self._held is None:
            raise Fenced("not held here")
        self._held = await rebuild.hold(connection, self._held)

    async def _read(self) -> None:
        self._phase = "reading what was said"
        ends = [await self._source.bounds(topic) for topic in recall.TOPICS]
        self._goal = sum(end - earliest for bounds in ends for earliest, end in bounds.values())

        async def breathe(records: int) -> None:
            self.records += records

        self.foreign += await read_on(self._source, self._hold, self._database, breathe)

    async def _bring_back(self) -> None:
        self._phase = "writing it down"
        after: bytes | None = b""
        while after is not None:
            async with self._database.transaction() as connection:
                await self._hold(connection)
                known = await recall.page(connection, after, PAGE)
                await recall.bring_back(connection, known, self._partitions)
            after = known[-1].customer if known else None

    async def _hand_over(self) -> None:
        """Ask for every customer, and let folding begin where decisions were taken last, in one transaction."""
        self._phase = "asking profiles for every customer"
        request = RepublishRequested(uuid_text(self._clock.new_id()), self._clock.now_ms())
        identity = await self._source.identity(PROFILE_CHANGES)
        bounds = await self._source.bounds(PROFILE_CHANGES)
        await self._source.append(DEFINITIONS, [Outgoing(0, encode(request))])
        async with self._database.transaction() as connection:
            await self._hold(connection)
            known = await recall.begin_at(connection, self._clock.now_ms())
            for partition, (earliest, end) in sorted(bounds.items()):
                position = min(end, max(earliest, known.get(partition, 0)))
                await execute(connection, _BEGIN_AT, PROFILE_CHANGES, partition, position, identity)
            await recall.let_go(connection)
            if self._held is not None:
                await rebuild.end(connection, self._held)
        _log.warning("decisions are brought back; profiles tells every customer again", republish=request.id)
