"""The scoring step: what partitions bring of profile changes, or what fell due, in one transaction (design §4, §5, §7).

The shell of `domain.step`: it locks what the Book needs and writes what the Book says. It decides nothing itself.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from services.scoring.domain.rows import AlertRow
from services.scoring.domain.step import Book, Change, Counts, Rules, Setting, Wanted
from services.scoring.domain.watermark import Heard
from services.scoring.ports import FIRST_ARMED, Armed, Store, Transaction
from shared.checkpoint import Claim
from shared.clock import Clock
from shared.codec import Unknown, decode
from shared.errors import Conflict, NewerVersion, Poison
from shared.events import REPUBLISHING, CustomerAbsorbed, Fact, ImportPassed, ProfileChanged, RepublishPassed
from shared.lane import Portion
from shared.log.port import Batch
from shared.topics import PROFILE_CHANGES

ATTEMPTS_MAX = 100
PAGE = 250
PAGES_A_TURN, PAGE_AFTER_FOLD = 1, 50
"""A wave of due times is taken in short turns: new facts of its partition, and the relay, go in between."""
DEFINITIONS_AGE_SECONDS_MAX = 2.0
DUE_HINT_SECONDS = 1.0
"""How long a remembered earliest due time is believed: a join from another partition may have armed somebody sooner."""


@dataclass(slots=True)
class Tally:
    """What the step counts beside the Book's counts; shown as metrics."""

    counts: Counts = field(default_factory=Counts)
    fired: int = 0
    released: int = 0
    unknown: int = 0
    undecodable: int = 0
    definitions_too_old: int = 0
    restarts: int = 0


class Read(NamedTuple):
    """What was read of a partition: the claim that stands, facts by position, the claim once they are folded, and how
    far silence may be decided there (None: not at all).
    """

    claim: Claim
    facts: dict[int, Fact]
    moved: Claim
    watermark: int | None

    @property
    def partition(self) -> int:
        """Of profile-changes."""
        return self.claim.partition


class At(NamedTuple):
    """A change, where it lies, and how far silence may be decided there."""

    partition: int
    position: int
    watermark: int | None
    fact: Change


@dataclass(slots=True)
class ChangesProjection:
    """Folds `profile-changes` into decisions, and fires what is due.

    `rules` of a workspace · `rules_age_seconds`: how old the reading of `definitions` is · `in_force`: workspace →
    version of the definition in force at an instant.
    """

    store: Store
    clock: Clock
    partitions: int
    rules: Callable[[str], Rules]
    rules_age_seconds: Callable[[], float]
    heard: Heard
    in_force: Callable[[int], Mapping[str, int]] = lambda at: {}
    tally: Tally = field(default_factory=Tally)
    topic: str = PROFILE_CHANGES
    _epochs: dict[int, int] = field(default_factory=dict)
    _rearmed: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    _rearming: dict[tuple[int, str], tuple[int, int, Armed]] = field(default_factory=dict)
    _releasing: dict[int, bytes] = field(default_factory=dict)
    _hints: dict[int, tuple[float, int | None]] = field(default_factory=dict)
    _unfinished: set[int] = field(default_factory=set)
    _just_folded: set[int] = field(default_factory=set)

    # --- changes ----------------------------------------------------------------------------------------------

    async def fold(self, claim: Claim, batch: Batch) -> Claim:
        """Fold a batch of one partition; returns the moved claim. Raises Fenced, Stopped."""
        return (await self.fold_together([Portion(claim, batch)]))[0]

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        """Fold batches of several partitions in one transaction; returns the moved claims. Raises Fenced, Stopped."""
        for portion in portions:
            self._notice(portion.claim)
        read = [self._read(claim, batch) for claim, batch in portions]
        changes = [
            At(one.partition, position, one.watermark, fact)
            for one in read
            for position, fact in one.facts.items()
            if isinstance(fact, Change)
        ]
        async with self.store.transaction() as transaction:
            moved = [await transaction.move(one.claim, one.moved) for one in read]
            for one in read:
                await self._note_passed(transaction, one)
            book = await self._take(transaction, changes) if changes else None
        self._look_again(read, book)
        for claim in moved:
            self._just_folded.add(claim.partition)
            self.heard.folded(claim.partition, claim.position)
        return moved

    async def _note_passed(self, transaction: Transaction, read: Read) -> None:
        for fact in read.facts.values():
            if isinstance(fact, ImportPassed):
                await transaction.note_import(read.partition, fact.import_id, fact.partition, fact.workspace)
            if isinstance(fact, RepublishPassed):  # told again by every partition at once
                for one in range(self.partitions):
                    await transaction.note_import(read.partition, REPUBLISHING + fact.id, one, "")

    def _watermark(self, partition: int) -> int | None:
        """How far silence may be decided; not at all under definitions that were read too long ago."""
        watermark = self.heard.watermark(partition)
        if watermark is not None and self.rules_age_seconds() > DEFINITIONS_AGE_SECONDS_MAX:
            self.tally.definitions_too_old += 1
            return None
        return watermark

    def _notice(self, claim: Claim) -> None:
        """A new epoch is a new owner: what was heard before does not count."""
        if self._epochs.get(claim.partition) != claim.epoch:
            self._epochs[claim.partition] = claim.epoch
            self._hints.pop(claim.partition, None)
            self.heard.acquired(claim.partition, claim.position)

    def _read(self, claim: Claim, batch: Batch) -> Read:
        """Facts by position, up to the first one this code is too old for; that one stops the partition when first."""
        watermark = self._watermark(claim.partition)
        facts: dict[int, Fact] = {}
        for index, record in enumerate(batch.records):
            try:
                fact = decode(record.value)
            except Poison:
                self.tally.undecodable += 1
                continue
            except NewerVersion:
                if index == 0:
                    raise
                moved = claim.past(batch.records[:index], record.position)
                return Read(claim, facts, moved, watermark)
            if isinstance(fact, Unknown):
                self.tally.unknown += 1
            else:
                facts[record.position] = fact
        return Read(claim, facts, claim.past(batch.records, batch.next_position), watermark)

    async def _take(self, transaction: Transaction, said: Sequence[At]) -> Book:
        changes = [one.fact for one in said]
        customers = {fact.customer: fact.workspace for fact in changes}
        customers |= {fact.into: fact.workspace for fact in changes if isinstance(fact, CustomerAbsorbed)}
        moving = [fact for fact in changes if isinstance(fact, ProfileChanged | CustomerAbsorbed)]
        customers |= {gone.into: fact.workspace for fact in moving for gone in fact.departed if gone.into}
        leaves = {place.leaf for fact in changes if isinstance(fact, ProfileChanged) for place in fact.leaves}
        found = await transaction.alerts_of_leaves(leaves) if leaves else []
        donors = {leaf: list(rows) for leaf, rows in groupby(sorted(found, key=_leaf_and_id), key=lambda row: row.leaf)}
        customers = {row.customer: row.workspace for row in found} | customers

        def tell(book: Book) -> None:
            for one in said:
                book.read = one.partition, one.position
                book.change(one.fact, one.watermark, donors)

        return await self._step(transaction, customers, [row.id for row in found], tell)

    # --- time -------------------------------------------------------------------------------------------------

    async def turn(self, claim: Claim) -> Claim:
        """Fire what is due below the watermark, release finished imports, arm anew after a new definition.

        At most PAGES_A_TURN pages of it; `unfinished` says whether there is more. The turn that follows a fold takes
        little, and leaves a wave to the turns that are being taken for it: else every new fact waits for a page.
        """
        self._notice(claim)
        follows_a_fold = claim.partition in self._just_folded
        self._just_folded.discard(claim.partition)
        if follows_a_fold and claim.partition in self._unfinished:
            return claim
        watermark = self._watermark(claim.partition)
        if watermark is None or self._nothing_due(claim.partition, watermark):
            self._unfinished.discard(claim.partition)
            return claim
        left, size = PAGES_A_TURN, PAGE_AFTER_FOLD if follows_a_fold else PAGE
        for part in (self._fire, self._release, self._rearm):
            claim, left = await part(claim, watermark, left, size)
            if not left:
                self._unfinished.add(claim.partition)
                self._hints.pop(claim.partition, None)
                return claim
        self._unfinished.discard(claim.partition)
        next_due = await self.store.next_due(claim.partition)
        self._hints[claim.partition] = self.clock.monotonic() + DUE_HINT_SECONDS, next_due
        return claim

    def unfinished(self, partition: int) -> bool:
        """Whether the last turn of a partition left something to be done at once."""
        return partition in self._unfinished

    def _nothing_due(self, partition: int, watermark: int) -> bool:
        """Whether a fresh enough look at the earliest due time says there is nothing to do."""
        until, next_due = self._hints.get(partition, (0.0, None))
        return self.clock.monotonic() < until and (next_due is None or next_due >= watermark)

    def _look_again(self, read: Sequence[Read], book: Book | None) -> None:
        """Keep the remembered due times right after a fold, or forget them where an import may have to be released."""
        rows = book.rows() if book is not None else []
        is_held = any(row.decision.held for row in rows)
        for one in read:
            if is_held or any(isinstance(fact, ImportPassed | RepublishPassed) for fact in one.facts.values()):
                self._hints.pop(one.partition, None)
        for row in rows:
            hint = self._hints.get(row.partition)
            if hint is not None and row.due_at is not None and (hint[1] is None or row.due_at < hint[1]):
                self._hints[row.partition] = hint[0], row.due_at

    async def _fire(self, claim: Claim, watermark: int, left: int, size: int) -> tuple[Claim, int]:
        while left and (due := await self.store.due(claim.partition, watermark, size)):
            claim = await self._page(claim, due, lambda book, customer: book.pass_time(customer, watermark))
            self.tally.fired += len(due)
            left -= len(due) == size  # what is not full is the last
        return claim, left

    async def _release(self, claim: Claim, watermark: int, left: int, size: int) -> tuple[Claim, int]:
        passed = await self.store.imports_passed(claim.partition)
        finished = [import_id for import_id, parts in sorted(passed.items()) if parts == self.partitions]
        while left and finished:
            after = self._releasing.pop(claim.partition, b"")
            page = await self.store.held(claim.partition, after, size)
            if not page:
                break
            claim = await self._page(claim, page, lambda book, customer: book.release(customer, finished, watermark))
            self.tally.released += len(page)
            self._releasing[claim.partition] = page[-1][0]
            left -= len(page) == size
        return claim, left

    async def _rearm(self, claim: Claim, watermark: int, left: int, size: int) -> tuple[Claim, int]:
        """Arm customers of an older definition anew, page by page; once per version and time we owned the partition.

        Each is asked for once: what cannot be armed anew (parked, part of another) must not hold up the others.
        """
        # A version that takes effect at the watermark itself is not switched to yet, so nobody can be armed with it.
        for workspace, version in self.in_force(watermark - 1).items():
            place = claim.partition, workspace
            while left and self._rearmed.get(place) != (claim.epoch, version):
                after = self._rearmed_to(place, claim.epoch, version)
                found = await self.store.armed_before(claim.partition, workspace, version, after, size)
                if not found:
                    self._rearmed[place] = claim.epoch, version
                    self._rearming.pop(place, None)
                    break
                pairs = [(customer, workspace) for _, customer in found]
                claim = await self._page(claim, pairs, lambda book, customer: book.pass_time(customer, watermark))
                self._rearming[place] = claim.epoch, version, found[-1]
                left -= len(found) == size
        return claim, left

    def _rearmed_to(self, place: tuple[int, str], epoch: int, version: int) -> Armed:
        """Where arming anew goes on: from the start for another version, or as another owner."""
        was_epoch, was_version, after = self._rearming.get(place, (0, 0, FIRST_ARMED))
        return after if (was_epoch, was_version) == (epoch, version) else FIRST_ARMED

    async def _page(
        self, claim: Claim, page: Sequence[tuple[bytes, str]], decide: Callable[[Book, bytes], None]
    ) -> Claim:
        """Decide a page of customers in one fenced transaction; each row is read again under its lock."""

        def tell(book: Book) -> None:
            book.read = claim.partition, claim.position
            for customer, _ in page:
                decide(book, customer)

        async with self.store.transaction() as transaction:
            moved = await transaction.move(claim, claim)
            await self._step(transaction, dict(page), (), tell)
        return moved

    # --- locking, and what is written ---------------------------------------------------------------------------

    async def _step(
        self,
        transaction: Transaction,
        customers: Mapping[bytes, str],
        alerts: Collection[bytes],
        tell: Callable[[Book], None],
    ) -> Book:
        book = await told(transaction, self.setting(), customers, alerts, tell, self.tally)
        await write(transaction, book)
        for name in Counts.__struct_fields__:
            setattr(self.tally.counts, name, getattr(self.tally.counts, name) + getattr(book.counts, name))
        return book

    def setting(self) -> Setting:
        """What decisions are taken under now."""
        return Setting(self.rules, self.clock.now_ms(), self.partitions)


async def told(
    transaction: Transaction,
    setting: Setting,
    customers: Mapping[bytes, str],
    alerts: Collection[bytes],
    tell: Callable[[Book], None],
    tally: Tally,
) -> Book:
    """A Book with everything it needs under lock, told, its alerts written; starts over whenever it wants more."""
    wanted, ids = dict(customers), set(alerts)
    for _ in range(ATTEMPTS_MAX):
        try:
            async with transaction.attempt():
                rows = await transaction.lock(wanted)
                ids |= {alert.id for row in rows.values() for alert in row.decision.alerts}
                book = Book(setting, rows, await transaction.lock_alerts(ids) if ids else {})
                tell(book)
                await _save_alerts(transaction, book)
                return book
        except Wanted as more:
            wanted = dict.fromkeys(more.customers, "") | wanted
            ids |= more.alerts
        tally.restarts += 1
    raise Conflict(f"no steady view of {len(wanted)} customers after {ATTEMPTS_MAX} attempts")


async def _save_alerts(transaction: Transaction, book: Book) -> None:
    """Write alerts, new ones only where nobody holds their id: else Wanted, and the Book is told again knowing it.

    All new ids are asked for at once. A wave of alerts would else start over for each of them.
    """
    if book.unread:
        held = await transaction.lock_alerts(book.unread)
        if found := [alert_id for alert_id, row in held.items() if row is not None]:
            raise Wanted(alerts=found)
    await transaction.save_alerts(book.alerts())
    await transaction.blank_alerts(book.erased)


async def write(transaction: Transaction, book: Book) -> None:
    """Write what a Book changed beside its alerts, which `told` has written."""
    await transaction.save_decisions(book.rows())
    await transaction.send(book.parcels)


def _leaf_and_id(row: AlertRow) -> tuple[bytes, bytes]:
    return row.leaf, row.id
