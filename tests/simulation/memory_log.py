"""The log port in memory: positions with gaps, stamps that may lie, appends that fail in every way the port allows."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random

from shared.clock import Clock
from shared.errors import NotAccepting, OutcomeUnknown, OutOfRange
from shared.log.port import Batch, Bounds, Outgoing, Record, Topic
from shared.topics import topics
from tests.simulation.driving import pause

REFUSED, PARTLY, UNKNOWN = "refused", "partly", "unknown"
FAILURES = (REFUSED, PARTLY, UNKNOWN)


class MemoryLog:
    """All topics of a house.

    `failure`: how the next append fails · `suspends`: appends and bounds give the turn back · `lag_ms`: how far behind
    their visibility stamps are.
    """

    appends_whole = False

    def __init__(self, clock: Clock, partitions: int, dice: Random) -> None:
        self.failure = ""
        self.suspends = False
        self.lag_ms = 0
        self.on_append: Callable[[str, Outgoing], None] = lambda topic, record: None
        self._clock, self._dice = clock, dice
        self._topics = {topic.name: topic.partitions for topic in topics(partitions)}
        self._records: dict[tuple[str, int], list[Record]] = {
            (name, partition): [] for name, count in self._topics.items() for partition in range(count)
        }
        self._ends = dict.fromkeys(self._records, 0)

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """They are there."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        """Append; with a failure planned, nothing, a part in any order, or all of it is written before it raises."""
        if self.suspends:
            await pause()
        failure, self.failure = self.failure, ""
        if failure == REFUSED:
            raise NotAccepting("planned: nothing was written")
        if failure == PARTLY:
            survivors = [record for record in records if self._dice.random() < 0.5]
            self._dice.shuffle(survivors)
            self._write(topic, survivors, gap=1)
            raise OutcomeUnknown("planned: a part was written")
        positions = self._write(topic, records)
        if failure == UNKNOWN:
            raise OutcomeUnknown("planned: all of it was written")
        return positions

    def _write(self, topic: str, records: Sequence[Outgoing], gap: int = 0) -> list[int]:
        stamp = self._clock.now_ms() - self.lag_ms
        positions = []
        for record in records:
            self.on_append(topic, record)
            place = topic, record.partition
            positions.append(self._ends[place])
            self._records[place].append(Record(self._ends[place], stamp, record.value, record.key))
            self._ends[place] += 1 + gap
        return positions

    async def read(
        self,
        topic: str,
        partition: int,
        position: int,
        *,
        records_max: int = 500,
        bytes_max: int = 1 << 20,
        wait_seconds: float = 0.0,
    ) -> Batch:
        """Records from `position` on; never waits. At the end of the log the gap behind the last record is skipped."""
        end, records = self._ends[topic, partition], self._records[topic, partition]
        if not 0 <= position <= end:
            raise OutOfRange(topic, partition, position, 0, end)
        first = bisect_left(records, position, key=lambda record: record.position)
        found = tuple(records[first : first + records_max])
        is_last = first + records_max >= len(records)
        return Batch(found, end if is_last else found[-1].position + 1)

    async def release(self, topic: str, partition: int, position: int | None = None) -> None:
        """Nothing is buffered."""

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        """Bounds of every partition; the turn may pass on before they are told and after, as on a network."""
        if self.suspends:
            await pause()
        found = self.ends(topic)
        if self.suspends:
            await pause()
        return {partition: Bounds(0, end) for partition, end in found.items()}

    async def identity(self, topic: str) -> str:
        """One log, one name."""
        return "memory"

    async def close(self) -> None:
        """Nothing to free."""

    # --- for the schedule and its checks ---------------------------------------------------------------------

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends."""
        return {partition: self._ends[topic, partition] for partition in range(self._topics[topic])}

    def records(self, topic: str, partition: int) -> list[Record]:
        """Everything in a partition."""
        return self._records[topic, partition]
