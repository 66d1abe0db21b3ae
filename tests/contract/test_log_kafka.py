"""What is particular to Kafka: killed and frozen brokers, another client's view, and who owns which partition."""

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition

from shared.clock import SystemClock
from shared.errors import NotAccepting, OutcomeUnknown
from shared.log import kafka_reader
from shared.log.kafka import KafkaLog
from shared.log.kafka_ownership import KafkaOwnership
from shared.log.port import Outgoing, Ownership, Topic
from tests.support.broker import NewBroker
from tests.support.kafka_broker import Broker
from tests.support.logs import PROJECT, Place, read_all, texts, values

pytestmark = pytest.mark.kafka

HASTY = {"request_timeout_ms": 1500, "delivery_timeout_ms": 3000}
PARTITIONS = 4
TAKE_OVER_SECONDS = 30


@pytest.fixture
async def shared_place(broker: Broker) -> AsyncIterator[Place]:
    """The session's broker, which stays healthy."""
    opened = Place("kafka", broker.bootstrap)
    yield opened
    await opened.close()


async def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; fails with `what` when it does not come true in time."""
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


class Load:
    """Callers that append until told, a ledger of how each append ended, and one reader a partition."""

    def __init__(self, log: KafkaLog, topic: str) -> None:
        self.log, self.topic, self.going = log, topic, True
        self.begun: set[str] = set()
        self.acked: dict[str, tuple[int, int]] = {}
        self.failed: set[str] = set()
        self.read: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
        self._numbers = itertools.count()
        self._callers = [asyncio.create_task(self._call()) for _ in range(16)]
        self._readers = [asyncio.create_task(self._follow(partition)) for partition in range(PARTITIONS)]

    async def _call(self) -> None:
        while self.going:
            number = next(self._numbers)
            partition, name = number % PARTITIONS, f"{number:06d}"
            self.begun.add(name)
            try:
                (position,) = await self.log.append(self.topic, values(partition, name))
                self.acked[name] = (partition, position)
            except (NotAccepting, OutcomeUnknown):
                self.failed.add(name)
                await asyncio.sleep(0.05)

    async def _follow(self, partition: int) -> None:
        position = 0
        while True:
            batch = await self.log.read(self.topic, partition, position, wait_seconds=1)
            position = batch.next_position
            self.read[partition] += [record.value.decode() for record in batch.records]

    def read_count(self) -> int:
        """How many records the readers have seen."""
        return sum(map(len, self.read.values()))

    async def finish(self) -> None:
        """Let every append end one way or the other, then let the readers see all that was acknowledged."""
        self.going = False
        async with asyncio.timeout(30):
            await asyncio.gather(*self._callers)
        assert self.begun == set(self.acked) | self.failed
        everything = set(self.acked)
        await until(lambda: everything <= {name for names in self.read.values() for name in names}, 30, "all was read")
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


async def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_and_stays_away(new_broker: NewBroker) -> None:
    broker = new_broker()
    log = KafkaLog(broker.bootstrap, SystemClock(), producer_settings=HASTY)
    await log.ensure([Topic("load", PARTITIONS)])
    load = Load(log, "load")
    await until(lambda: len(load.acked) > 300 and load.read_count() > 100, 30, "the load runs")
    broker.kill9()
    before = len(load.acked)
    # Two rounds of callers that each waited out the delivery time-out: the outage is longer than it.
    await until(lambda: len(load.failed) >= 32, 30, "appends fail while the broker is away")
    broker.launch()
    await asyncio.to_thread(broker.wait_until_ready)
    await until(lambda: len(load.acked) > before + 500, 60, "appends go on by themselves")
    seen = load.read_count()
    await until(lambda: load.read_count() > seen + 200, 60, "reads go on by themselves")
    await load.finish()

    found = await read_all(log, "load")
    at = {(partition, record.position): record.value.decode() for partition, kept in found.items() for record in kept}
    assert all(at[where] == name for name, where in load.acked.items())
    assert set(texts(found)) <= load.begun
    for partition, names in load.read.items():
        assert names == [record.value.decode() for record in found[partition]][: len(names)]
    await log.close()


async def test_a_frozen_broker_is_pushed_back_with_bounded_memory(new_broker: NewBroker) -> None:
    broker = new_broker()
    log = KafkaLog(broker.bootstrap, SystemClock(), inflight_bytes_max=8 << 20, producer_settings=HASTY)
    await log.ensure([Topic("frozen", PARTITIONS)])
    await log.append("frozen", values(0, "before"))
    gc.collect()
    resident = psutil.Process().memory_info().rss
    broker.freeze()

    value = b"x" * 10_000
    unknown, refused = 0, 0

    async def caller(partition: int) -> None:
        nonlocal unknown, refused
        for _ in range(200):
            try:
                await log.append("frozen", [Outgoing(partition % PARTITIONS, value)])
            except OutcomeUnknown:
                unknown += 1
                return
            except NotAccepting:
                refused += 1
                await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller(number) for number in range(3000)))
    assert refused > 10_000, "more than the bound was offered, and refused"
    assert unknown <= (8 << 20) // len(value) * 4
    assert psutil.Process().memory_info().rss - resident < 150 << 20
    broker.thaw()

    async def again() -> list[int]:
        while True:
            try:
                return await log.append("frozen", values(1, "after"))
            except (NotAccepting, OutcomeUnknown):
                await asyncio.sleep(0.1)

    async with asyncio.timeout(30):
        await again()
    found = texts(await read_all(log, "frozen"))
    assert found[0] == "before"
    assert "after" in found
    await log.close()


async def test_a_stuck_producer_and_a_stuck_consumer_are_replaced(new_broker: NewBroker) -> None:
    broker = new_broker()
    patient = {"request_timeout_ms": 30_000, "delivery_timeout_ms": 60_000}  # the clients alone would wait a minute
    log = KafkaLog(broker.bootstrap, SystemClock(), stall_seconds=2, producer_settings=patient)
    await log.ensure([Topic("stuck", 1)])
    await log.append("stuck", values(0, "before"))
    broker.freeze()
    append = asyncio.create_task(log.append("stuck", values(0, "during")))
    with pytest.raises(OutcomeUnknown):
        async with asyncio.timeout(15):
            await append
    assert log.producer_rebuilds >= 1
    broker.thaw()
    async with asyncio.timeout(30):
        await log.append("stuck", values(0, "after"))

    position = (await log.bounds("stuck"))[0].end
    waiting = asyncio.create_task(read_by_short_reads(log, "stuck", position))
    following = (1, kafka_reader.FOLLOWING)  # the one node of the broker
    await until(lambda: any(following in reader._brokers._connections for reader in log._readers), 10, "it follows")
    connection = log._readers[0]._brokers._connections[following]
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    connection.ask = lambda *_: never  # type: ignore[method-assign]  # nothing is fetched any more, and nobody says so
    await until(lambda: not connection._awaited, 10, "the fetch before was answered")
    await log.append("stuck", values(0, "seen"))
    async with asyncio.timeout(40):
        assert await waiting == b"seen"
    assert log.consumer_rebuilds >= 1
    await log.close()


async def read_by_short_reads(log: KafkaLog, topic: str, position: int) -> bytes:
    """The value at `position`, asked for again and again as a folding loop does."""
    while True:
        batch = await log.read(topic, 0, position, wait_seconds=0.2)
        if batch.records:
            return batch.records[0].value


async def test_without_a_broker_everything_says_so_soon() -> None:
    log = KafkaLog("127.0.0.1:1", SystemClock(), producer_settings=HASTY)
    async with asyncio.timeout(30):
        with pytest.raises(NotAccepting):
            await log.append("t", values(0, "x"))
        with pytest.raises(NotAccepting):
            await log.ensure([Topic("t", 1)])
        await log.close()


async def test_another_client_reads_the_same_records(shared_place: Place) -> None:
    log = shared_place.open()
    topic = await shared_place.topic(log, 2)
    sent = [Outgoing(number % 2, b"%d" % number, key=b"key") for number in range(500)]
    await log.append(topic, sent)
    found = await read_all(log, topic)

    def by_librdkafka() -> list[tuple[Any, ...]]:
        consumer = Consumer({"bootstrap.servers": shared_place.place, "group.id": "check", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(2)])
        seen: list[tuple[Any, ...]] = []
        while len(seen) < 500:
            message = consumer.poll(10)
            assert message is not None
            assert message.error() is None
            kind, stamp = message.timestamp()
            assert kind == 2, "stamped by the broker"
            seen.append((message.partition(), message.offset(), stamp, message.value(), message.key()))
        consumer.close()
        return seen

    seen = await asyncio.to_thread(by_librdkafka)
    mine = {(at, one.position, one.recorded_at, one.value, one.key) for at, kept in found.items() for one in kept}
    assert set(seen) == mine


async def test_who_looked_at_some_records_beside_a_reader_leaves_nothing_that_is_fetched_on(
    shared_place: Place,
) -> None:
    """As the self-audit does: its feed would go on fetching what the worker fetches already."""
    log = shared_place.open()
    assert isinstance(log, KafkaLog)
    topic = await shared_place.topic(log, 1)
    await log.append(topic, values(0, *map(str, range(30))))
    worker = asyncio.create_task(log.read(topic, 0, 30, wait_seconds=30))
    await until(lambda: any(feed.busy for reader in log._readers for feed in reader.feeds.values()), 10, "it waits")
    looked = await log.read(topic, 0, 3, records_max=5, wait_seconds=10)
    assert len(feeds_of(log)) == 2
    await log.release(topic, 0, looked.next_position)
    assert feeds_of(log) == [30]
    await log.append(topic, values(0, "30"))
    assert [record.value for record in (await worker).records] == [b"30"]
    await log.release(topic, 0, 8)
    assert feeds_of(log) == [31], "the worker's own stays, with what it has prefetched"


async def test_what_begins_to_be_read_does_not_wait_for_a_request_that_the_broker_holds(
    shared_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild reads one partition after another beside the lanes that wait at the ends of theirs."""
    log = shared_place.open()
    assert isinstance(log, KafkaLog)
    topic = await shared_place.topic(log, 5)
    for partition in range(1, 5):
        await log.append(topic, values(partition, "was there"))
    monkeypatch.setattr(kafka_reader, "FETCH_WAIT_MS", 60_000)
    monkeypatch.setattr(kafka_reader, "ANSWER_SECONDS", 90.0)
    lane = asyncio.create_task(log.read(topic, 0, 0, wait_seconds=60))
    await until(lambda: any(feed.caught_up for one in log._readers for feed in one.feeds.values()), 10, "it waits")
    async with asyncio.timeout(20):
        for partition in range(1, 5):
            assert (await log.read(topic, partition, 0, wait_seconds=60)).records
    await log.append(topic, values(0, "new"))
    assert [record.value for record in (await lane).records] == [b"new"]


def feeds_of(log: KafkaLog) -> list[int]:
    """Positions at which something is fetched on."""
    return [feed.next for reader in log._readers for feed in reader.feeds.values()]


async def test_retention_and_stamps_are_set_on_the_topic(shared_place: Place) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    log = shared_place.open()
    for_ever = await shared_place.topic(log, 1)
    short = await shared_place.topic(log, 1, retention_ms=3_600_000)

    def configured(topic: str) -> dict[str, str]:
        admin = KafkaAdminClient(bootstrap_servers=shared_place.place)
        try:
            described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        finally:
            admin.close()
        return {name: entry["value"] for name, entry in described[ConfigResourceType.TOPIC.name.lower()][topic].items()}

    assert (await asyncio.to_thread(configured, for_ever))["retention.ms"] == "-1"
    settings = await asyncio.to_thread(configured, short)
    assert settings["retention.ms"] == "3600000"
    assert settings["message.timestamp.type"] == "LogAppendTime"


async def test_two_workers_share_sixteen_partitions_and_one_takes_over(shared_place: Place) -> None:
    log = shared_place.open()
    topic = await shared_place.topic(log, 16)
    group = f"group-{topic}"
    everything = frozenset(range(16))

    def worker() -> Ownership:
        return KafkaOwnership(shared_place.place, group, [topic], SystemClock())

    one, two = worker(), worker()
    await one.start()
    await until(lambda: one.assigned() == everything, 30, "the only worker has all")
    alone = one.generation()
    await two.start()
    await until(lambda: len(one.assigned()) == len(two.assigned()) == 8, 30, "two workers share")
    assert one.assigned() | two.assigned() == everything
    assert one.generation() > alone
    two.progress(topic, dict.fromkeys(two.assigned(), 0))

    await one.close()
    assert one.assigned() == frozenset()
    await until(lambda: two.assigned() == everything, 5, "a worker that leaves is replaced at once")

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.owning", shared_place.place, group, topic),
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while (await process.stdout.readline()).strip() != b"8":
            pass
    await until(lambda: len(two.assigned()) == 8, 10, "the process has the other half")
    process.kill()
    await process.wait()
    await until(lambda: two.assigned() == everything, TAKE_OVER_SECONDS, "a killed worker is replaced")
    await two.close()
