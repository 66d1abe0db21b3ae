"""What every log promises (design §9): the same cases on SQLite and on a real Kafka broker."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.errors import LogMismatch, NotAccepting, OutOfRange, Rejected, TooLarge
from shared.log.port import RECORD_BYTES_MAX, Log, Outgoing, Topic
from tests.support.logs import Place, read_all, read_to_end, texts, values

ALLOWANCE_MS = 250


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty SQLite folder, or the session's Kafka broker."""
    kind: str = request.param
    where = str(tmp_path / "log") if kind == "sqlite" else request.getfixturevalue("broker").bootstrap
    opened = Place(kind, where)
    yield opened
    await opened.close()


async def test_records_come_back_in_order_per_partition_and_as_they_were(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 3)
    sent = [Outgoing(number % 3, os.urandom(number * 7), key=b"k%d" % number) for number in range(300)]
    positions = await log.append(topic, sent)
    found = await read_all(log, topic)
    for partition in range(3):
        wanted = [(record.value, record.key) for record in sent if record.partition == partition]
        assert [(record.value, record.key) for record in found[partition]] == wanted
        given = [at for record, at in zip(sent, positions, strict=True) if record.partition == partition]
        assert [record.position for record in found[partition]] == given


async def test_positions_grow_strictly_and_stamps_never_go_back(place: Place) -> None:
    log, clock = place.open(), SystemClock()
    topic = await place.topic(log, 1)
    before = clock.now_ms()
    positions = [(await log.append(topic, values(0, str(number))))[0] for number in range(20)]
    after = clock.now_ms()
    assert all(one < other for one, other in itertools.pairwise(positions))
    stamps = [record.recorded_at for record in await read_to_end(log, topic, 0)]
    assert stamps == sorted(stamps)
    assert before - ALLOWANCE_MS <= stamps[0] <= stamps[-1] <= after + ALLOWANCE_MS


async def test_concurrent_appenders_get_positions_of_their_own(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 4)

    async def caller(name: int) -> list[tuple[int, int, bytes]]:
        mine = []
        for number in range(25):
            records = [Outgoing((name + step) % 4, b"%d:%d:%d" % (name, number, step)) for step in range(2)]
            positions = await log.append(topic, records)
            mine += [(one.partition, at, one.value) for one, at in zip(records, positions, strict=True)]
        return mine

    acked = [item for mine in await asyncio.gather(*(caller(name) for name in range(32))) for item in mine]
    found = await read_all(log, topic)
    assert {(at, one.position, one.value) for at, records in found.items() for one in records} == set(acked)
    assert len(acked) == 32 * 50


async def test_limits_cut_a_batch_but_never_to_nothing(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    await log.append(topic, [Outgoing(0, bytes([number]) * 1000) for number in range(50)])
    few = await log.read(topic, 0, 0, records_max=7, wait_seconds=10)
    assert len(few.records) == 7
    small = await log.read(topic, 0, few.next_position, bytes_max=2500, wait_seconds=10)
    assert [record.value[0] for record in small.records] == [7, 8]
    one = await log.read(topic, 0, small.next_position, bytes_max=1, wait_seconds=10)
    assert [record.value[0] for record in one.records] == [9]
    assert len(await read_to_end(log, topic, 0, records_max=3)) == 50


async def test_an_empty_read_waits_and_then_returns(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    (position,) = await log.append(topic, values(0, "only"))
    end = (await log.bounds(topic))[0].end
    assert end == position + 1
    started = time.monotonic()
    batch = await log.read(topic, 0, end, wait_seconds=0.4)
    assert batch.records == ()
    assert batch.next_position == end
    assert 0.35 <= time.monotonic() - started < 5


async def test_a_read_that_does_not_wait_returns_what_is_there(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    assert (await log.read(topic, 0, 0)).records == ()
    for number in range(5):
        (position,) = await log.append(topic, values(0, str(number)))
        batch = await log.read(topic, 0, position)
        assert [record.value for record in batch.records] == [b"%d" % number]


async def test_a_waiting_reader_is_woken_by_an_append(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    taken = []
    for number in range(15):
        position = (await log.bounds(topic))[1].end
        waiting = asyncio.create_task(log.read(topic, 1, position, wait_seconds=10))
        assert not (await log.read(topic, 0, 0, wait_seconds=0.03)).records  # meanwhile the other falls asleep
        await log.append(topic, values(1, str(number)))
        acked = time.monotonic()
        batch = await waiting
        taken.append(time.monotonic() - acked)
        assert [record.value for record in batch.records] == [b"%d" % number]
    if place.kind == "sqlite":
        assert sorted(taken)[len(taken) // 2] < 0.05


async def test_positions_outside_the_log_are_refused_on_both_sides(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    await log.append(topic, values(0, "a", "b"))
    for position in (3, 1_000_000, -1):
        with pytest.raises(OutOfRange) as refused:
            await log.read(topic, 0, position, wait_seconds=5)
        assert (refused.value.earliest, refused.value.end) == (0, 2)
    assert [record.value for record in (await log.read(topic, 0, 1, wait_seconds=5)).records] == [b"b"]


async def test_the_largest_record_fits_and_a_larger_one_writes_nothing(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    largest = os.urandom(RECORD_BYTES_MAX)
    with pytest.raises(TooLarge):
        await log.append(topic, [Outgoing(0, b"small"), Outgoing(0, largest + b"x")])
    await log.append(topic, [Outgoing(0, largest, key=b"k" * 16), Outgoing(0, b"after")])
    assert [record.value for record in await read_to_end(log, topic, 0)] == [largest, b"after"]


async def test_a_large_append_is_whole_and_in_order(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    sent = [Outgoing(number % 2, bytes([number]) * 200_000) for number in range(40)]
    await log.append(topic, sent)
    found = await read_all(log, topic)
    assert [record.value[0] for record in found[1]] == list(range(1, 40, 2))


async def test_a_busy_partition_does_not_starve_the_others(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 16)
    await log.append(topic, [Outgoing(0, b"x" * 1000) for _ in range(5000)])
    await log.append(topic, [Outgoing(partition, b"quiet") for partition in range(1, 16)])

    async def first(partition: int) -> bytes:
        return (await log.read(topic, partition, 0, wait_seconds=10)).records[0].value

    busy = asyncio.create_task(read_to_end(log, topic, 0))
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(first(partition) for partition in range(1, 16))) == [b"quiet"] * 15
    assert len(await busy) == 5000


async def test_two_readers_are_independent(place: Place) -> None:
    log, other = place.open(), place.open()
    topic = await place.topic(log, 1)
    await log.append(topic, values(0, *map(str, range(100))))

    async def reader(through: Log, step: int) -> list[str]:
        found: list[str] = []
        position = 0
        while len(found) < 101:
            batch = await through.read(topic, 0, position, records_max=step, wait_seconds=10)
            found += [record.value.decode() for record in batch.records]
            position = batch.next_position
        return found

    readers = [asyncio.create_task(reader(through, step)) for through, step in ((log, 3), (log, 50), (other, 7))]
    await log.append(topic, values(0, "100"))
    async with asyncio.timeout(60):
        for found in await asyncio.gather(*readers):
            assert found == [str(number) for number in range(101)]


async def test_a_reader_may_go_back_and_skip_forward(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    await log.append(topic, values(0, *map(str, range(30))))
    for position in (0, 20, 5, 29, 5, 0):
        batch = await log.read(topic, 0, position, records_max=1, wait_seconds=10)
        assert batch.records[0].value == b"%d" % position
        assert batch.next_position == position + 1
    await log.release(topic, 0)
    await log.release(topic, 0)
    assert (await log.read(topic, 0, 7, records_max=1, wait_seconds=10)).records[0].value == b"7"


async def test_cancelled_calls_leave_the_log_as_it_was(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    await log.append(topic, values(0, "first"))
    read = asyncio.create_task(log.read(topic, 0, 1, wait_seconds=30))
    assert not (await log.read(topic, 1, 0, wait_seconds=0.05)).records  # meanwhile the other falls asleep
    read.cancel()
    append = asyncio.create_task(log.append(topic, values(0, "perhaps")))
    await asyncio.sleep(0)
    append.cancel()
    await asyncio.gather(read, append, return_exceptions=True)
    assert read.cancelled()
    await log.append(topic, values(0, "last"))
    found = [record.value for record in await read_to_end(log, topic, 0)]
    assert found in ([b"first", b"perhaps", b"last"], [b"first", b"last"])


async def test_ensure_is_idempotent_and_refuses_other_partitions(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 4, retention_ms=3_600_000)
    await log.append(topic, values(3, "kept"))
    await log.ensure([Topic(topic, 4, retention_ms=3_600_000)])
    with pytest.raises(LogMismatch):
        await log.ensure([Topic(topic, 5)])
    assert texts(await read_all(log, topic)) == ["kept"]


async def test_an_unknown_topic_or_partition_is_refused_soon(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    started = time.monotonic()
    with pytest.raises(Rejected):
        await log.append("never-made", values(0, "x"))
    with pytest.raises(Rejected):
        await log.read("never-made", 0, 0)
    assert time.monotonic() - started < 10
    for partition in (2, -1):
        with pytest.raises(Rejected):
            await log.append(topic, values(partition, "x"))
        with pytest.raises(Rejected):
            await log.read(topic, partition, 0)


async def test_close_finishes_what_was_begun_and_refuses_what_comes_after(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 2)
    appends = [asyncio.create_task(log.append(topic, values(number % 2, str(number)))) for number in range(200)]
    waiting = asyncio.create_task(log.read(topic, 0, 0, records_max=1, wait_seconds=30))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await log.close()
        await asyncio.gather(*appends)
        await waiting
    with pytest.raises(NotAccepting):
        await log.append(topic, values(0, "late"))
    await log.close()
    assert sorted(texts(await read_all(place.open(), topic)), key=int) == [str(number) for number in range(200)]


async def test_identity_belongs_to_the_topic_and_survives_reopening(place: Place) -> None:
    log = place.open()
    topic, other = await place.topic(log), await place.topic(log)
    identity = await log.identity(topic)
    assert identity
    assert identity != await log.identity(other)
    assert await place.open().identity(topic) == identity


async def test_bounds_cover_every_append_stamped_before(place: Place) -> None:
    log, other = place.open(), place.open()
    topic = await place.topic(log, 2)
    assert await other.bounds(topic) == {0: (0, 0), 1: (0, 0)}
    appending = True

    async def keep_appending() -> None:
        while appending:
            await log.append(topic, values(0, "x"))

    background = [asyncio.create_task(keep_appending()) for _ in range(4)]
    for _ in range(20):
        (position,) = await log.append(topic, values(1, "y"))
        assert (await other.bounds(topic))[1].end == position + 1
    appending = False
    await asyncio.gather(*background)


async def test_what_was_acknowledged_survives_kill_9_of_the_process(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 4)
    process = place.appending(topic, 4, "victim")
    assert process.stdout is not None
    acked = [await asyncio.to_thread(process.stdout.readline) for _ in range(500)]
    process.kill()
    acked += process.stdout.readlines()
    whole = {line.strip() for line in acked if line.endswith("\n")}
    assert len(whole) >= 500
    found = texts(await read_all(log, topic))
    assert whole <= set(found)
    assert len(found) == len(set(found))
    await log.append(topic, values(0, "after"))


async def test_too_much_in_flight_is_refused_and_written_nowhere(place: Place) -> None:
    log = place.open(inflight_bytes_max=1_000_000)
    topic = await place.topic(log, 1)
    appends = [log.append(topic, [Outgoing(0, b"%03d" % number + b"x" * 100_000)]) for number in range(40)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    refused = {number for number, outcome in enumerate(outcomes) if isinstance(outcome, NotAccepting)}
    assert refused
    assert len(refused) + sum(isinstance(outcome, list) for outcome in outcomes) == 40
    found = {int(record.value[:3]) for record in await read_to_end(log, topic, 0)}
    assert found == set(range(40)) - refused
    assert await log.append(topic, values(0, "again"))
