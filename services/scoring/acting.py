"""What people do: a word on an alert, under the customer's lock and through the outbox; a new version of the rules."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.scoring import reading
from services.scoring.decide import Tally, told, write
from services.scoring.domain.deciding import Decision, Outcome
from services.scoring.domain.definitions import Definition, definition_of
from services.scoring.domain.rows import AlertRow
from services.scoring.domain.snapshot import Snapshot
from services.scoring.domain.step import Book, Setting
from services.scoring.domain.verdicts import acknowledge, judge
from services.scoring.rulebook import Edition, Rulebook
from services.scoring.store import SqlStore
from shared.clock import Clock
from shared.codec import decode, encode
from shared.definitions import DefinitionsFeed
from shared.errors import Conflict, InvalidField, NotFound, Poison, Retryable
from shared.events import DefinitionPublished
from shared.log.port import Log, Outgoing
from shared.topics import DEFINITIONS

MOVES_MAX = 10
LEAD_MS = 5_000
"""A version takes effect at least so far ahead, so that every worker has read it by then."""
EFFECTIVE_MS_MAX = 10 * 366 * 86_400_000
"""And at most so far: later is a typing error, and would keep every further version waiting."""

Word = Callable[[Decision, Snapshot, Definition], Outcome]


@dataclass(slots=True)
class Verdicts:
    """A person's word on alerts. `wake`: relay the outbox now · `tally` counts like the step's."""

    store: SqlStore
    clock: Clock
    setting: Callable[[], Setting]
    wake: Callable[[], None]
    tally: Tally = field(default_factory=Tally)

    async def acknowledge(self, workspace: str, alert_id: bytes) -> AlertRow:
        """A person takes care of it. Raises NotFound, Conflict for one too old to change."""
        at = self.clock.now_ms()
        return await self._say(workspace, alert_id, lambda *state: acknowledge(state[0], alert_id, at, *state[1:]))

    async def judge(self, workspace: str, alert_id: bytes, verdict: str) -> AlertRow:
        """A person says what it was. Raises NotFound, Conflict for one that was judged already or is too old."""
        at = self.clock.now_ms()
        return await self._say(workspace, alert_id, lambda *state: judge(state[0], alert_id, verdict, at, *state[1:]))

    async def _say(self, workspace: str, alert_id: bytes, word: Word) -> AlertRow:
        for _ in range(MOVES_MAX):
            row = await self.find(workspace, alert_id)
            try:
                await self._decide(row, word)
                self.wake()
                return await self.find(workspace, alert_id)
            except InvalidField as error:
                if error.code == "already_judged":
                    raise Conflict(error.reason) from None
                raise
            except NotFound:
                if (await self.find(workspace, alert_id)).customer == row.customer:
                    raise Conflict("this alert was closed long ago and is not changed any more") from None
        raise Retryable("this alert moves between customers right now")

    async def find(self, workspace: str, alert_id: bytes) -> AlertRow:
        """The alert as it is. Raises NotFound."""
        async with self.store.database.snapshot() as connection:
            row = await reading.alert(connection, workspace, alert_id)
        if row is None:
            raise NotFound("no such alert")
        return row

    async def _decide(self, row: AlertRow, word: Word) -> None:
        def tell(book: Book) -> None:
            book.apply(row.customer, word)

        async with self.store.transaction() as transaction:
            book = await told(transaction, self.setting(), {row.customer: row.workspace}, (row.id,), tell, self.tally)
            await write(transaction, book)


@dataclass(slots=True)
class Publishing:
    """New versions of what decides, one at a time."""

    log: Log
    feed: DefinitionsFeed
    clock: Clock
    rulebook: Rulebook
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def publish(
        self, workspace: str, rules: dict[str, Any] | None, model: dict[str, Any] | None, effective_at: int | None
    ) -> Edition:
        """Append the next version and return it as read back.

        Raises InvalidField for what does not compile or takes effect too soon, Conflict when somebody else was first,
        and what appending raises.
        """
        async with self.lock:
            now, newest = self.clock.now_ms(), self.newest(workspace)
            at = max(now + LEAD_MS, newest.effective_at) if effective_at is None else effective_at
            _check_time(at, now, newest.effective_at)
            fact = DefinitionPublished(
                workspace,
                newest.version + 1,
                at,
                newest.rules if rules is None else rules,
                newest.model if model is None else model,
            )
            definition_of(fact)
            [position] = await self.log.append(DEFINITIONS, [Outgoing(0, _bytes_of(fact))])
            if not await self.feed.reached(position):
                raise Retryable("the version is kept, but not read back yet; look at GET /v1/definitions")
        for edition in self.rulebook.editions(workspace):
            if edition.fact == fact:
                if edition.refused:
                    raise Conflict("another version was published at the same moment; look and publish again")
                return edition
        raise Retryable("the version is kept, but not read back yet; look at GET /v1/definitions")

    def newest(self, workspace: str) -> DefinitionPublished:
        """The last one in use; versions count on from the greatest number ever published."""
        editions = self.rulebook.editions(workspace)
        used = [edition.fact for edition in editions if not edition.refused][-1]
        return msgspec.structs.replace(used, version=max(edition.fact.version for edition in editions))


def _check_time(at: int, now: int, newest: int) -> None:
    if at < now + LEAD_MS:
        raise InvalidField("effective_at", "is at least 5 seconds ahead, so that everybody has read it by then")
    if at < newest:
        raise InvalidField("effective_at", "is not before that of the newest version")
    if at > now + EFFECTIVE_MS_MAX:
        raise InvalidField("effective_at", "is at most ten years ahead")


def _bytes_of(fact: DefinitionPublished) -> bytes:
    """The fact's bytes, proven to come back. Raises InvalidField for values that cannot be kept."""
    try:
        data = encode(fact)
        if decode(data) == fact:
            return data
    except (ValueError, TypeError, OverflowError, RecursionError, Poison):
        pass
    raise InvalidField("rules", "holds a value that cannot be kept: a number over 64 bits, or nesting too deep")
