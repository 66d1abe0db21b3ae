"""History imports as the door sees them: which are open, who is still sending, and how one is closed for good.

`import.finished` promises that no more history follows on a partition. So an import that closes takes nothing new
first, then waits for what is in flight, then speaks.
"""

import asyncio
from dataclasses import dataclass

import structlog

from shared.clock import Clock
from shared.codec import encode
from shared.definitions import DefinitionsFeed
from shared.errors import NotAccepting, NotFound, RaftarError
from shared.events import ImportClosed, ImportFinished, ImportStarted
from shared.ids import uuid_text
from shared.log.port import Log, Outgoing
from shared.topics import DEFINITIONS, TOUCHPOINTS

_log = structlog.get_logger("imports")

SENDERS_SECONDS = 20.0
"""How long closing waits for requests in flight before it asks the caller to come again."""


class StillWriting(NotAccepting):
    """Touchpoints of the import are still on their way into the log."""

    code = "import_in_flight"


@dataclass(slots=True)
class Import:
    """One import. `closing`: takes nothing new · `in_flight`: requests not yet answered · times in epoch ms;
    `active_at`, `told_at` are monotonic seconds: last touchpoint here, last word of any door on the topic."""

    workspace: str
    import_id: str
    source: str
    started_at: int
    active_at: float
    told_at: float
    closing: bool = False
    in_flight: int = 0
    closed_at: int | None = None
    idle: bool = False

    @property
    def state(self) -> str:
        """`open`, `closing` (takes nothing new, not yet said everywhere) or `closed`."""
        if self.closed_at is not None:
            return "closed"
        return "closing" if self.closing else "open"


class Imports:
    """All imports of the house, kept current by the feed of definitions."""

    def __init__(self, log: Log, feed: DefinitionsFeed, clock: Clock, partitions: int, idle_seconds: float) -> None:
        self._topics, self._feed, self._clock = log, feed, clock
        self._partitions = partitions
        self._idle_seconds = idle_seconds
        self._all: dict[tuple[str, str], Import] = {}
        self._left = asyncio.Event()
        self.closed_idle = 0
        feed.on(ImportStarted, self._on_started)
        feed.on(ImportClosed, self._on_closed)

    def of(self, workspace: str) -> list[Import]:
        """All imports of a workspace, oldest first."""
        return [one for (owner, _), one in self._all.items() if owner == workspace]

    def open_count(self) -> int:
        """How many imports are open in the house."""
        return sum(one.closed_at is None for one in self._all.values())

    def why_not(self, workspace: str, import_id: str) -> str:
        """Why this import takes nothing now; "" when it does."""
        found = self._all.get((workspace, import_id))
        if found is None:
            return "no such import; start one by POST /v1/imports"
        return "this import is finished; start another by POST /v1/imports" if found.closing else ""

    def enter(self, workspace: str, import_ids: set[str]) -> None:
        """A request with touchpoints of these open imports is about to be appended; `leave` must follow."""
        for import_id in import_ids:
            one = self._all[workspace, import_id]
            one.in_flight += 1
            one.active_at = self._clock.monotonic()

    def leave(self, workspace: str, import_ids: set[str]) -> None:
        """That request was appended, or failed."""
        if not import_ids:
            return
        for import_id in import_ids:
            self._all[workspace, import_id].in_flight -= 1
        self._left.set()
        self._left = asyncio.Event()

    async def start(self, workspace: str, source: str) -> Import:
        """Start an import and return it when this door knows it. Raises Retryable."""
        fact = ImportStarted(workspace, uuid_text(self._clock.new_id()), source, self._clock.now_ms())
        await self._say(fact)
        found = self._all.get((workspace, fact.import_id))
        if found is None:
            raise StillWriting("the import was started, but this door has not read of it yet; try again")
        return found

    async def finish(self, workspace: str, import_id: str, idle: bool = False) -> Import:
        """Close an import: nothing new, nothing in flight, then `import.finished` everywhere, then `import.closed`.

        Idempotent. Raises NotFound; Retryable leaves it closing: it takes nothing more, and finishing again goes on.
        """
        one = self._all.get((workspace, import_id))
        if one is None:
            raise NotFound("no such import in this workspace")
        if one.closed_at is not None:
            return one
        one.closing = True
        await self._all_left(one)
        end = encode(ImportFinished(workspace, import_id, self._clock.now_ms()))
        await self._topics.append(TOUCHPOINTS, [Outgoing(partition, end) for partition in range(self._partitions)])
        await self._say(ImportClosed(workspace, import_id, idle, self._clock.now_ms()))
        return one

    async def close_idle(self) -> None:
        """Close every import that nobody sent to for the idle time; tell other doors of those that are active here."""
        for one in [one for one in self._all.values() if one.closed_at is None]:
            now = self._clock.monotonic()
            if now - max(one.active_at, one.told_at) >= self._idle_seconds and not one.in_flight:
                _log.warning("idle import closed", import_id=one.import_id, workspace=one.workspace)
                self.closed_idle += 1
                await self.finish(one.workspace, one.import_id, idle=True)
            elif one.active_at > one.told_at and now - one.told_at >= self._idle_seconds / 4:
                await self._say(ImportStarted(one.workspace, one.import_id, one.source, one.started_at))

    async def keep_closing_idle(self) -> None:
        """Run `close_idle` for ever, a few times in the idle time."""
        while True:
            await asyncio.sleep(min(60.0, self._idle_seconds / 8))
            try:
                await self.close_idle()
            except RaftarError as error:
                _log.warning("idle imports cannot be closed now", reason=str(error))

    async def _all_left(self, one: Import) -> None:
        try:
            async with asyncio.timeout(SENDERS_SECONDS):
                while one.in_flight:
                    await self._left.wait()
        except TimeoutError:
            raise StillWriting("touchpoints of this import are still being written; finish it again") from None

    async def _say(self, fact: ImportStarted | ImportClosed) -> None:
        [position] = await self._topics.append(DEFINITIONS, [Outgoing(0, encode(fact))])
        await self._feed.reached(position)

    def _on_started(self, fact: ImportStarted) -> None:
        """Said again by a door that still receives it: it is not idle."""
        now = self._clock.monotonic()
        known = self._all.get((fact.workspace, fact.import_id))
        if known is not None:
            known.told_at = now
            return
        one = Import(fact.workspace, fact.import_id, fact.source, fact.started_at, active_at=now, told_at=now)
        self._all[fact.workspace, fact.import_id] = one

    def _on_closed(self, fact: ImportClosed) -> None:
        one = self._all.get((fact.workspace, fact.import_id))
        if one is not None and one.closed_at is None:
            one.closing, one.closed_at, one.idle = True, fact.closed_at, fact.idle
