"""Seats: the processes of the simulated house. Real projections, relay and acquiring; only the waiting loop is ours.

A seat is one process: it holds lanes, may be suspended in the middle of a relay pass, and loses everything it
remembers when it dies. Two seats of one service share partitions; whoever was replaced is a zombie until refused.
"""

from collections.abc import Coroutine, Sequence
from typing import Any

from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from services.scoring.decide import ChangesProjection
from services.scoring.domain.definitions import Definition
from services.scoring.domain.step import Rules
from services.scoring.domain.watermark import Heard
from shared.clock import FrozenClock
from shared.codec import decode
from shared.errors import Fenced, Retryable
from shared.events import Sealed, WatermarkStated
from shared.lane import Lane, Portion
from shared.log.ownership import AllPartitions
from shared.log.port import RECORD_BYTES_MAX
from shared.loop import Projection, Worker
from shared.relay import Relay, Relaying, RelayStore
from shared.sealing import PersonalFields
from shared.topics import WATERMARKS
from tests.simulation.driving import Crashed, run
from tests.simulation.memory_log import MemoryLog
from tests.simulation.memory_profiles import MemoryProfiles
from tests.simulation.memory_scoring import MemoryScoring
from tests.simulation.rules import UTC, Definitions


class Seat:
    """One process of one service, driven call by call."""

    states_watermarks = False
    allowance_ms = 0
    relay_class = Relay

    def __init__(self, log: MemoryLog, clock: FrozenClock, partitions: int, projection: Projection) -> None:
        self.log, self.clock, self.projection = log, clock, projection
        relaying = Relaying(partitions, self.states_watermarks, self.allowance_ms)
        self.worker = Worker(log, AllPartitions(partitions), projection, clock, relaying)
        self.worker._identity = "memory"
        store: RelayStore = projection.store
        self.relay = self.relay_class(
            log, store, clock, relaying, projection.topic, self.worker.lanes, self.worker.tally
        )
        self._pass: Coroutine[Any, Any, None] | None = None

    @property
    def lanes(self) -> dict[int, Lane]:
        """The partitions in this seat's hands."""
        return self.worker.lanes

    def acquire(self, partition: int) -> None:
        """Take a partition over, as a lane of the real worker does."""
        lane = self.lanes.setdefault(partition, Lane(partition))
        run(self.worker._acquire(lane))

    def fold(self, partition: int, records_max: int) -> bool:
        """Read and fold a batch; False when there is nothing to do or the partition is not ours (any more)."""
        lane = self.lanes.get(partition)
        if lane is None or lane.claim is None:
            return False
        position = lane.claim.position
        batch = run(self.log.read(self.worker.topic, partition, position, records_max=records_max))
        if batch.next_position == position:
            return False
        self._guarded(lane, self.projection.fold(lane.claim, batch))
        return True

    def fold_together(self, partitions: Sequence[int], records_max: int) -> None:
        """Fold what these partitions have in one step, as the real worker does for lanes that have read."""
        held = [self.lanes[partition] for partition in partitions if partition in self.lanes]
        lanes, portions = [], []
        for lane in held:
            if lane.claim is not None:
                at = lane.claim.position
                batch = run(self.log.read(self.worker.topic, lane.partition, at, records_max=records_max))
                if batch.next_position != at:
                    lanes.append(lane)
                    portions.append(Portion(lane.claim, batch))
        try:
            claims = run(self.projection.fold_together(portions)) if portions else []
        except BaseException as error:
            for lane in lanes:  # refused together: each would hear of its own, or acquire again, which is the same
                lane.claim = None
            if not isinstance(error, Fenced):
                raise
            return
        for lane, claim in zip(lanes, claims, strict=True):
            lane.claim = claim

    def turn(self, partition: int) -> None:
        """Let a partition take its turn."""
        lane = self.lanes.get(partition)
        if lane is not None and lane.claim is not None:
            self._guarded(lane, self.projection.turn(lane.claim))

    def _guarded(self, lane: Lane, work: Coroutine[Any, Any, Any]) -> None:
        """What the loop does with failures: a refused claim is forgotten, and so is one whose outcome is unknown."""
        try:
            lane.claim = run(work)
        except Fenced:
            lane.claim = None
        except BaseException:
            lane.claim = None
            raise

    # --- the relay --------------------------------------------------------------------------------------------

    def step_relay(self, pulse: bool) -> None:
        """Begin a relay pass, or go on with the one that is suspended, up to its next word with the log."""
        if self._pass is None:
            self._pass = self.relay._pass(pulse)
        self.log.suspends = True
        try:
            self._pass.send(None)
        except StopIteration:
            self._pass = None
        except Fenced:
            self._pass = None
            self.log.suspends = False
            run(self.relay._find_refused())
        except Retryable:
            self._pass = None
        except Crashed:
            self._pass = None
            for lane in self.lanes.values():
                lane.claim = None
            raise
        finally:
            self.log.suspends = False

    def relay_all(self, pulse: bool) -> None:
        """One whole relay pass."""
        self._finish_pass(pulse)
        self.step_relay(pulse)
        self._finish_pass(pulse)

    def _finish_pass(self, pulse: bool) -> None:
        while self._pass is not None:
            self.step_relay(pulse)

    def die(self) -> None:
        """The process is gone; what it was in the middle of never comes back."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None


class ProfilesSeat(Seat):
    """A process of profiles."""

    states_watermarks = True

    def __init__(self, log: MemoryLog, clock: FrozenClock, partitions: int, store: MemoryProfiles) -> None:
        self.store = store
        projection = TouchpointsProjection(store, House(partitions, RECORD_BYTES_MAX), _nothing_personal)
        super().__init__(log, clock, partitions, projection)


def _nothing_personal(workspace: str, sealed: Sealed) -> PersonalFields:
    return {}


class ScoringSeat(Seat):
    """A process of scoring: it also hears watermarks and reads definitions, each when the schedule says."""

    heard_class = Heard

    def __init__(
        self,
        log: MemoryLog,
        clock: FrozenClock,
        partitions: int,
        store: MemoryScoring,
        published: Definitions,
        hears_from: int,
    ) -> None:
        self.store, self.published = store, published
        self.definitions: tuple[Definition, ...] = ()
        self.read_at = 0
        self.heard = self.heard_class(partitions)
        self._hears_from = hears_from
        projection = ChangesProjection(
            store, clock, partitions, self._rules, self._age_seconds, self.heard, self._in_force
        )
        self.changes = projection
        self.read_definitions()
        super().__init__(log, clock, partitions, projection)

    def read_definitions(self) -> None:
        """Read the topic of definitions to its end."""
        self.definitions, self.read_at = tuple(self.published.versions), self.published.clock.now_ms()

    def hear(self, records_max: int) -> None:
        """Read so many statements on."""
        batch = run(self.log.read(WATERMARKS, 0, self._hears_from, records_max=records_max))
        for record in batch.records:
            stated = decode(record.value)
            assert isinstance(stated, WatermarkStated)
            self.heard.hear(stated)
        self._hears_from = batch.next_position

    def _rules(self, workspace: str) -> Rules:
        return Rules(self.definitions, UTC)

    def _age_seconds(self) -> float:
        return (self.clock.now_ms() - self.read_at) / 1000

    def _in_force(self, at: int) -> dict[str, int]:
        reached = [definition.version for definition in self.definitions if definition.effective_at <= at]
        return {"main": reached[-1]} if reached else {}
