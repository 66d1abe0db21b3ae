"""Reading from Kafka: one consumer and its thread, explicit partitions and positions, bounded prefetch.

A *feed* is one partition read from one position on. The thread hands records to the event loop, which owns the feeds; a
feed that holds enough is paused until its reader has caught up. No group, no reset, no commit.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from shared.log.kafka_clients import CONSUMER
from shared.log.port import Batch, Record

POLL_MS = 50
POLL_RECORDS = 2000
FETCH_WAIT_MS = 100
"""The broker holds an empty fetch this long; a partition added meanwhile waits for it."""
PREFETCH_BYTES_MAX = 4 << 20
RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Feed:
    """One partition from one position on. Fields of the event loop, except those named `_by_thread`."""

    __slots__ = (
        "arrival",
        "behind_at",
        "behind_since",
        "busy",
        "consumed_bytes",
        "delivered_bytes_by_thread",
        "fetched_by_thread",
        "known_end",
        "lost",
        "next",
        "partition",
        "records",
    )

    def __init__(self, partition: TopicPartition, position: int) -> None:
        self.partition, self.next, self.known_end = partition, position, position
        self.records: deque[Record] = deque()
        self.arrival: asyncio.Future[None] | None = None
        self.busy, self.lost = False, False
        self.behind_at, self.behind_since = -1, 0.0
        self.fetched_by_thread = position
        self.delivered_bytes_by_thread, self.consumed_bytes = 0, 0

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
            self.consumed_bytes += size
        return Batch(tuple(taken), self.next)

    def held_bytes(self) -> int:
        """What was fetched and not taken yet."""
        return self.delivered_bytes_by_thread - self.consumed_bytes

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
    """One consumer. `open`, `close_feed`, `rebuild` and `close` are called in the event loop."""

    def __init__(self, bootstrap: str, loop: asyncio.AbstractEventLoop, settings: Mapping[str, object]) -> None:
        self._settings = {
            **CONSUMER,
            "bootstrap_servers": bootstrap,
            "group_id": None,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "fetch_max_bytes": 16 << 20,
            "max_partition_fetch_bytes": 1 << 20,
            **settings,
        }
        self._loop = loop
        self.feeds: dict[TopicPartition, Feed] = {}
        self._commands: queue.SimpleQueue[tuple[str, Feed | None]] = queue.SimpleQueue()
        self._assigned: dict[TopicPartition, Feed] = {}  # the thread's own view of the feeds
        self._paused: set[TopicPartition] = set()
        self._consumer: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._thread.start()

    def open(self, feed: Feed) -> None:
        """Read this feed from now on; another one of its partition is forgotten."""
        self.feeds[feed.partition] = feed
        self._commands.put(("open", feed))

    def close_feed(self, partition: TopicPartition) -> None:
        """Forget the partition's feed and what it holds."""
        feed = self.feeds.pop(partition, None)
        if feed is not None:
            feed.wake()
            self._commands.put(("close", feed))

    def rebuild(self) -> None:
        """Replace the consumer; every feed goes on where it is."""
        self._commands.put(("rebuild", None))

    async def close(self) -> None:
        """End the thread and its consumer."""
        for feed in self.feeds.values():
            feed.wake()
        self._stopping.set()
        self._commands.put(("stop", None))
        await asyncio.to_thread(self._thread.join)

    # --- in the reading thread

    def _run(self) -> None:
        while self._obey():
            try:
                self._poll()
            except (OffsetOutOfRangeError, LogTruncationError) as error:
                self._lose(error)
            except Exception as error:  # nothing may end this thread: the consumer is made anew and goes on
                _log.warning("kafka_consumer_failed", error=repr(error))
                self._drop()
                self._stopping.wait(RETRY_SECONDS)
        self._drop()

    def _obey(self) -> bool:
        """Take the commands that wait; with nothing to read, wait for one. False: stop."""
        changed = False
        while not self._assigned or not self._commands.empty():
            command, feed = self._commands.get()
            if command == "stop":
                return False
            if command == "rebuild":
                self._drop()
            elif feed is not None:
                changed = self._change(command, feed) or changed
        if changed and self._consumer is not None:
            self._consumer.assign(list(self._assigned))
        return True

    def _change(self, command: str, feed: Feed) -> bool:
        """Returns whether the set of partitions changed."""
        known = feed.partition in self._assigned
        if command == "close":
            if self._assigned.get(feed.partition) is feed:
                del self._assigned[feed.partition]
                self._paused.discard(feed.partition)
                return True
            return False
        self._assigned[feed.partition] = feed
        if self._consumer is not None:
            if not known:
                self._consumer.assign(list(self._assigned))
            self._seek(feed)
        return False

    def _seek(self, feed: Feed) -> None:
        self._consumer.seek(feed.partition, feed.fetched_by_thread)
        self._consumer.resume(feed.partition)
        self._paused.discard(feed.partition)

    def _poll(self) -> None:
        if not self._assigned:
            return
        if self._consumer is None:
            self._consumer = KafkaConsumer(**self._settings)
            self._paused.clear()
            self._consumer.assign(list(self._assigned))
            for feed in self._assigned.values():
                self._seek(feed)
        self._pause_and_resume()
        fetched = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        arrived = [(self._assigned[partition], _records(found)) for partition, found in fetched.items()]
        if arrived:
            for feed, records in arrived:
                feed.fetched_by_thread = records[-1].position + 1
                feed.delivered_bytes_by_thread += sum(len(record.value) for record in records)
            self._tell(self._arrived, arrived)

    def _pause_and_resume(self) -> None:
        for partition, feed in self._assigned.items():
            held = feed.held_bytes()
            if held > PREFETCH_BYTES_MAX and partition not in self._paused:
                self._consumer.pause(partition)
                self._paused.add(partition)
            elif held < PREFETCH_BYTES_MAX // 2 and partition in self._paused:
                self._consumer.resume(partition)
                self._paused.discard(partition)

    def _lose(self, error: KafkaError) -> None:
        """Positions outside the log: their feeds end, and the reads say so."""
        for feed in self._lost_feeds(error):
            self._assigned.pop(feed.partition, None)
            self._paused.discard(feed.partition)
            self._tell(self._lost, feed)
        self._consumer.assign(list(self._assigned))

    def _lost_feeds(self, error: KafkaError) -> Sequence[Feed]:
        named = next((argument for argument in error.args if isinstance(argument, dict)), {})
        found = [self._assigned[partition] for partition in named if partition in self._assigned]
        return found or list(self._assigned.values())  # unnamed: each read finds out by itself whether it is lost

    def _drop(self) -> None:
        dropped, self._consumer = self._consumer, None
        self._paused.clear()
        if dropped is not None:
            try:
                dropped.close(timeout_ms=1000)
            except Exception as error:  # a client in any state must be left behind
                _log.warning("kafka_consumer_close_failed", error=repr(error))

    def _tell(self, callback: Any, argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, argument)

    # --- in the event loop

    def _arrived(self, arrived: Sequence[tuple[Feed, list[Record]]]) -> None:
        for feed, records in arrived:
            feed.records.extend(records)
            feed.wake()

    def _lost(self, feed: Feed) -> None:
        feed.lost = True
        if self.feeds.get(feed.partition) is feed:
            del self.feeds[feed.partition]
        feed.wake()


def _records(found: Sequence[Any]) -> list[Record]:
    return [Record(one.offset, one.timestamp, one.value or b"", one.key or b"") for one in found]
