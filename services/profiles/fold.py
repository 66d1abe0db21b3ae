"""The profiles step: what partitions bring of touchpoints, in one transaction (design §5-§7).

The shell of `domain.step`: it decodes, asks the database which touchpoints are new, locks what the World needs, and
writes what the World says. It decides nothing itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from services.profiles.domain.identity import Assertion, assertion, holding
from services.profiles.domain.rows import (
    EdgeRow,
    LeafRow,
    ParkedRow,
    SealingUse,
    TouchpointKey,
    TouchpointRow,
)
from services.profiles.domain.step import World
from services.profiles.domain.terms import Command, Fresh, House, Streak, Wanted
from services.profiles.domain.timeline import add_rows
from services.profiles.keeping import Logged, Open, Told, keep_personal, sealing_uses
from services.profiles.ports import Store, Transaction
from shared.checkpoint import NEVER, Claim
from shared.codec import Unknown, decode
from shared.errors import Conflict, Fenced, NewerVersion, Poison
from shared.events import (
    ErasureRequested,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    LeafErased,
    LeafReinstated,
    TouchpointsRecorded,
)
from shared.lane import Portion
from shared.log.port import Batch
from shared.topics import TOUCHPOINTS

ATTEMPTS_MAX = 100


@dataclass(slots=True)
class Tally:
    """What the step counts; shown as metrics."""

    touchpoints: int = 0
    duplicates: int = 0
    dropped: int = 0  # of erased leaves
    parked: int = 0
    unknown: int = 0  # facts of kinds this code does not know
    late_stamps: int = 0  # records that surfaced behind the frontier
    spread: int = 0  # changes recorded on another partition than the customer's own
    restarts: int = 0  # locks taken anew


@dataclass(slots=True)
class TouchpointsProjection:
    """Folds `touchpoints` into leaves, customers and their changes.

    `skipped`: (partition, position, place) of touchpoints that do not count here · `noted`: (workspace, sealing key,
    partition) → its latest use in the database.
    """

    store: Store
    house: House
    open_sealed: Open
    tally: Tally = field(default_factory=Tally)
    streaks: dict[int, Streak] = field(default_factory=dict)
    topic: str = TOUCHPOINTS
    skipped: Collection[tuple[int, int, int]] = frozenset()
    noted: dict[tuple[str, str, int], int] = field(default_factory=dict)

    async def fold(self, claim: Claim, batch: Batch) -> Claim:
        """Fold a batch of one partition; returns the moved claim. Raises Fenced, Stopped."""
        [moved] = await self.fold_together([Portion(claim, batch)])
        return await self.turn(moved)

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        """Fold batches of several partitions in one transaction; returns the moved claims. Raises Fenced, Stopped."""
        read = [self._decoded(claim, batch) for claim, batch in portions]
        step = Step(self, {claim.partition: self._streak(claim.partition) for claim, _ in portions})
        runs = [step.rowed(run) for run in _runs([logged for one in read for logged in one.logged])]
        parked = [row for one in read for row in one.parked]
        async with self.store.transaction() as transaction:
            moved = [await transaction.move(one.claim, one.moved) for one in read]
            for run in runs:
                await step.fold(transaction, run)
            await transaction.park([*parked, *step.parked])
        self.streaks |= step.streaks
        self.noted.update((use[:3], use.last_at) for use in step.uses)
        self._count(step.tally, len(parked))
        return moved

    async def turn(self, claim: Claim) -> Claim:
        """Profiles have no timers; a partition in which nothing can be folded any more stops. Raises Stopped."""
        self._streak(claim.partition).check()
        return claim

    def _streak(self, partition: int) -> Streak:
        return msgspec.structs.replace(self.streaks.get(partition, Streak()))

    def _decoded(self, claim: Claim, batch: Batch) -> "Read":
        """Facts of the batch up to the first one this code is too old for; that one stops the partition when first."""
        logged: list[Logged] = []
        parked: list[ParkedRow] = []
        for index, record in enumerate(batch.records):
            recorded_at = claim.recorded_at(record)
            self.tally.late_stamps += recorded_at != record.recorded_at
            try:
                fact = decode(record.value)
            except Poison as error:
                at = (claim.topic, claim.partition, record.position)
                parked.append(ParkedRow(*at, -1, "", "", str(error), record.value, recorded_at))
                continue
            except NewerVersion:
                if index == 0:
                    raise
                return Read(claim, logged, parked, claim.past(batch.records[:index], record.position))
            if isinstance(fact, Unknown):
                self.tally.unknown += 1
            else:
                logged.append(Logged(claim.partition, record, recorded_at, fact))
        return Read(claim, logged, parked, claim.past(batch.records, batch.next_position))

    def _count(self, seen: Tally, records_parked: int) -> None:
        for name in Tally.__slots__:
            setattr(self.tally, name, getattr(self.tally, name) + getattr(seen, name))
        self.tally.parked += records_parked


class Read(NamedTuple):
    """What was read of a partition: the claim that stands, facts, what is none, and the claim once they are folded."""

    claim: Claim
    logged: list[Logged]
    parked: list[ParkedRow]
    moved: Claim


class Run(NamedTuple):
    """Consecutive touchpoints records with the rows of their touchpoints, or one command."""

    first: Logged
    rows: list[TouchpointRow]
    items: list[tuple[Logged, TouchpointsRecorded, list[Fresh]]]


class Step:
    """One transaction's work. `streaks`: of its partitions, as they are before and after."""

    def __init__(self, projection: TouchpointsProjection, streaks: dict[int, Streak]) -> None:
        self.tally = Tally()
        self.parked: list[ParkedRow] = []
        self.uses: list[SealingUse] = []
        self.streaks = streaks
        self._projection = projection

    def rowed(self, run: Sequence[Logged]) -> Run:
        """A run with its rows, made before the transaction begins: other lanes have the database meanwhile."""
        rows: dict[TouchpointKey, TouchpointRow] = {}
        items: list[tuple[Logged, TouchpointsRecorded, list[Fresh]]] = []
        skipped = self._projection.skipped
        for logged in run:
            if not isinstance(fact := logged.fact, TouchpointsRecorded):
                break  # a command stands alone in its run
            at = logged.partition, logged.record.position
            left_out = {place for place in range(len(fact.touchpoints)) if (*at, place) in skipped} if skipped else ()
            mine = add_rows(rows, fact, at, logged.recorded_at, left_out)
            counted = len(fact.touchpoints) - len(left_out)
            self.tally.touchpoints += counted
            self.tally.duplicates += counted - len(mine)
            items.append((logged, fact, mine))
        return Run(run[0], list(rows.values()), items)

    async def fold(self, transaction: Transaction, run: Run) -> None:
        """Fold one run."""
        first = run.first.fact
        if isinstance(first, TouchpointsRecorded):
            await self._fold_touchpoints(transaction, run)
        elif isinstance(first, Command):
            await self._carry_out(transaction, run.first, first)
        else:
            self.tally.unknown += 1

    # --- touchpoints ----------------------------------------------------------------------------------------

    async def _fold_touchpoints(self, transaction: Transaction, run: Run) -> None:
        told = await self._remember(transaction, run)
        if not told:
            return
        leaves = {leaf: one.fact.workspace for one in told for item in one.fresh for leaf in item.touchpoint.leaves}
        ties = [said for one in told for said in one.said]

        def tell(world: World) -> None:
            trial = {partition: msgspec.structs.replace(streak) for partition, streak in self.streaks.items()}
            world.preview(ties)
            for one in told:
                at = (TOUCHPOINTS, one.logged.partition, one.logged.record.position)
                world.record(one.fact, one.fresh, one.said, one.logged.recorded_at, at, trial[one.logged.partition])
            self.streaks = trial

        world, rows = await self._world(transaction, leaves, [said.pair for said in ties], tell)
        outcome, opened = world.outcome, self._projection.open_sealed
        void = {*outcome.unseen, *outcome.blanked}
        kept = await keep_personal(transaction, opened, told, rows, void)
        self.parked += kept.parked
        await self._note_sealing(transaction, told)
        await self._write(transaction, world, kept.known)

    async def _remember(self, transaction: Transaction, run: Run) -> list[Told]:
        """Insert what was not seen before; first in log order wins, in the batch as in the table."""
        new = await transaction.remember(run.rows)
        self.tally.duplicates += len(run.rows) - len(new)
        told = run.items
        if len(new) < len(run.rows):
            told = [(logged, fact, [item for item in mine if item.key in new]) for logged, fact, mine in told]
        return [Told(logged, fact, fresh, list(_ties(fresh))) for logged, fact, fresh in told if fresh]

    async def _note_sealing(self, transaction: Transaction, told: Sequence[Told]) -> None:
        """Note the use of sealing keys, once a second."""
        noted = self._projection.noted
        new = [use for use in sealing_uses(told) if noted.get(use[:3], 0) < use.last_at]
        if new:
            await transaction.note_sealing(new)
            self.uses += new

    # --- commands -------------------------------------------------------------------------------------------

    async def _carry_out(self, transaction: Transaction, logged: Logged, fact: Command) -> None:
        leaves: dict[bytes, str] = {}
        pairs: list[tuple[bytes, bytes]] = []
        match fact:
            case IdentityLinked() | IdentityUnlinked():
                leaves = {fact.a: fact.workspace, fact.b: fact.workspace}
                pairs = [(fact.a, fact.b)]
            case ErasureRequested() | LeafErased() | LeafReinstated():
                leaves = {fact.leaf: fact.workspace}
            case ImportFinished():
                pass

        def tell(world: World) -> None:
            world.command(fact, logged.recorded_at, logged.partition)

        muted = {fact.leaf: logged.recorded_at} if isinstance(fact, LeafReinstated) else None
        world, _ = await self._world(transaction, leaves, pairs, tell, muted)
        await self._write(transaction, world, frozenset())

    # --- locking, and what is written -----------------------------------------------------------------------

    async def _world(
        self,
        transaction: Transaction,
        leaves: Mapping[bytes, str],
        pairs: Sequence[tuple[bytes, bytes]],
        tell: Callable[[World], None],
        muted: Mapping[bytes, int] | None = None,
    ) -> tuple[World, dict[bytes, LeafRow]]:
        """Lock, tell the World, and start over with more whenever it wants more. Each start gives the locks back."""
        wanted = _Wants(dict(leaves), {leaf for pair in pairs for leaf in pair}, set(), muted or {})
        for _ in range(ATTEMPTS_MAX):
            try:
                async with transaction.attempt():
                    world, rows = await _load(transaction, self._projection.house, wanted)
                    tell(world)
                    return world, rows
            except Wanted as more:
                wanted.add(more)
            except Fenced:
                raise
            except Conflict:
                pass  # a root moved while we waited for it
            self.tally.restarts += 1
        raise Conflict(f"no steady view of {len(wanted.leaves)} leaves after {ATTEMPTS_MAX} attempts")

    async def _write(self, transaction: Transaction, world: World, known: Collection[bytes]) -> None:
        outcome = world.outcome
        rows = world.mark_known(known)
        shown, gone = world.listing(rows)
        for erasure in outcome.erasures:
            await transaction.note_erasure(erasure)
        for leaf, recorded_at, identity in outcome.blank_leaves:
            await transaction.blank_leaf(leaf, recorded_at, identity)
        await transaction.forget(outcome.unseen)
        await transaction.blank(outcome.blanked)
        await transaction.save_leaves(rows)
        await transaction.add_edges(outcome.edges)
        await transaction.list_customers(shown, gone, self._projection.house.partitions)
        await transaction.send(outcome.parcels)
        self.parked += outcome.parked
        self.tally.parked += len(outcome.parked)
        self.tally.dropped += len(outcome.blanked)
        self.tally.spread += outcome.spread


@dataclass(slots=True)
class _Wants:
    """Everything one run needs under lock, growing from attempt to attempt."""

    leaves: dict[bytes, str]  # leaf → workspace ("" where the row exists for certain)
    tied: set[bytes]  # leaves whose edges are needed
    customers: set[bytes]  # roots whose members are needed
    muted: Mapping[bytes, int]  # leaves being reinstated: what was recorded about them until then says nothing

    def add(self, more: Wanted) -> None:
        for leaf in more.leaves | more.customers:
            self.leaves.setdefault(leaf, "")
        self.tied |= more.leaves
        self.customers |= more.customers


async def _load(transaction: Transaction, house: House, wanted: _Wants) -> tuple[World, dict[bytes, LeafRow]]:
    rows = await transaction.lock(wanted.leaves) if wanted.leaves else {}
    members: dict[bytes, frozenset[bytes]] = {}
    if wanted.customers:
        found = await transaction.members(wanted.customers)
        rows = {row.leaf: row for row in found} | rows
        members = {root: frozenset(row.leaf for row in found if row.root == root) for root in wanted.customers}
    held: dict[bytes, list[Assertion]] = {leaf: [] for leaf in wanted.tied}
    if wanted.tied:
        edges = await transaction.edges(wanted.tied)
        for said in holding(edge.said for edge in edges if _counts(edge, wanted.muted)).values():
            for leaf in said.pair:
                if leaf in held:
                    held[leaf].append(said)
    return World(house, rows, members, {leaf: tuple(found) for leaf, found in held.items()}), rows


def _counts(edge: EdgeRow, muted: Mapping[bytes, int]) -> bool:
    return all(edge.recorded_at > muted.get(leaf, NEVER) for leaf in edge.said.pair)


def _ties(fresh: Sequence[Fresh]) -> Iterator[Assertion]:
    """The automatic ties of touchpoints: each other identifier to the one the touchpoint belongs to."""
    for item in fresh:
        leaves = item.touchpoint.leaves
        if len(leaves) == 1:
            continue  # nearly all of them
        owner, *others = leaves
        for other in others:
            if other != owner:
                at, identity = item.touchpoint.occurred_at, item.touchpoint.id
                yield assertion(owner, other, tie=True, alias=False, operator=False, occurred_at=at, id=identity)


def _runs(logged: Sequence[Logged]) -> Iterator[list[Logged]]:
    """Cut the batch at commands: what stands before one is written before it is carried out."""
    run: list[Logged] = []
    for one in logged:
        if isinstance(one.fact, TouchpointsRecorded):
            run.append(one)
            continue
        if run:
            yield run
        yield [one]
        run = []
    if run:
        yield run
