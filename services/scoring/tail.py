"""The shared tail of what scoring says: one reader of `churn-alerts` and `segment-changes` a process, many listeners.

A listener that is behind (it resumes, or was too slow) reads the log itself, a few at a time, until it is level with
the tail; then it joins it. Levelness and joining are one step of the event loop, so nothing is missed or told twice.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import msgspec
import structlog

from services.scoring.resuming import Vector, id_of
from shared.errors import OutOfRange
from shared.lane import named
from shared.log.port import Batch, Log, Record
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

READ_WAIT_SECONDS = 10.0
PAUSE_SECONDS = 0.5
CATCH_UP_RECORDS = 200
READERS_MAX = 4
"""Listeners that read the log at the same time: on Kafka each such read may cost a client of its own."""
TOLD_MAX = 64

_log = structlog.get_logger("tail")


class _About(msgspec.Struct):
    policy: str = ""


class _Head(msgspec.Struct):
    """What is read of a CloudEvent to know whom it concerns."""

    workspace: str
    subject: str
    data: _About


_head = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class Said:
    """One event on the log. `customer` is its text form · `policy` "" for a change of stage."""

    topic: str
    partition: int
    position: int
    workspace: str
    customer: str
    policy: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Positions `start`..`end` of a partition cannot be read any more, or are not of this log (`reason`)."""

    topic: str
    partition: int
    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a listener wants. "" = all · `policy` concerns alerts only."""

    workspace: str
    topics: tuple[str, ...]
    customer: str = ""
    policy: str = ""

    def wants(self, said: Said) -> bool:
        """Whether this event is for it."""
        return (
            said.workspace == self.workspace
            and said.topic in self.topics
            and self.customer in ("", said.customer)
            and (self.policy in ("", said.policy) or said.topic == SEGMENT_CHANGES)
        )


def said_of(topic: str, partition: int, record: Record) -> Said | None:
    """A record as an event; None for one that is no CloudEvent of ours."""
    try:
        head = _head.decode(record.value)
    except msgspec.MsgspecError:
        return None
    return Said(topic, partition, record.position, head.workspace, head.subject, head.data.policy, record.value)


class Tail:
    """Reads both topics from their end on and hands every event to all who joined. `run()` until cancelled."""

    def __init__(self, log: Log, partitions: int) -> None:
        self.source, self.partitions = log, partitions
        self.positions: Vector = {}
        self.identities: dict[str, int] = {}
        self.foreign = self.failures = 0
        self.reading = asyncio.Semaphore(READERS_MAX)
        self._joined: set[Listener] = set()
        self._started = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled; a failing read is tried again from where it stood."""
        while not self._started.is_set():
            try:
                await self._begin()
            except Exception as error:
                await self._pause("the ends of what was said are not known", error)
        async with asyncio.TaskGroup() as group:
            for topic in self.positions:
                for partition in range(self.partitions):
                    group.create_task(self._follow(topic, partition), name=f"tail {topic}/{partition}")

    async def started(self) -> None:
        """Return once the ends are known."""
        await self._started.wait()

    def join(self, listener: "Listener") -> None:
        """Hand it every event from here on. It must be level with `positions` at this very moment."""
        self._joined.add(listener)

    def leave(self, listener: "Listener") -> None:
        """Hand it nothing more."""
        self._joined.discard(listener)

    async def _begin(self) -> None:
        positions: Vector = {}
        for topic in (CHURN_ALERTS, SEGMENT_CHANGES):
            bounds = await self.source.bounds(topic)
            positions[topic] = [bounds[partition].end for partition in range(self.partitions)]
            self.identities[topic] = crc32((await self.source.identity(topic)).encode())
        self.positions = positions
        self._started.set()

    async def _follow(self, topic: str, partition: int) -> None:
        places = self.positions[topic]
        while True:
            try:
                batch = await self.source.read(topic, partition, places[partition], wait_seconds=READ_WAIT_SECONDS)
            except OutOfRange as error:
                _log.error("the tail skips", topic=topic, partition=partition, why=str(error))
                places[partition] = error.end
            except Exception as error:
                await self._pause("what was said cannot be read now", error)
            else:
                self._tell(topic, partition, batch)

    def _tell(self, topic: str, partition: int, batch: Batch) -> None:
        for record in batch.records:
            said = said_of(topic, partition, record)
            if said is None:
                self.foreign += 1
                continue
            for listener in self._joined:
                listener.offer(said)
        self.positions[topic][partition] = batch.next_position

    async def _pause(self, what: str, error: Exception) -> None:
        self.failures += 1
        _log.warning(what, error=named(error))
        await asyncio.sleep(PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class Told:
    """An event or a gap for one listener, and the id to resume behind it."""

    what: Said | Gap
    id: str


class Listener:
    """One reader of the tail. `some` until done, then `close`. Made by `listener`."""

    def __init__(self, tail: Tail, wish: Wish, vector: Vector, gaps: Sequence[Gap], kept_max: int) -> None:
        self.fell_behind = 0
        self._tail, self._wish, self._vector, self._kept_max = tail, wish, vector, kept_max
        self._gaps = list(gaps)
        self._kept: deque[Said] = deque()
        self._joined = self._overflowed = False
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        """The id from which all that was not told yet follows."""
        return id_of(self._vector, self._tail.identities)

    def offer(self, said: Said) -> None:
        """The tail read this. Beyond the bound nothing is kept: the log has it."""
        if self._overflowed or said.topic not in self._vector or not self._wish.wants(said):
            return
        if said.position < self._vector[said.topic][said.partition]:
            return
        if len(self._kept) >= self._kept_max:
            self._overflowed = True
        else:
            self._kept.append(said)
        self._news.set()

    async def some(self, wait_seconds: float) -> list[Told]:
        """What comes next, in the log's order for each partition; [] when nothing came in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            told = self._at_hand()
            if not told and not self._joined:
                told = await self._from_log()
            if told or loop.time() >= deadline:
                return told
            if self._joined:
                await self._wait(deadline - loop.time())

    def close(self) -> None:
        """Leave the tail."""
        self._tail.leave(self)

    def _at_hand(self) -> list[Told]:
        if self._gaps:
            return [Told(self._gaps.pop(0), self.id)]
        told = [self._passed(self._kept.popleft()) for _ in range(min(TOLD_MAX, len(self._kept)))]
        if told:
            return told
        if self._overflowed:  # go on from the log
            self._tail.leave(self)
            self._joined = self._overflowed = False
            self.fell_behind += 1
        if self._joined or self._lagging() is None:
            self._keep_level()
        return []

    def _keep_level(self) -> None:
        """Everything the tail has read was told, or is not for us: stand where it stands, and stay with it."""
        for topic, places in self._vector.items():
            places[:] = map(max, places, self._tail.positions[topic])
        if not self._joined:
            self._joined = True
            self._tail.join(self)

    def _lagging(self) -> tuple[str, int] | None:
        for topic, places in self._vector.items():
            for partition, (ours, tails) in enumerate(zip(places, self._tail.positions[topic], strict=True)):
                if ours < tails:
                    return topic, partition
        return None

    async def _from_log(self) -> list[Told]:
        place = self._lagging()
        if place is None:
            return []
        topic, partition = place
        position = self._vector[topic][partition]
        try:
            async with self._tail.reading:
                batch = await self._tail.source.read(topic, partition, position, records_max=CATCH_UP_RECORDS)
        except OutOfRange as error:
            self._vector[topic][partition] = error.earliest
            return [Told(Gap(topic, partition, position, error.earliest, "no longer kept"), self.id)]
        found = [said for record in batch.records if (said := said_of(topic, partition, record)) is not None]
        told = [self._passed(said) for said in found if self._wish.wants(said)]
        self._vector[topic][partition] = batch.next_position
        return told

    def _passed(self, said: Said) -> Told:
        self._vector[said.topic][said.partition] = said.position + 1
        return Told(said, self.id)

    async def _wait(self, seconds: float) -> None:
        self._news.clear()
        if not self._kept and not self._overflowed:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return


async def earliest(tail: Tail, topics: Sequence[str]) -> Vector:
    """Where each topic begins."""
    found = {topic: await tail.source.bounds(topic) for topic in topics}
    return {topic: [bounds[one].earliest for one in range(tail.partitions)] for topic, bounds in found.items()}


async def listener(tail: Tail, wish: Wish, resume: Vector | None, strange: Sequence[str], kept_max: int) -> Listener:
    """A listener from `resume` on: topics that are not in it, or all of them without one, from the end.

    `strange`: topics whose places are of another log; they start over, and say so. Places that the log no longer or
    not yet holds are gaps.
    """
    vector: Vector = {}
    gaps: list[Gap] = []
    for topic in wish.topics:
        if resume is None or topic not in resume:
            vector[topic] = list(tail.positions[topic])
            continue
        bounds = await tail.source.bounds(topic)
        places = list(resume[topic])
        for partition, place in enumerate(places):
            first, end = bounds[partition]
            if topic in strange:
                places[partition] = first
                gaps.append(Gap(topic, partition, place, first, "of another log"))
            elif place < first or place > end:
                places[partition] = first if place < first else end
                gaps.append(Gap(topic, partition, place, places[partition], "no longer kept"))
        vector[topic] = places
    return Listener(tail, wish, vector, gaps, kept_max)
