"""The simulated house: a clock, a log, two databases, two seats of each service, and what may happen to them.

Every action is a name and a number; the number decides the rest by the state it meets, so that any part of a schedule
is a schedule, and a failing one can be made smaller.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from random import Random
from typing import NamedTuple

from services.scoring.decide import told, write
from services.scoring.domain.step import Book
from services.scoring.domain.verdicts import acknowledge, judge
from shared.clock import FrozenClock
from shared.codec import encode
from shared.errors import Rejected, Retryable
from shared.events import (
    PROVIDER,
    PUBLIC,
    SECRET,
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    LeafReinstated,
    Touchpoint,
)
from shared.ids import partition_of
from shared.log.port import Outgoing
from shared.topics import TOUCHPOINTS, WATERMARKS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.simulation.driving import Crashed, run
from tests.simulation.losing import lose, tell_again
from tests.simulation.memory_database import Fault, MemoryDatabase
from tests.simulation.memory_log import FAILURES, MemoryLog
from tests.simulation.memory_profiles import MemoryProfiles
from tests.simulation.memory_scoring import MemoryScoring
from tests.simulation.rules import BY_MODEL, FIXED, Definitions
from tests.simulation.seats import ProfilesSeat, ScoringSeat, Seat

SEATS = 2
SOURCES = (("shop", SECRET), ("payments", PROVIDER), ("web", PUBLIC))


class Shape(NamedTuple):
    """A tiny house."""

    partitions: int
    leaves: tuple[bytes, ...]
    silence: list[str]


class Action(NamedTuple):
    """What happens next. `number` seeds every choice inside."""

    name: str
    number: int


def shape_of(dice: Random) -> Shape:
    """2-4 partitions, 2-6 leaves of random ranks, one of the two silence rules."""
    ranks = [dice.randrange(5) for _ in range(dice.randint(2, 6))]
    leaves = tuple(a_leaf(f"l{n}", rank) for n, rank in enumerate(ranks))
    return Shape(dice.randint(2, 4), leaves, dice.choice([FIXED, FIXED, BY_MODEL]))


class Simulation:
    """One house under one schedule."""

    profiles_seat = ProfilesSeat
    scoring_seat = ScoringSeat
    profiles_database = MemoryProfiles
    scoring_database = MemoryScoring

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.clock = FrozenClock(NOON_MS)
        self.log = MemoryLog(self.clock, shape.partitions, Random(seed))
        self.profiles = self.profiles_database(shape.partitions)
        self.scoring = self.scoring_database(shape.partitions)
        self.definitions = Definitions(self.clock)
        self.definitions.publish(shape.silence, 0)
        self.folding: list[ProfilesSeat] = [self.new_profiles() for _ in range(SEATS)]
        self.deciding: list[ScoringSeat] = [self.new_scoring() for _ in range(SEATS)]
        self.acked: list[Outgoing] = []
        self.sent: list[Outgoing] = []
        self.imports: list[str] = []
        self.stopped: set[int] = set()
        self.watcher_forgets: Callable[[], None] = lambda: None
        self._share_out()

    def _share_out(self) -> None:
        """Each seat begins with its part of the partitions."""
        for partition in range(self.shape.partitions):
            self.folding[partition % SEATS].acquire(partition)
            self.deciding[partition % SEATS].acquire(partition)

    def new_profiles(self) -> ProfilesSeat:
        """A fresh process."""
        return self.profiles_seat(self.log, self.clock, self.shape.partitions, self.profiles)

    def new_scoring(self) -> ScoringSeat:
        """A fresh process; it may begin to hear anywhere, since what was stated stays true."""
        heard_from = self.log.ends(WATERMARKS)[0]
        return self.scoring_seat(
            self.log, self.clock, self.shape.partitions, self.scoring, self.definitions, max(0, heard_from - 3)
        )

    # --- actions ----------------------------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        """Let one thing happen; a crash ends the process it happens to, or only its claims."""
        dice = Random(action.number)
        seat = dice.randrange(SEATS)
        try:
            getattr(self, "_" + action.name)(dice, seat)
        except Crashed:
            if dice.random() < 0.7:
                self._die(action.name, seat)

    def _die(self, name: str, seat: int) -> None:
        if name in ("fold", "acquire", "relay", "flow"):
            self.folding[seat].die()
            self.folding[seat] = self.new_profiles()
        elif name != "verdict":
            self.deciding[seat].die()
            self.deciding[seat] = self.new_scoring()

    # what clients do

    def _touch(self, dice: Random, _: int, import_id: str = "") -> None:
        owner = dice.choice(self.shape.leaves[: dice.choice((2, 2, 6))])
        source, trust = dice.choice(SOURCES)
        found = [self._touchpoint(dice, owner) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        record = a_record(*found, source=source, trust=trust, received_at=self.clock.now_ms(), import_id=import_id)
        self.log.lag_ms = dice.choice((0,) * 12 + (1, 2_000))
        self._send([Outgoing(self._partition(owner), encode(record), owner)])
        self.log.lag_ms = 0

    def _touchpoint(self, dice: Random, owner: bytes) -> Touchpoint:
        now = self.clock.now_ms()
        at = now - dice.choice((0, 0, 0, 40, 3_000, 9_000, 25_000, 80_000))
        others = tuple(leaf for leaf in self.shape.leaves if leaf > owner and dice.random() < 0.2)
        leaves = (owner, *others)
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                key = dice.choice(("o1", "o2", "o3", f"o{now}-{dice.randrange(99)}"))
                return a_touchpoint("purchased", at=at, leaves=leaves, order_id=key, amount=5, currency="EUR")
            case 4:
                return a_touchpoint("refunded", at=at, leaves=leaves, order_id=dice.choice(("o1", "o2")))
            case 5:
                return a_touchpoint("complained", at=at, leaves=leaves)
            case 6:
                score = dice.choice((2, 10))
                return a_touchpoint("survey_answered", at=at, leaves=leaves, metric="nps", score=score)
            case _:
                return a_touchpoint("page_viewed", at=at, leaves=leaves)

    def _again(self, dice: Random, _: int) -> None:
        """The retry of something sent before, whole."""
        if self.sent:
            self._send([dice.choice(self.sent)])

    def _history(self, dice: Random, seat: int) -> None:
        if not self.imports:
            self.imports.append("i1")
        if self.imports[0] == "i1":
            self._touch(dice, seat, "i1")

    def _finish(self, dice: Random, seat: int) -> None:
        if self.imports == ["i1"] and self._command_all(ImportFinished("main", "i1", self.clock.now_ms())):
            self.imports = ["finished"]

    def _link(self, dice: Random, _: int) -> None:
        a, b = self._pair(dice)
        if a != b:
            alias, operator = dice.choice(((True, False), (True, True), (False, True)))
            at = self.clock.now_ms() - dice.choice((0, 0, 5_000))
            self._command(a, IdentityLinked("main", self.clock.new_id(), a, b, alias, operator, at))

    def _unlink(self, dice: Random, _: int) -> None:
        a, b = self._pair(dice)
        if a != b:
            at = self.clock.now_ms() - dice.choice((0, 0, 5_000))
            self._command(a, IdentityUnlinked("main", self.clock.new_id(), a, b, True, at))

    def _erase(self, dice: Random, _: int) -> None:
        leaf = dice.choice(self.shape.leaves)
        self._command(leaf, ErasureRequested("main", self.clock.new_id(), leaf, self.clock.now_ms()))

    def _reinstate(self, dice: Random, _: int) -> None:
        leaf = dice.choice(self.shape.leaves)
        self._command(leaf, LeafReinstated("main", self.clock.new_id(), leaf, self.clock.now_ms()))

    def _pair(self, dice: Random) -> tuple[bytes, bytes]:
        return dice.choice(self.shape.leaves), dice.choice(self.shape.leaves)

    def _command(self, leaf: bytes, fact: Fact) -> None:
        self._send([Outgoing(self._partition(leaf), encode(fact), leaf)])

    def _command_all(self, fact: Fact) -> bool:
        return self._send([Outgoing(p, encode(fact)) for p in range(self.shape.partitions)])

    def _send(self, records: list[Outgoing]) -> bool:
        self.sent += [record for record in records if record.key]
        try:
            run(self.log.append(TOUCHPOINTS, records))
        except Retryable:
            return False
        self.acked += [record for record in records if record.key]
        return True

    def _partition(self, leaf: bytes) -> int:
        return partition_of(leaf, self.shape.partitions)

    # what time and faults do

    def _tick(self, dice: Random, _: int) -> None:
        self.clock.advance(dice.choice((1, 1, 50, 700, 2_500, 12_000, 23_000)))

    def _stop(self, dice: Random, _: int) -> None:
        """A partition of touchpoints lags while the others go on; the next one lets it go on."""
        self.stopped = set() if self.stopped else {dice.randrange(self.shape.partitions)}

    def _crash_profiles(self, dice: Random, _: int) -> None:
        self._plan(self.profiles, dice)

    def _crash_scoring(self, dice: Random, _: int) -> None:
        self._plan(self.scoring, dice)

    def _plan(self, database: MemoryDatabase, dice: Random) -> None:
        database.fault = Fault(dice.randint(1, 14), after_commit=dice.random() < 0.3)

    def _conflict(self, dice: Random, _: int) -> None:
        self.profiles.conflicts_in = dice.randint(1, 3)

    def _fail_append(self, dice: Random, _: int) -> None:
        self.log.failure = dice.choice(FAILURES)

    # what profiles do

    def _acquire(self, dice: Random, seat: int) -> None:
        self.folding[seat].acquire(dice.randrange(self.shape.partitions))

    def _fold(self, dice: Random, seat: int) -> None:
        if dice.random() < 0.4:
            self._together(self.folding[seat], dice, self.stopped)
            return
        partition = dice.randrange(self.shape.partitions)
        if partition not in self.stopped:
            self._reach(self.folding[seat], partition)
            self.folding[seat].fold(partition, dice.choice((1, 2, 5, 50)))

    def _together(self, seat: Seat, dice: Random, stopped: Collection[int]) -> None:
        """What several partitions have goes into one step."""
        partitions = [partition for partition in range(self.shape.partitions) if partition not in stopped]
        for partition in partitions:
            self._reach(seat, partition)
        seat.fold_together(partitions, dice.choice((1, 2, 5, 50)))

    def _relay(self, dice: Random, seat: int) -> None:
        steps = dice.choice((1, 2, 3, 20))
        for _ in range(steps):
            self.folding[seat].step_relay(pulse=dice.random() < 0.8)

    def _reach(self, seat: Seat, partition: int) -> None:
        """A partition that nobody holds any more is taken by the seat that is asked for it."""
        peers: list[Seat] = [*self.folding] if isinstance(seat, ProfilesSeat) else [*self.deciding]
        lanes = [peer.lanes[partition] for peer in peers if partition in peer.lanes]
        if all(lane.claim is None for lane in lanes):
            seat.acquire(partition)

    def _flow(self, dice: Random, seat: int) -> None:
        """A while in which everything works, in any order: folds of both seats, and relay passes cut anywhere."""
        for partition in range(self.shape.partitions):
            self._reach(self.folding[seat], partition)
        folds = [(n, p) for n in range(SEATS) for p in range(self.shape.partitions) if p not in self.stopped]
        steps = folds + [(n, -1) for n in range(SEATS) for _ in range(dice.randrange(12))]
        dice.shuffle(steps)
        for number, partition in steps:
            if partition < 0:
                self.folding[number].step_relay(pulse=True)
            else:
                self.folding[number].fold(partition, 50)
        if dice.random() < 0.6:
            for folding in self.folding:
                folding.relay_all(pulse=True)

    # what scoring does

    def _publish(self, dice: Random, _: int) -> None:
        self.definitions.publish(dice.choice((FIXED, BY_MODEL)), dice.choice((2_500, 4_000)))

    def _read_rules(self, dice: Random, seat: int) -> None:
        self.deciding[seat].read_definitions()

    def _take(self, dice: Random, seat: int) -> None:
        self.deciding[seat].acquire(dice.randrange(self.shape.partitions))

    def _hear(self, dice: Random, seat: int) -> None:
        self.deciding[seat].hear(dice.choice((1, 3, 50)))

    def _decide(self, dice: Random, seat: int) -> None:
        if dice.random() < 0.4:
            self._together(self.deciding[seat], dice, ())
            return
        partition = dice.randrange(self.shape.partitions)
        self._reach(self.deciding[seat], partition)
        self.deciding[seat].fold(partition, dice.choice((1, 2, 5, 50)))

    def _turn(self, dice: Random, seat: int) -> None:
        if dice.random() < 0.8:
            self.deciding[seat].read_definitions()
        for partition in range(self.shape.partitions):
            self._reach(self.deciding[seat], partition)
            self.deciding[seat].turn(partition)

    def _judge(self, dice: Random, seat: int) -> None:
        """A while in which scoring works: hear, fold, fire."""
        for deciding in self.deciding:
            deciding.read_definitions()
            for partition in range(self.shape.partitions):
                self._reach(self.deciding[seat], partition)
                deciding.fold(partition, dice.choice((1, 50)))
            deciding.hear(50)
            for partition in range(self.shape.partitions):
                deciding.turn(partition)

    def _lose(self, dice: Random, seat: int) -> None:
        """The scoring database is gone with everything in it; a new one is made from what was said."""
        self.profiles.fault = self.scoring.fault = None
        self.profiles.conflicts_in, self.log.failure = 0, ""
        if dice.random() < 0.8:  # much was said before, or all of it
            self._flow(dice, seat)
            self._judge(dice, seat)
            self._emit(dice, seat)
        for number in range(SEATS):
            self.deciding[number].die()
        lose(self.scoring, self.log)
        self.watcher_forgets()
        self.deciding = [self.new_scoring() for _ in range(SEATS)]
        tell_again(self.profiles, f"r{dice.randrange(1 << 32)}", self.clock.now_ms())

    def _emit(self, dice: Random, seat: int) -> None:
        for _ in range(dice.choice((1, 3, 20))):
            self.deciding[seat].step_relay(pulse=False)

    def _verdict(self, dice: Random, seat: int) -> None:
        """A person acknowledges an alert, or judges it."""
        alerts = sorted(self.scoring.tables["alert"].values(), key=lambda row: bytes(row.id))
        if alerts:
            self._say(self.deciding[seat], dice.choice(alerts).id, dice.choice(("", "true_alarm", "false_alarm")))

    def _say(self, seat: ScoringSeat, alert_id: bytes, verdict: str) -> None:
        row, now = self.scoring.tables["alert"][alert_id], self.clock.now_ms()

        def decide(book: Book) -> None:
            if verdict:
                book.apply(row.customer, lambda d, s, v: judge(d, alert_id, verdict, now, s, v))
            else:
                book.apply(row.customer, lambda d, s, v: acknowledge(d, alert_id, now, s, v))

        async def said() -> None:
            async with self.scoring.transaction() as transaction:
                changes, customers = seat.changes, {row.customer: row.workspace}
                book = await told(transaction, changes.setting(), customers, [alert_id], decide, changes.tally)
                await write(transaction, book)

        with suppress(Rejected):  # it is not theirs (any more), or judged already: what a person would be told
            run(said())
