"""What readers make of batches, of a log that was cut, and of brokers that refuse, fail or say nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder

from shared.clock import SystemClock
from shared.errors import NotAccepting, OutOfRange
from shared.log import kafka_clients, kafka_offsets
from shared.log.kafka import KafkaLog
from shared.log.kafka_batches import opened
from shared.log.kafka_offsets import Offsets
from shared.log.port import Bounds, Record
from tests.support.scripted_broker import ScriptedBroker

TOPIC = "facts"
NOT_LEADER = 6
GZIP = 1


def batch(values: list[bytes], start: int = 0, epoch: int = 0, compression: int = 0, headers: int = 0) -> bytes:
    """As a broker keeps it, made by the client library. Stamps are 1000, 1001, …"""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 22)
    for number, value in enumerate(values):
        builder.append(number, 1000 + number, b"k%d" % number, value, [("h", b"x")] * headers)
    raw = bytearray(builder.build())
    raw[0:8] = start.to_bytes(8, "big")
    raw[12:16] = epoch.to_bytes(4, "big")
    return bytes(raw)


def store(broker: ScriptedBroker, values: list[bytes], start: int = 0, epoch: int = 0) -> None:
    broker.stored[0].append((start, len(values), batch(values, start, epoch)))


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    scripted = ScriptedBroker(TOPIC, 2)
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
async def log(broker: ScriptedBroker) -> AsyncIterator[KafkaLog]:
    made = KafkaLog(broker.bootstrap, SystemClock(), stall_seconds=0.4)
    made._partitions[TOPIC] = 2  # a scripted broker describes no topics
    yield made
    await made.close()


@pytest.mark.parametrize("compression", [0, GZIP])
@pytest.mark.parametrize("headers", [0, 2])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 8191, 8192, 300_000])
def test_batches_of_the_client_library_are_read_as_they_were_meant(size: int, headers: int, compression: int) -> None:
    values = [b"v" * size, b"", *(b"%d" % number for number in range(200))]
    raw = batch(values, start=7_000_000_000, epoch=3, compression=compression, headers=headers)
    first, second = opened(raw + batch([b"z"], start=7_000_000_300, epoch=4) + raw[:90], 7_000_000_001)
    wanted = [Record(7_000_000_000 + n, 1000 + n, value, b"k%d" % n) for n, value in enumerate(values)]
    assert first.records == wanted[1:], "what lies before the position is left out"
    assert (first.next_position, first.epoch) == (7_000_000_202, 3)
    assert (second.next_position, second.epoch) == (7_000_000_301, 4)


@pytest.mark.parametrize("at", [16, 30, 61, 70])
def test_broken_bytes_are_never_taken_for_records(at: int) -> None:
    raw = bytearray(batch([b"value"] * 3))
    raw[at] ^= 1
    with pytest.raises(CorruptRecordError):
        list(opened(bytes(raw), 0))


async def test_a_reader_goes_on_when_a_broker_refuses_or_sends_broken_bytes(
    log: KafkaLog, broker: ScriptedBroker
) -> None:
    broker.fetch_codes = {0: NOT_LEADER}
    broken = bytearray(batch([b"a", b"b"]))
    broken[-1] ^= 1
    broker.stored[0] = [(0, 2, bytes(broken))]
    reading = asyncio.create_task(log.read(TOPIC, 0, 0, wait_seconds=20))
    await asyncio.sleep(0.3)
    broker.fetch_codes = {}
    await asyncio.sleep(0.3)
    assert not reading.done()
    broker.stored[0].clear()
    store(broker, [b"a", b"b"])
    assert [record.value for record in (await reading).records] == [b"a", b"b"]


async def test_a_log_that_was_cut_behind_what_was_read_stops_its_reader(log: KafkaLog, broker: ScriptedBroker) -> None:
    store(broker, [b"a", b"b", b"c"], epoch=1)
    assert (await log.read(TOPIC, 0, 0, wait_seconds=5)).next_position == 3
    broker.epoch_ends = {1: 2}  # another leader never had the third, and wrote three of its own
    broker.stored[0].clear()
    store(broker, [b"a", b"b"], epoch=1)
    store(broker, [b"C", b"D", b"E"], start=2, epoch=2)
    with pytest.raises(OutOfRange) as refused:
        await log.read(TOPIC, 0, 3, wait_seconds=5)
    assert refused.value.end == 2


async def test_another_leader_that_has_all_of_it_is_read_on(log: KafkaLog, broker: ScriptedBroker) -> None:
    store(broker, [b"a", b"b"], epoch=1)
    assert (await log.read(TOPIC, 0, 0, wait_seconds=5)).next_position == 2
    broker.epoch_ends = {1: 2}
    store(broker, [b"c"], start=2, epoch=2)
    assert [record.value for record in (await log.read(TOPIC, 0, 2, wait_seconds=5)).records] == [b"c"]


async def test_bounds_are_asked_again_until_somebody_answers_and_not_for_ever(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(broker, [b"a", b"b"])
    monkeypatch.setattr(kafka_offsets, "ANSWER_SECONDS", 0.5)
    offsets = Offsets(broker.bootstrap, {})
    assert await offsets.bounds(TOPIC, [0, 1]) == {0: Bounds(0, 2), 1: Bounds(0, 0)}
    broker.mute = True
    with pytest.raises(NotAccepting):
        await offsets.ends([TopicPartition(TOPIC, 0)])
    broker.mute = False
    assert await offsets.ends([TopicPartition(TOPIC, 0)]) == {TopicPartition(TOPIC, 0): 2}
    offsets.close()


async def test_the_watch_outlives_whatever_it_meets(
    log: KafkaLog, broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("nobody thought of this")

    with monkeypatch.context() as patched:
        patched.setattr(log._offsets, "ends", broken)
        assert not (await log.read(TOPIC, 0, 0, wait_seconds=0.1)).records
        async with asyncio.timeout(10):
            while log.watch_failures < 2:
                await asyncio.sleep(0.01)
    connections = list(log._readers[0]._brokers._connections.values())
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    for connection in connections:
        connection.ask = lambda *_: never  # type: ignore[method-assign]
    reading = asyncio.create_task(log.read(TOPIC, 0, 0, wait_seconds=10))
    while any(connection._awaited for connection in connections):
        await asyncio.sleep(0.01)
    store(broker, [b"a"])
    assert (await reading).records, "and still replaces what is stuck"
    assert log.consumer_rebuilds >= 1


@pytest.mark.parametrize("error", [OSError("no such host"), RuntimeError("NetworkSelector closed!")])
async def test_whatever_a_question_runs_into_is_said_to_whoever_asked(
    log: KafkaLog, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(**_: object) -> Any:
        raise error

    monkeypatch.setattr(kafka_clients, "KafkaAdminClient", failing)
    with pytest.raises(NotAccepting, match=str(error)):
        await log.identity(TOPIC)


async def test_a_question_that_never_returns_is_given_up(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(kafka_clients, "KafkaAdminClient", lambda **_: let_go.wait())
    monkeypatch.setattr(kafka_clients, "QUESTION_SECONDS", 0.1)
    async with asyncio.timeout(10):
        with pytest.raises(NotAccepting, match="in time"):
            await log.identity(TOPIC)
    let_go.set()
