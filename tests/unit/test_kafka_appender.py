"""What becomes of appends that a broker refuses, does not answer, or answers oddly; and the bytes they go out as."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from kafka.protocol.producer import ProduceRequest
from kafka.record import MemoryRecords

from shared.clock import SystemClock
from shared.errors import NotAccepting, OutcomeUnknown, TooLarge
from shared.log import kafka_wire as wire
from shared.log.kafka_appender import Appender
from shared.log.port import Outgoing
from tests.support.scripted_broker import ScriptedBroker, Vanish

TOPIC = "facts"
NOT_LEADER, TOO_LARGE_CODE, UNAUTHORIZED = 6, 10, 29


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    scripted = ScriptedBroker(TOPIC, 4)
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
async def appender(broker: ScriptedBroker) -> AsyncIterator[Appender]:
    made = appender_of(broker)
    yield made
    await made.close()


def appender_of(broker: ScriptedBroker, delivery_ms: int = 5000) -> Appender:
    return Appender(
        broker.bootstrap,
        SystemClock(),
        asyncio.get_running_loop(),
        inflight_bytes_max=1 << 20,
        stall_seconds=60,
        settings={"request_timeout_ms": 1000, "delivery_timeout_ms": delivery_ms},
    )


def send(appender: Appender, *records: tuple[int, bytes]) -> "asyncio.Future[list[int]]":
    outgoing = [Outgoing(partition, value) for partition, value in records]
    return appender.append(TOPIC, outgoing, sum(len(value) for _, value in records))


async def test_calls_of_one_turn_are_one_request_with_one_batch_a_partition(
    appender: Appender, broker: ScriptedBroker
) -> None:
    calls = [send(appender, (0, b"%d" % number), (1, b"x%d" % number)) for number in range(5)]
    assert await asyncio.gather(*calls) == [[number, number] for number in range(5)]
    assert broker.requests == [[(TOPIC, 0, [b"0", b"1", b"2", b"3", b"4"]), (TOPIC, 1, [b"x%d" % n for n in range(5)])]]


async def test_what_comes_while_a_request_is_on_its_way_shares_the_next(
    appender: Appender, broker: ScriptedBroker
) -> None:
    first = send(appender, (0, b"first"))
    while not broker.requests:
        await asyncio.sleep(0)
    later: list[asyncio.Future[list[int]]] = []
    for number in range(20):
        later.append(send(appender, (0, b"%d" % number)))
        await asyncio.sleep(0)
    await asyncio.gather(first, *later)
    assert len(broker.requests) <= 3
    assert broker.kept[0] == [b"first", *(b"%d" % number for number in range(20))]


async def test_a_partition_whose_leader_moved_is_sent_again_in_its_order(
    appender: Appender, broker: ScriptedBroker
) -> None:
    refusals = iter([NOT_LEADER, NOT_LEADER])
    broker.script = lambda _topic, partition, _values: next(refusals, 0) if partition == 0 else 0
    both = send(appender, (0, b"a"), (1, b"b"))
    while not broker.requests:
        await asyncio.sleep(0)
    after = send(appender, (0, b"c"))
    assert await both == [0, 0]
    assert await after == [1]
    assert broker.kept[0] == [b"a", b"c"]
    assert broker.kept[1] == [b"b"], "what was acknowledged is not sent again"


async def test_a_connection_that_ends_is_made_anew(appender: Appender, broker: ScriptedBroker) -> None:
    ends = iter([True, True])

    def script(_topic: str, _partition: int, _values: list[bytes]) -> int:
        if next(ends, False):
            raise Vanish
        return 0

    broker.script = script
    assert await send(appender, (0, b"a")) == [0]
    await broker.stop()
    appending = send(appender, (0, b"b"))
    await asyncio.sleep(0.05)
    await broker.start()
    assert await appending == [1]


async def test_without_an_answer_in_time_the_outcome_is_unknown_and_later_ones_go_on(broker: ScriptedBroker) -> None:
    appender = appender_of(broker, delivery_ms=1200)
    assert await send(appender, (0, b"a")) == [0]

    def never(_topic: str, _partition: int, _values: list[bytes]) -> int:
        raise Vanish

    broker.script = never
    lost = [send(appender, (0, b"lost"), (1, b"lost")), send(appender, (0, b"lost too"))]
    outcomes = await asyncio.gather(*lost, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, OutcomeUnknown]
    broker.script = lambda _topic, _partition, _values: 0
    assert await send(appender, (0, b"b")) == [1]
    assert broker.kept[0] == [b"a", b"b"], "what was given up is not sent later"
    await appender.close()


async def test_what_a_broker_will_not_take_was_not_written(appender: Appender, broker: ScriptedBroker) -> None:
    broker.script = lambda _topic, partition, _values: UNAUTHORIZED if partition == 0 else 0
    with pytest.raises(NotAccepting, match="TopicAuthorizationFailed"):
        await send(appender, (0, b"a"))
    with pytest.raises(OutcomeUnknown):
        await send(appender, (0, b"a"), (1, b"b"))
    assert await send(appender, (1, b"c")) == [1]


async def test_a_batch_that_is_too_large_goes_record_by_record(appender: Appender, broker: ScriptedBroker) -> None:
    broker.script = lambda _topic, _partition, values: TOO_LARGE_CODE if sum(map(len, values)) > 10 else 0
    calls = [send(appender, (0, b"x" * 6)), send(appender, (0, b"y" * 11)), send(appender, (0, b"z" * 6))]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[1], TooLarge)
    assert [outcomes[0], outcomes[2]] == [[0], [1]]
    assert broker.kept[0] == [b"x" * 6, b"z" * 6]


async def test_a_partition_without_a_leader_waits_for_one_and_the_others_do_not(
    appender: Appender, broker: ScriptedBroker
) -> None:
    broker.leaderless = {2}
    waiting = send(appender, (2, b"a"))
    assert await send(appender, (0, b"b")) == [0]
    assert not waiting.done()
    broker.leaderless = set()
    assert await waiting == [0]


async def test_a_broker_that_does_not_speak_as_we_do_is_named(broker: ScriptedBroker) -> None:
    broker.spoken[ProduceRequest] = (8, 99)
    appender = appender_of(broker, delivery_ms=300)
    with pytest.raises(OutcomeUnknown):
        await send(appender, (0, b"a"))
    understood = {one.key: (one.version, one.version) for one in wire.NEEDED}
    assert wire.lacking(understood) == []
    assert wire.lacking(understood | {0: (8, 99)}) == ["Produce v7"]
    assert broker.requests == []
    await appender.close()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 127, 128, 8191, 8192, 600_000])
def test_batches_are_read_by_the_client_library_as_they_were_meant(size: int) -> None:
    records: Sequence[tuple[bytes, bytes]] = [
        (b"v" * size, b""),
        (b"", b"key"),
        *[(b"%d" % n, b"k" * n) for n in range(200)],
    ]
    body = wire.produce({TOPIC: [(3, wire.record_batch(records, 1_700_000_000_000))], "other": [(0, b"")]}, 1234)
    request = ProduceRequest.decode(wire.frame(wire.PRODUCE, 7, body), version=7, header=True, framed=True)
    assert (request.acks, request.timeout_ms, request.header.correlation_id) == (-1, 1234, 7)
    (partition,) = request.topic_data[0].partition_data
    (batch,) = list(MemoryRecords(bytes(partition.records)))
    assert batch.validate_crc()
    found = list(batch)
    assert [(one.value, one.key or b"") for one in found] == list(records)
    assert [one.offset for one in found] == list(range(len(records)))
    assert {one.timestamp for one in found} == {1_700_000_000_000}
