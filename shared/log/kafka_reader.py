"""Reading from Kafka in our own event loop: explicit partitions and positions, bounded prefetch.

A *feed* is one partition read from one position on. Each broker is asked for all feeds that it leads by one request at
a time, which it holds until there is something; so a record is here a moment after it was written, and what comes while
the loop is busy comes together. A feed that has just begun would wait behind a request that the broker holds: it is
asked for over a connection of its own until it has caught up. No group, no reset, no commit.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from kafka import TopicPartition
from kafka.errors import OffsetOutOfRangeError, for_code

from shared.log import kafka_wire as wire
from shared.log.kafka_batches import opened
from shared.log.kafka_brokers import Brokers
from shared.log.kafka_connection import Connection, Unreachable
from shared.log.port import Batch, Record

FETCH_WAIT_MS = 100
"""The broker holds an empty fetch this long; a feed that has caught up meanwhile waits for it."""
CATCHING_UP, FOLLOWING = "catching up", "following"
"""The two ways in which a broker is asked, each over its own connection: at once, and held until there is something."""
FETCH_BYTES, PARTITION_BYTES = 2 << 20, 1 << 20
"""So much is taken up before other work of the event loop gets a turn."""
PREFETCH_BYTES_MAX = 4 << 20
ANSWER_SECONDS = 12.0
RETRY_SECONDS = 0.1
FULL_SECONDS = 0.01

_log = structlog.get_logger(__name__)


class Feed:
    """One partition from one position on."""

    __slots__ = (
        "arrival",
        "behind_at",
        "behind_since",
        "busy",
        "caught_up",
        "cut_at",
        "epoch",
        "fed",
        "fetch_from",
        "held_bytes",
        "known_end",
        "known_start",
        "lost",
        "next",
        "partition",
        "records",
    )

    def __init__(self, partition: TopicPartition, position: int) -> None:
        self.partition, self.next = partition, position
        self.known_start = self.known_end = position
        self.records: deque[Record] = deque()
        self.arrival: asyncio.Future[None] | None = None
        self.busy, self.lost, self.caught_up = False, False, False
        self.cut_at: int | None = None  # lost because the log ended there, and other records follow
        self.behind_at, self.behind_since = -1, 0.0
        self.fetch_from, self.held_bytes = position, 0
        self.epoch, self.fed = -1, 0  # of the leader that wrote what was read last · when it was fed, as a number

    def take(self, records_max: int, bytes_max: int) -> Batch:
        """The next records within the limits, at least one when there is one."""
        taken: list[Record] = []
        size = 0
        while self.records and len(taken) < max(records_max, 1):
            length = len(self.records[0].value)
            if taken and size + length > bytes_max:
                break
            taken.append(self.records.popleft())
            size += length
        if taken:
            self.next = taken[-1].position + 1
            self.held_bytes -= size
        return Batch(tuple(taken), self.next)

    def give(self, records: Sequence[Record], fetch_from: int) -> None:
        """What was fetched; the read that waits is woken."""
        self.fetch_from = fetch_from
        if records:
            self.records.extend(records)
            self.held_bytes += sum(len(record.value) for record in records)
            self.wake()

    def behind_seconds(self, end: int, now: float) -> float:
        """How long records up to `end` are known to be missing here without any arriving; 0 when none are missing."""
        if self.records or end <= self.next:
            self.behind_at = -1
        elif self.behind_at != self.next:
            self.behind_at, self.behind_since = self.next, now
        return now - self.behind_since if self.behind_at >= 0 else 0.0

    def wake(self) -> None:
        """Wake the read that waits."""
        if self.arrival is not None and not self.arrival.done():
            self.arrival.set_result(None)


class Reader:
    """Feeds of different partitions, and the fetching for them."""

    def __init__(self, bootstrap: str, loop: asyncio.AbstractEventLoop, settings: Mapping[str, Any]) -> None:
        """`settings`: security in the client library's words."""
        self._brokers, self._loop = Brokers(bootstrap, settings), loop
        self.feeds: dict[TopicPartition, Feed] = {}
        self._open: dict[TopicPartition, Feed] = {}  # those of `feeds` that are fetched for
        self._tasks: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._fed = 0

    def open(self, feed: Feed) -> None:
        """Read this feed from now on; another one of its partition is forgotten."""
        self.feeds[feed.partition] = self._open[feed.partition] = feed
        self._spread()

    def close_feed(self, partition: TopicPartition) -> None:
        """Forget the partition's feed and what it holds."""
        self._open.pop(partition, None)
        feed = self.feeds.pop(partition, None)
        if feed is not None:
            feed.wake()

    def rebuild(self) -> None:
        """Fetch anew over other connections; every feed goes on where it is."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._brokers.close()
        self._spread()

    async def close(self) -> None:
        """End the fetching and close the connections."""
        self._open.clear()
        for feed in self.feeds.values():
            feed.wake()
        ending = [task for task in (*self._tasks.values(), self._learning) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._brokers.end()

    # --- who is asked for what

    def _spread(self) -> None:
        """See that somebody fetches for every feed."""
        for partition, feed in self._open.items():
            node, way = self._brokers.leader(*partition), _way(feed)
            if node is None:
                if self._learning is None:
                    self._learning = self._loop.create_task(self._learn())
            elif (node, way) not in self._tasks:
                self._tasks[node, way] = self._loop.create_task(self._feed(node, way))

    def _asked_for(self, node: int, way: str) -> list[Feed]:
        """Those fed longest ago first: the answer is filled in this order, up to its bound."""
        found = [
            feed
            for partition, feed in self._open.items()
            if _way(feed) == way and self._brokers.leader(*partition) == node
        ]
        return sorted(found, key=lambda feed: feed.fed)

    async def _learn(self) -> None:
        try:
            while any(self._brokers.leader(*partition) is None for partition in self._open):
                try:
                    await self._brokers.learn({partition.topic for partition in self._open})
                except Exception as error:  # nothing may end this: the feeds wait for it
                    _log.info("kafka_leaders_unknown", error=repr(error))
                self._spread()
                await asyncio.sleep(max(RETRY_SECONDS, self._brokers.pause_seconds()))
        finally:
            self._learning = None

    async def _feed(self, node: int, way: str) -> None:
        """Fetch from one broker for as long as it is to be asked for any feed in this way."""
        while feeds := self._asked_for(node, way):
            hungry = [feed for feed in feeds if feed.held_bytes < PREFETCH_BYTES_MAX]
            try:
                if hungry:
                    await self._fetch(node, way, hungry)
                else:
                    await asyncio.sleep(FULL_SECONDS)
            except Exception as error:  # nothing may end this: a connection is made anew, and it goes on
                _log.info("kafka_fetch_failed", node=node, error=repr(error))
                await asyncio.sleep(max(RETRY_SECONDS, self._brokers.pause_seconds()))
                for feed in feeds:
                    self._brokers.forget(feed.partition.topic)
        if self._tasks.get((node, way)) is asyncio.current_task():
            del self._tasks[node, way]
        self._spread()

    # --- what they say

    async def _fetch(self, node: int, way: str, feeds: Sequence[Feed]) -> None:
        connection = await self._brokers.connection(node, way)
        wanted: dict[str, list[tuple[int, int]]] = {}
        for feed in feeds:
            wanted.setdefault(feed.partition.topic, []).append((feed.partition.partition, feed.fetch_from))
        wait_ms = FETCH_WAIT_MS if way == FOLLOWING else 0
        body = wire.fetch(wanted, wait_ms, FETCH_BYTES, PARTITION_BYTES)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await connection.ask(wire.FETCH, body)
        except TimeoutError:
            connection.close("no answer in time")
            raise
        asked = {feed.partition: feed for feed in feeds}
        brought, throttle_ms = wire.fetched(answer)
        for one in brought:
            feed = asked[TopicPartition(one.topic, one.partition)]
            if self._open.get(feed.partition) is feed:  # it was not closed meanwhile
                held = feed.held_bytes
                await self._take_up(connection, feed, one)
                feed.caught_up = feed.caught_up or feed.held_bytes == held
        if way == CATCHING_UP:
            self._spread()
        await asyncio.sleep(throttle_ms / 1000)

    async def _take_up(self, connection: Connection, feed: Feed, brought: wire.Fetched) -> None:
        """Raises Unreachable where the partition must be asked for elsewhere, CorruptRecordError for broken bytes."""
        if brought.code == OffsetOutOfRangeError.errno:
            self._lose(feed, "out of range")
        elif brought.code:
            raise Unreachable(f"{brought.topic}/{brought.partition}: {for_code(brought.code).__name__}")
        for batch in opened(brought.batches, feed.fetch_from):
            if batch.epoch > feed.epoch >= 0:
                ended_at = await self._end_of_epoch(connection, feed)
                if 0 <= ended_at < feed.fetch_from:
                    feed.cut_at = ended_at
                    self._lose(feed, f"the log was cut at {ended_at}, behind what was read")
                    return
            feed.epoch = batch.epoch
            self._fed += 1
            feed.fed = self._fed
            feed.give(batch.records, batch.next_position)

    async def _end_of_epoch(self, connection: Connection, feed: Feed) -> int:
        """Another leader wrote on: where does the log end that is by the ones before?"""
        asking = wire.epoch_end(feed.partition.topic, feed.partition.partition, feed.epoch)
        async with asyncio.timeout(ANSWER_SECONDS):
            found = wire.epoch_ended(await connection.ask(wire.EPOCH_ENDS, asking))
        if found.code:
            raise Unreachable(f"{found.topic}/{found.partition}: {for_code(found.code).__name__}")
        return found.position

    def _lose(self, feed: Feed, why: str) -> None:
        """Its position is outside the log: the feed ends, and the read says so."""
        _log.warning("kafka_feed_lost", partition=str(feed.partition), position=feed.fetch_from, why=why)
        feed.lost = True
        if self._open.get(feed.partition) is feed:
            del self._open[feed.partition]
        if self.feeds.get(feed.partition) is feed:
            del self.feeds[feed.partition]
        feed.wake()


def _way(feed: Feed) -> str:
    return FOLLOWING if feed.caught_up else CATCHING_UP
