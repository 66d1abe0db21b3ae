"""What is particular to the embedded log: several processes on one file, its stamps, retention, and full disks."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import FrozenClock, SystemClock
from shared.errors import LogMismatch, NotAccepting, OutOfRange
from shared.log.ownership import AllPartitions
from shared.log.port import Outgoing, Ownership, Topic
from shared.log.sqlite import SqliteLog
from shared.log.sqlite_writer import GROUPS_AFTER_SLOW, IN_LOOP_BYTES_MAX
from tests.support.logs import Place, read_all, read_to_end, texts, values

HUGE = 1 << 60


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """An empty folder."""
    opened = Place("sqlite", str(tmp_path / "log"))
    yield opened
    await opened.close()


async def test_two_processes_append_to_one_file(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 4)
    processes = [place.appending(topic, 4, name) for name in ("a", "b")]
    acked = set[str]()
    for process in processes:
        assert process.stdout is not None
        acked |= {(await asyncio.to_thread(process.stdout.readline)).strip() for _ in range(500)}
        await log.append(topic, values(0, f"own:{process.pid}"))
        acked.add(f"own:{process.pid}")
    for process in processes:
        process.kill()
        process.wait()
    found = await read_all(log, topic)
    assert acked <= set(texts(found))
    assert len(texts(found)) == len(set(texts(found)))
    for records in found.values():
        assert [record.position for record in records] == list(range(len(records)))
        assert all(one.recorded_at <= other.recorded_at for one, other in itertools.pairwise(records))


async def test_a_reader_sees_another_processes_appends_within_moments(place: Place) -> None:
    reader, writer = place.open(), place.open()  # two logs share nothing but the file, as two processes do
    topic = await place.topic(writer, 2)
    await reader.bounds(topic)
    taken = []
    for number in range(20):
        waiting = asyncio.create_task(reader.read(topic, 1, number, wait_seconds=10))
        assert not (await reader.read(topic, 0, 0, wait_seconds=0.03)).records  # meanwhile the other falls asleep
        await writer.append(topic, values(1, str(number)))
        acked = time.monotonic()
        assert (await waiting).records[0].value == b"%d" % number
        taken.append(time.monotonic() - acked)
    assert sorted(taken)[len(taken) // 2] < 0.05


async def test_a_reader_of_a_process_keeps_up_with_it(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    process = place.appending(topic, 1, "a")
    position, seen = 0, 0
    async with asyncio.timeout(30):
        while seen < 2000:
            batch = await log.read(topic, 0, position, wait_seconds=1)
            seen, position = seen + len(batch.records), batch.next_position
    process.kill()


async def test_stamps_follow_the_clock_and_never_go_back(tmp_path: Path) -> None:
    clock = FrozenClock(1_700_000_000_000)
    log = SqliteLog(tmp_path, clock)
    await log.ensure([Topic("t", 2)])
    await log.append("t", values(0, "a"))
    clock.advance(-60_000)
    await log.append("t", values(1, "b"))
    clock.advance(60_500)
    await log.append("t", values(0, "c"))
    found = await read_all(log, "t")
    assert [record.recorded_at for record in found[0]] == [1_700_000_000_000, 1_700_000_000_500]
    assert [record.recorded_at for record in found[1]] == [1_700_000_000_000]
    await log.close()


async def test_retention_deletes_what_is_old_and_keeps_positions(tmp_path: Path) -> None:
    clock = FrozenClock()
    log = SqliteLog(tmp_path, clock)
    await log.ensure([Topic("short", 2, retention_ms=1000), Topic("kept", 1)])
    await log.append("kept", values(0, "for ever"))
    for number in range(5):
        await log.append("short", [*values(0, str(number)), *values(1, str(number))])
        clock.advance(400)
    assert log.tidy() > 0
    assert await log.bounds("short") == {0: (3, 5), 1: (3, 5)}
    with pytest.raises(OutOfRange) as refused:
        await log.read("short", 0, 2)
    assert (refused.value.earliest, refused.value.end) == (3, 5)
    assert [record.value for record in await read_to_end(log, "short", 1)] == [b"3", b"4"]
    clock.advance(1_000_000)
    log.tidy()
    assert await log.bounds("short") == {0: (5, 5), 1: (5, 5)}
    assert await log.append("short", values(0, "next")) == [5]
    assert [record.position for record in await read_to_end(log, "short", 0)] == [5]
    assert texts(await read_all(log, "kept")) == ["for ever"]
    await log.close()


async def test_a_full_file_refuses_and_the_log_survives(place: Place) -> None:
    small = place.open(topic_bytes_max=2_000_000)
    topic = await place.topic(small, 2)
    acked = list[int]()

    async def fill() -> None:
        for number in itertools.count():
            await small.append(topic, [Outgoing(number % 2, b"%06d" % number + b"x" * 50_000)])
            acked.append(number)

    with pytest.raises(NotAccepting):
        await fill()
    assert len(acked) > 10
    with pytest.raises(NotAccepting):
        await small.append(topic, [Outgoing(0, b"y" * 100_000)])
    assert len(texts(await read_all(small, topic))) == len(acked)
    await small.close()
    wide = place.open()
    await wide.append(topic, [Outgoing(0, b"%06d" % 999_999)])
    found = sorted(int(text[:6]) for text in texts(await read_all(wide, topic)))
    assert found == [*acked, 999_999]


async def test_the_disk_reserve_refuses_appends_and_nothing_else(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 1)
    await log.append(topic, values(0, "a"))
    starved = place.open(disk_reserve_bytes=HUGE)
    with pytest.raises(NotAccepting) as refused:
        await starved.append(topic, values(0, "b"))
    assert refused.value.retry_after_seconds > 1
    both = await asyncio.gather(starved.append(topic, values(0, "c")), starved.bounds(topic), return_exceptions=True)
    assert isinstance(both[0], NotAccepting)
    assert both[1] == {0: (0, 1)}
    assert texts(await read_all(starved, topic)) == ["a"]


async def test_two_processes_may_make_one_topic_at_once(place: Place) -> None:
    logs = [place.open() for _ in range(8)]
    await asyncio.gather(*(log.ensure([Topic("same", 4)]) for log in logs))
    assert len({await log.identity("same") for log in logs}) == 1
    with pytest.raises(LogMismatch):
        await logs[0].ensure([Topic("same", 3)])
    assert [path.name for path in Path(place.place).glob("*.partial")] == []


async def test_the_write_ahead_log_does_not_grow_without_end(place: Place) -> None:
    log = place.open()
    topic = await place.topic(log, 4)
    value = b"x" * 100_000
    for _ in range(20):
        await asyncio.gather(*(log.append(topic, [Outgoing(one % 4, value)]) for one in range(40)))
    write_ahead = Path(place.place) / f"{topic}.sqlite-wal"
    assert write_ahead.stat().st_size < 64 << 20
    assert sum(len(records) for records in (await read_all(log, topic)).values()) == 800


async def test_the_embedded_owner_has_all_partitions() -> None:
    ownership: Ownership = AllPartitions(16)
    await ownership.start()
    assert ownership.assigned() == frozenset(range(16))
    assert ownership.generation() == ownership.generation()
    ownership.progress("touchpoints", {0: 1})
    await ownership.close()


async def test_identities_of_two_folders_differ(tmp_path: Path) -> None:
    logs = [SqliteLog(tmp_path / name, SystemClock()) for name in ("one", "two")]
    for log in logs:
        await log.ensure([Topic("t", 1)])
    assert len({await log.identity("t") for log in logs}) == 2
    for log in logs:
        await log.close()


class _SlowDiskClock(FrozenClock):
    """Every reading of the monotonic time is ten milliseconds after the one before: each commit seems slow."""

    def __init__(self) -> None:
        super().__init__()
        self._readings = itertools.count()

    def monotonic(self) -> float:
        return next(self._readings) / 100


async def test_on_a_slow_disk_loop_and_thread_take_turns_and_order_holds(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path, _SlowDiskClock())
    await log.ensure([Topic("turns", 2)])
    rounds = 3 * (GROUPS_AFTER_SLOW + 1) // 2  # the loop commits the first group, then the thread, then the loop again
    for number in range(rounds):
        burst = [log.append("turns", values(number % 2, f"{number}:{n}")) for n in range(3)]
        large = [log.append("turns", [Outgoing(0, b"x" * (IN_LOOP_BYTES_MAX + 1))])] if number % 20 == 5 else []
        positions = await asyncio.gather(*burst, *large)
        assert [one[0] for one in positions[:3]] == list(range(positions[0][0], positions[0][0] + 3))
    last = [asyncio.ensure_future(log.append("turns", values(1, f"last:{n}"))) for n in range(3)]
    await asyncio.sleep(0)  # they are queued when the log closes
    await log.close()
    assert [len(one.result()) for one in last] == [1, 1, 1]
    again = SqliteLog(tmp_path, SystemClock())
    try:
        found = texts(await read_all(again, "turns"))
    finally:
        await again.close()
    small = [text for text in found if not text.startswith("x")]
    assert sorted(small) == sorted(
        [f"{r}:{n}" for r in range(rounds) for n in range(3)] + [f"last:{n}" for n in range(3)]
    )
