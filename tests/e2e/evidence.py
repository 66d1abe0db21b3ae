"""What an independent reader finds: every record of the log by another client, rows of both databases, REST."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from shared.clock import SystemClock
from shared.codec import decode
from shared.database import execute, fetch
from shared.errors import RaftarError
from shared.events import Touchpoint, TouchpointsRecorded
from shared.log.sqlite import SqliteLog
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES, TOUCHPOINTS
from tests.support.house import Ground, House
from tests.support.logs import read_all

DECISIONS = (CHURN_ALERTS, SEGMENT_CHANGES)


class Seen(NamedTuple):
    """A record as another client reads it."""

    partition: int
    position: int
    recorded_at: int
    value: bytes


class Recorded(NamedTuple):
    """One touchpoint in the log. `recorded_at`: the log's stamp."""

    partition: int
    position: int
    recorded_at: int
    source: str
    touchpoint: Touchpoint


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent on a topic."""

    topic: str
    position: tuple[int, int]
    body: dict[str, Any]
    value: bytes
    recorded_at: int = 0  # the log's stamp

    @property
    def data(self) -> dict[str, Any]:
        """Its payload."""
        data: dict[str, Any] = self.body["data"]
        return data


async def records(ground: Ground, topic: str) -> list[Seen]:
    """Every record of a topic, by partition and position: librdkafka on Kafka, a log of our own process on SQLite."""
    if ground.bootstrap:
        return await asyncio.to_thread(_kafka_records, ground, topic)
    log = SqliteLog(ground.settings.log_dir, SystemClock())
    try:
        found = await read_all(log, topic)
    finally:
        await log.close()
    return [Seen(n, one.position, one.recorded_at, one.value) for n, mine in sorted(found.items()) for one in mine]


def _consumer(ground: Ground) -> Consumer:
    settings: dict[str, Any] = {"bootstrap.servers": ground.bootstrap, "group.id": "evidence", "fetch.wait.max.ms": 20}
    return Consumer({**settings, "enable.auto.commit": False})


def _kafka_bounds(consumer: Consumer, ground: Ground, topic: str) -> dict[int, tuple[int, int]]:
    places = [TopicPartition(topic, partition) for partition in range(ground.partitions)]
    return {place.partition: consumer.get_watermark_offsets(place, timeout=10) for place in places}


def _kafka_records(ground: Ground, topic: str) -> list[Seen]:
    consumer = _consumer(ground)
    try:
        bounds = _kafka_bounds(consumer, ground, topic)
        missing = {partition: high for partition, (low, high) in bounds.items() if high > low}
        consumer.assign([TopicPartition(topic, partition, bounds[partition][0]) for partition in missing])
        seen: list[Seen] = []
        deadline = time.monotonic() + 30
        while missing:
            assert time.monotonic() < deadline, f"{topic} cannot be read to its ends {missing}"
            for message in consumer.consume(500, 0.2):
                one = _seen(message)
                seen.append(one)
                if one.position + 1 >= missing.get(one.partition, 0):
                    missing.pop(one.partition, None)
        return sorted(seen)
    finally:
        consumer.close()


def _seen(message: Message) -> Seen:
    assert message.error() is None, message.error()
    partition, offset, value = message.partition(), message.offset(), message.value()
    assert partition is not None
    assert offset is not None
    assert isinstance(value, bytes)
    return Seen(partition, offset, message.timestamp()[1], value)


async def touchpoints(ground: Ground) -> list[Recorded]:
    """Every touchpoint in the log, in log order by partition."""
    found: list[Recorded] = []
    for record in await records(ground, TOUCHPOINTS):
        fact = decode(record.value)
        if isinstance(fact, TouchpointsRecorded):
            found += [Recorded(*record[:3], fact.source, one) for one in fact.touchpoints]
    return found


async def touchpoint_ids(ground: Ground) -> set[bytes]:
    """The id of every touchpoint in the log: of a million of them nothing more is kept."""
    facts = (decode(record.value) for record in await records(ground, TOUCHPOINTS))
    return {one.id for fact in facts if isinstance(fact, TouchpointsRecorded) for one in fact.touchpoints}


async def events(ground: Ground, topic: str) -> list[Event]:
    """Every CloudEvent of a topic of decisions, in log order by partition."""
    return [
        Event(topic, record[:2], msgspec.json.decode(record.value), record.value, record.recorded_at)
        for record in await records(ground, topic)
    ]


async def rows(house: House, room: str, statement: str) -> list[Any]:
    """Rows of one service's database, however long it takes to read them: no service waits for who looks on."""
    database = house.database(room)
    try:
        async with database.snapshot() as connection:
            if not database.is_sqlite:
                await execute(connection, "SET LOCAL transaction_timeout = 0")
            return await fetch(connection, statement)
    finally:
        await database.close()


async def pages(house: House, room: str, path: str, **filters: Any) -> list[dict[str, Any]]:
    """Every item of a list in REST."""
    items: list[dict[str, Any]] = []
    async with house.client(room) as client:
        after: dict[str, Any] = {}
        while True:
            answer = (await client.get(path, params={"limit": 200, **filters, **after})).raise_for_status().json()
            items += answer["items"]
            if not answer["next"]:
                return items
            after = {"next": answer["next"]}


async def eventually(ask: Callable[[], Awaitable[Any]], seconds: float, what: str) -> Any:
    """Ask until the answer is true, and return it; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.1)
    return answer


class Quiet:
    """Whether all that is in the log went all the way: every checkpoint at its end, both outboxes empty."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.waiting_for = ""

    async def reached(self) -> bool:
        """Look once; `waiting_for` says what is not there yet."""
        try:
            self.waiting_for = await self._missing()
        except (RaftarError, OSError, KafkaException) as error:
            self.waiting_for = f"{type(error).__name__}: {error}"
        return not self.waiting_for

    async def _missing(self) -> str:
        ends = await self._ends()
        for room, topics in (("profiles", (TOUCHPOINTS, *DECISIONS)), ("scoring", ("profile-changes",))):
            held = await rows(self._house, room, "SELECT topic, partition, position FROM checkpoint")
            positions = {(row.topic, row.partition): row.position for row in held}
            behind = [
                f"{room}: {topic}/{partition} {positions.get((topic, partition))} of {end}"
                for topic in topics
                for partition, end in ends[topic].items()
                if positions.get((topic, partition), -1) < end
            ]
            waiting = (await rows(self._house, room, "SELECT count(*) AS n FROM outbox"))[0].n
            if behind or waiting:
                return f"{behind} outbox of {room}: {waiting}"
        return ""

    async def _ends(self) -> dict[str, dict[int, int]]:
        ground = self._house.ground
        topics = (TOUCHPOINTS, "profile-changes", *DECISIONS)
        if ground.bootstrap:
            return await asyncio.to_thread(_kafka_ends, ground, topics)
        log = SqliteLog(ground.settings.log_dir, SystemClock())
        try:
            return {t: {n: bounds.end for n, bounds in (await log.bounds(t)).items()} for t in topics}
        finally:
            await log.close()


def _kafka_ends(ground: Ground, topics: tuple[str, ...]) -> dict[str, dict[int, int]]:
    consumer = _consumer(ground)
    try:
        return {t: {n: high for n, (_, high) in _kafka_bounds(consumer, ground, t).items()} for t in topics}
    finally:
        consumer.close()
