"""The log on Apache Kafka: explicit partitions, our own bound of bytes in flight, positions kept by the reader.

Goes on by itself after any outage of the brokers; what was not acknowledged is raised as NotAccepting (not written) or
OutcomeUnknown (perhaps written). Replication and `min.insync.replicas` are the operator's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from kafka import TopicPartition

from shared.clock import Clock
from shared.errors import NotAccepting, OutOfRange, Rejected, Retryable, TooLarge
from shared.log.kafka_appender import Appender
from shared.log.kafka_clients import Asker, check_partitions
from shared.log.kafka_offsets import Offsets
from shared.log.kafka_reader import Feed, Reader
from shared.log.port import RECORD_BYTES_MAX, Batch, Bounds, Outgoing, Topic

MIB = 1 << 20
KNOWN_RECORDS_SECONDS = 10.0
"""Records known to be there are waited for this long, even by a read that does not want to wait for new ones."""

_log = structlog.get_logger(__name__)


class KafkaLog:
    """The log port on Kafka. Made and used in one event loop; `close` it there."""

    appends_whole = False

    def __init__(
        self,
        bootstrap: str,
        clock: Clock,
        *,
        inflight_bytes_max: int = 64 * MIB,
        replication_factor: int = -1,
        prefix: str = "",
        stall_seconds: float = 20.0,
        security: Mapping[str, Any] | None = None,
        producer_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`bootstrap` is `host:port[,host:port]` · `replication_factor` of topics made here; -1: the cluster's
        `default.replication.factor` · `prefix` stands before every topic's name there · `security`: for
        every connection, in the client library's words (`kafka_security`) · `producer_settings`: other time-outs of
        appends (`request_timeout_ms`, `delivery_timeout_ms`)."""
        self._bootstrap, self._clock, self._prefix = bootstrap, clock, prefix
        self._inflight_bytes_max, self._replication_factor = inflight_bytes_max, replication_factor
        self._stall_seconds = stall_seconds
        self._security = dict(security or {})
        self._producer_settings = dict(producer_settings or {})
        self._asker, self._offsets = Asker(bootstrap, self._security), Offsets(bootstrap, self._security)
        self._identities: dict[str, str] = {}
        self._partitions: dict[str, int] = {}
        self._appender_made: Appender | None = None
        self._readers: list[Reader] = []
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self.consumer_rebuilds = self.watch_failures = 0

    @property
    def producer_rebuilds(self) -> int:
        """How often a stalled producer was replaced."""
        return 0 if self._appender_made is None else self._appender_made.rebuilds

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the missing topics, stamped by the broker; LogMismatch where one has other partitions."""
        topics = [replace(topic, name=self._prefix + topic.name) for topic in topics]
        described = await self._asker.describe([topic.name for topic in topics])
        missing = [topic for topic in topics if topic.name not in described]
        if missing:
            await self._asker.create(missing, self._replication_factor)
            described |= await self._asker.describe([topic.name for topic in missing])
        for topic in topics:
            check_partitions(topic, described[topic.name])
            self._remember(topic.name, described[topic.name])

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        """One latch for the call; the port says the rest."""
        topic = self._prefix + topic
        partitions = self._partitions.get(topic) or await self._describe(topic)
        size = 0
        for partition, value, key in records:
            _check_partition(topic, partition, partitions)
            if len(value) > RECORD_BYTES_MAX:
                raise TooLarge(f"a record of {len(value)} bytes is over RECORD_BYTES_MAX ({RECORD_BYTES_MAX})")
            size += len(value) + len(key)
        if self._closed:
            raise NotAccepting("the log is closed")
        if not records:
            return []
        return await self._appender().append(topic, records, size)

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
        """As the port says. While the brokers are away, and once the log is closed, it returns empty."""
        topic = self._prefix + topic
        partitions = self._partitions.get(topic) or await self._describe(topic)
        _check_partition(topic, partition, partitions)
        wanted = TopicPartition(topic, partition)
        deadline = self._now() + wait_seconds
        while not self._closed:
            reader = self._reader_for(wanted, position)
            feed = reader.feeds.get(wanted)
            try:
                if feed is None or feed.next != position or feed.lost:
                    feed = await self._open_feed(reader, wanted, position)
                batch = await self._from(feed, position, records_max, bytes_max, deadline)
            except Retryable as error:  # nobody answers; go on by ourselves while the caller wants to wait
                _log.info("kafka_read_waits", topic=topic, partition=partition, error=str(error))
                batch = None
                await asyncio.sleep(min(0.2, max(0.0, deadline - self._now())))
            if batch is not None:
                return batch
            if feed is not None and feed.cut_at is not None and position > feed.cut_at:
                raise OutOfRange(topic, partition, position, feed.known_start, feed.cut_at)
            if self._now() >= deadline:
                break
        return Batch((), position)

    async def release(self, topic: str, partition: int, position: int | None = None) -> None:
        """Forget what was prefetched of the partition (behind `position` alone), unless a read of it waits now."""
        wanted = TopicPartition(self._prefix + topic, partition)
        for reader in self._readers:
            feed = reader.feeds.get(wanted)
            if feed is not None and not feed.busy and position in (None, feed.next):
                reader.close_feed(wanted)

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        """Bounds by explicit ListOffsets requests; `end` is the high watermark, so a record that was stamped but is
        not yet replicated may lie beyond it for as long as replication takes."""
        topic = self._prefix + topic
        partitions = self._partitions.get(topic) or await self._describe(topic)
        return await self._offsets.bounds(topic, range(partitions))

    async def identity(self, topic: str) -> str:
        """Kafka's topic id: a topic deleted and made again has another one."""
        topic = self._prefix + topic
        await self._describe(topic)
        return self._identities[topic]

    async def close(self) -> None:
        """Send and await what is queued (for `CLOSE_SECONDS` at most), then end clients and threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        closing = [reader.close() for reader in self._readers]
        if self._appender_made is not None:
            closing.append(self._appender_made.close())
        await asyncio.gather(*closing)
        self._offsets.close()
        await asyncio.sleep(0)  # a closed connection is gone in the next turn of the event loop

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _appender(self) -> Appender:
        if self._appender_made is None:
            self._appender_made = Appender(
                self._bootstrap,
                self._clock,
                asyncio.get_running_loop(),
                inflight_bytes_max=self._inflight_bytes_max,
                stall_seconds=self._stall_seconds,
                settings={**self._security, **self._producer_settings},
            )
            self._watch()
        return self._appender_made

    async def _describe(self, topic: str) -> int:
        described = await self._asker.describe([topic])
        if topic not in described:
            raise Rejected(f"unknown topic {topic!r}; `ensure` it first")
        self._remember(topic, described[topic])
        return self._partitions[topic]

    def _remember(self, topic: str, described: Mapping[str, Any]) -> None:
        if topic not in self._partitions:
            self._appender().warm(topic)
        self._partitions[topic] = len(described["partitions"])
        self._identities[topic] = str(described["topic_id"])

    def _reader_for(self, wanted: TopicPartition, position: int) -> Reader:
        """A reader whose feed stands there; else one that is free for the partition; else one more."""
        free = []
        for reader in self._readers:
            feed = reader.feeds.get(wanted)
            if feed is None or not feed.busy:
                free.append(reader)
            if feed is not None and not feed.busy and feed.next == position:
                return reader
        if not free:
            reader = Reader(self._bootstrap, asyncio.get_running_loop(), self._security)
            self._readers.append(reader)
            self._watch()
            return reader
        return free[0]

    async def _open_feed(self, reader: Reader, wanted: TopicPartition, position: int) -> Feed:
        reader.close_feed(wanted)
        feed = Feed(wanted, position)
        feed.busy = True  # so that no other read takes this reader's partition meanwhile
        reader.feeds[wanted] = feed
        try:
            bounds = (await self._offsets.bounds(wanted.topic, [wanted.partition]))[wanted.partition]
            if not bounds.earliest <= position <= bounds.end:
                raise OutOfRange(wanted.topic, wanted.partition, position, bounds.earliest, bounds.end)
        except BaseException:
            reader.close_feed(wanted)
            raise
        feed.known_start, feed.known_end = bounds
        if not self._closed:
            reader.open(feed)
        return feed

    async def _from(self, feed: Feed, position: int, records_max: int, bytes_max: int, deadline: float) -> Batch | None:
        """The next batch of the feed; None: it was lost, start over."""
        feed.busy = True
        try:
            if not feed.records and deadline <= self._now():
                feed.known_end = max(feed.known_end, (await self._offsets.ends([feed.partition]))[feed.partition])
            if feed.known_end > position:
                deadline = max(deadline, self._now() + KNOWN_RECORDS_SECONDS)
            while not (feed.records or feed.lost or self._closed):
                left = deadline - self._now()
                if left <= 0:
                    return Batch((), position)
                feed.arrival = asyncio.get_running_loop().create_future()
                await asyncio.wait((feed.arrival,), timeout=left)
            return None if feed.lost else feed.take(records_max, bytes_max)
        finally:
            feed.busy = False

    def _watch(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._keep_watch())

    async def _keep_watch(self) -> None:
        """Every now and then: is a producer without acknowledgements, or a consumer without records, stuck?"""
        while True:
            await asyncio.sleep(self._stall_seconds / 4)
            try:
                await self._look()
            except Retryable as error:  # nobody answers: an outage, not a stuck client
                _log.info("kafka_watch_unanswered", error=str(error))
            except Exception as error:  # nothing may end the watch: without it, what is stuck stays stuck
                self.watch_failures += 1
                _log.warning("kafka_watch_failed", error=repr(error), failures=self.watch_failures)

    async def _look(self) -> None:
        if self._appender_made is not None:
            self._appender_made.watch()
        for reader in list(self._readers):
            await self._watch_reader(reader)

    async def _watch_reader(self, reader: Reader) -> None:
        empty = [feed for feed in reader.feeds.values() if not feed.records]
        if not empty:
            return
        ends = await self._offsets.ends([feed.partition for feed in empty])
        now = self._clock.monotonic()
        behind = max(feed.behind_seconds(ends[feed.partition], now) for feed in empty)
        if behind >= self._stall_seconds * 0.75:  # seen first up to a quarter after it began
            self.consumer_rebuilds += 1
            _log.warning("kafka_consumer_rebuilt", behind_seconds=round(behind), rebuilds=self.consumer_rebuilds)
            for feed in empty:
                feed.behind_at = -1
            reader.rebuild()


def _check_partition(topic: str, partition: int, partitions: int) -> None:
    if not 0 <= partition < partitions:
        raise Rejected(f"topic {topic} has partitions 0..{partitions - 1}, not {partition}")
