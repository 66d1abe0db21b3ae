"""How fast the log is here: figures and ratios, never an assertion. `python -m tests.bench.bench_log`."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from shared.clock import SystemClock
from shared.log.kafka import KafkaLog
from shared.log.port import Log, Outgoing, Topic
from shared.log.sqlite import SqliteLog
from tests.support.kafka_broker import Broker, BrokerMissingError

EVENT_BYTES = 300
PARTITIONS = 16
SECONDS = 4.0


def flush_ms(folder: Path, times: int = 300) -> list[float]:
    """Times of a raw append of 4 KiB and fdatasync, in milliseconds, sorted."""
    path = folder / "flush"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        os.write(descriptor, b"x" * 4096)
        os.fdatasync(descriptor)
        taken.append((time.perf_counter() - start) * 1000)
    os.close(descriptor)
    path.unlink()
    return sorted(taken)


async def appended_per_second(log: Log, topic: str, requests: int, events: int) -> tuple[float, list[float]]:
    """Events per second by `requests` concurrent callers that append one record of `events` events at a time, and the
    sorted latencies in milliseconds."""
    value = os.urandom(EVENT_BYTES * events)
    taken: list[float] = []
    end = time.perf_counter() + SECONDS

    async def caller(number: int) -> None:
        partition = number % PARTITIONS
        while (start := time.perf_counter()) < end:
            await log.append(topic, [Outgoing(partition, value)])
            taken.append((time.perf_counter() - start) * 1000)
            partition = (partition + 5) % PARTITIONS

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(requests)))
    return len(taken) * events / (time.perf_counter() - started), sorted(taken)


async def read_per_second(log: Log, topic: str, events: int) -> float:
    """Events per second by one reader of all partitions in turn, from the start to the end."""
    bounds = await log.bounds(topic)
    at = {partition: bound.earliest for partition, bound in bounds.items()}
    count = 0
    started = time.perf_counter()
    while open_partitions := [partition for partition, bound in bounds.items() if at[partition] < bound.end]:
        for partition in open_partitions:
            batch = await log.read(topic, partition, at[partition], wait_seconds=5)
            at[partition] = batch.next_position
            count += len(batch.records)
    return count * events / (time.perf_counter() - started)


def line(what: str, rate: float, latencies: list[float] | None = None) -> None:
    """Print one figure."""
    tail = ""
    if latencies:
        p50, p99 = statistics.median(latencies), latencies[int(len(latencies) * 0.99)]
        tail = f"   p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    print(f"{what:<62}{rate:>12,.0f}/s{tail}", flush=True)


async def sqlite(folder: Path) -> None:
    """The embedded log."""
    flush = flush_ms(folder)
    print(f"raw append + fdatasync: p50 {statistics.median(flush):.3f} ms, p99 {flush[int(len(flush) * 0.99)]:.3f} ms")
    log = SqliteLog(folder / "log", SystemClock())
    await log.ensure([Topic(f"bench-{callers}-{events}", PARTITIONS) for callers, events in SHAPES])
    for callers, events in SHAPES:
        topic = f"bench-{callers}-{events}"
        line(
            f"SQLite append, {callers} callers, {events} a record",
            *await appended_per_second(log, topic, callers, events),
        )
        line(f"SQLite read, {events} a record", await read_per_second(log, topic, events))
    await log.close()


async def kafka(bootstrap: str) -> None:
    """Kafka on a real broker, which shares this machine's cores."""
    log = KafkaLog(bootstrap, SystemClock())
    await log.ensure([Topic("warm-up", PARTITIONS)])
    await appended_per_second(log, "warm-up", 256, 20)  # the broker compiles its own code meanwhile
    for callers, events in ((256, 1), (64, 20), (256, 20)):
        topic = f"bench-{callers}-{events}"
        await log.ensure([Topic(topic, PARTITIONS)])
        line(
            f"Kafka append, {callers} callers, {events} a record",
            *await appended_per_second(log, topic, callers, events),
        )
        line(f"Kafka read, {events} a record", await read_per_second(log, topic, events))
    await log.close()


SHAPES = ((1, 1), (64, 1), (256, 1), (64, 20))


def main() -> None:
    """Print the figures of every log that can be run here."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        uvloop.run(sqlite(Path(folder)))  # as the services do
        broker = Broker(Path(folder).absolute() / "kafka")
        try:
            broker.start()
        except BrokerMissingError as error:
            print(f"NOT RUN: Kafka: {error}")
            return
        uvloop.run(kafka(broker.bootstrap))
        broker.kill9()


if __name__ == "__main__":
    main()
