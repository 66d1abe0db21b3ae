"""The log copied to a new one: every topic in the order of its stamps, every customer's records in their order."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from services.repartition.placing import Divide, ImportEnds, Placed, by_key, place
from shared.errors import LogMismatch
from shared.log.port import Log, Outgoing, Record
from shared.log.stamped import StampedLog
from shared.topics import CHURN_ALERTS, DEFINITIONS, SEGMENT_CHANGES, TOUCHPOINTS, TOUCHPOINTS_FAILED

COPIED = (DEFINITIONS, TOUCHPOINTS_FAILED, SEGMENT_CHANGES, CHURN_ALERTS, TOUCHPOINTS)
"""What is carried over. `profile-changes` and `watermarks` begin anew: everything in them was folded and is known."""
FLUSH_RECORDS = 2_000

Told = Callable[[str, int, int], None]
"""Progress: (what, done, of how many)."""


@dataclass(slots=True)
class Copied:
    """What was copied of one topic: records read and written, and where the old one ended."""

    read: int = 0
    written: int = 0
    ends: dict[int, int] = field(default_factory=dict)


async def in_order(log: Log, topic: str, ends: Mapping[int, int]) -> AsyncIterator[tuple[int, Record]]:
    """(partition, record) of everything readable before `ends`, by stamp; each partition in its own order."""
    bounds = await log.bounds(topic)
    streams = {n: _records(log, topic, n, bounds[n].earliest, end) for n, end in ends.items()}
    latest = dict.fromkeys(streams, 0)  # Kafka's stamps may step back in a partition; its order holds all the same

    async def advance(partition: int) -> tuple[int, int, Record] | None:
        record = await anext(streams[partition], None)
        if record is None:
            return None
        latest[partition] = max(latest[partition], record.recorded_at)
        return latest[partition], partition, record

    heads = [head for partition in streams if (head := await advance(partition)) is not None]
    heapify(heads)
    while heads:
        _, partition, record = heappop(heads)
        yield partition, record
        if (head := await advance(partition)) is not None:
            heappush(heads, head)


async def _records(log: Log, topic: str, partition: int, position: int, end: int) -> AsyncIterator[Record]:
    while position < end:
        batch = await log.read(topic, partition, position, wait_seconds=10)
        if batch.next_position == position:
            raise LogMismatch(f"{topic}/{partition} cannot be read at {position} although it ends at {end}")
        position = batch.next_position
        for record in batch.records:
            if record.position < end:
                yield record
    await log.release(topic, partition)


async def copy_topic(log: Log, target: StampedLog, topic: str, partitions: int, divide: Divide, told: Told) -> Copied:
    """Copy one topic to `partitions` partitions (where it is cut by leaf or customer). Raises Stopped, Retryable."""
    copied = Copied(ends={n: bounds.end for n, bounds in (await log.bounds(topic)).items()})
    of_all = sum(copied.ends.values())
    run, ends = _Run(target, topic), ImportEnds(len(copied.ends))
    async for partition, record in in_order(log, topic, copied.ends):
        copied.read += 1
        for placed in _placed(topic, record, partition, partitions, divide):
            targets = [placed.partition]
            if placed.waits is not None:
                targets = list(range(partitions)) if ends.met(placed.waits, partition) else []
            for to in targets:
                run.add(record.recorded_at, Outgoing(to, placed.value, record.key))
                copied.written += 1
        if copied.read % FLUSH_RECORDS == 0:
            told(topic, copied.read, of_all)
    run.write()
    told(topic, of_all, of_all)
    return copied


def _placed(topic: str, record: Record, partition: int, partitions: int, divide: Divide) -> Sequence[Placed]:
    if topic == TOUCHPOINTS:
        return place(record.value, record.key, partition, partitions, divide)
    if topic in (SEGMENT_CHANGES, CHURN_ALERTS):
        return [Placed(by_key(record.key, partition, partitions), record.value)]
    return [Placed(partition, record.value)]


class _Run:
    """Records of one stamp, appended together."""

    def __init__(self, target: StampedLog, topic: str) -> None:
        self._target, self._topic = target, topic
        self._at, self._records = 0, list[Outgoing]()

    def add(self, recorded_at: int, record: Outgoing) -> None:
        recorded_at = max(recorded_at, self._at)
        if recorded_at != self._at or len(self._records) >= FLUSH_RECORDS:
            self.write()
        self._at = recorded_at
        self._records.append(record)

    def write(self) -> None:
        if self._records:
            self._target.append(self._topic, self._at, self._records)
            self._records = []
