"""The embedded log: one SQLite file per topic, durable on return, any process may append and read.

Appends of one process share group commits (`sqlite_writer`); readers in the same process are woken by the commit, those
in other processes see it within 10 ms. Time-stamps never go back within a topic.
"""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from shared.clock import Clock
from shared.errors import NotAccepting, Rejected, TooLarge
from shared.log.port import RECORD_BYTES_MAX, Batch, Bounds, Outgoing, Topic
from shared.log.sqlite_file import Heads, TopicFile, create
from shared.log.sqlite_writer import Append, AskBounds, Request, Writer

POLL_SECONDS = 0.01
"""How often another process's appends are looked for while somebody waits for records; one look costs 2 µs a topic."""
BUSY_POLL_SECONDS = 0.004
BUSY_SECONDS = 0.1
"""So long after something was found it is looked for more often: what comes seldom comes alone."""
TAIL_RECORDS = 256
"""What is not further from the end is read in the event loop: half a millisecond, and less than the way to a thread."""
CHECKPOINT_BYTES = 8 << 20
TIDY_SECONDS = 60.0
MIB = 1 << 20

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")
_log = structlog.get_logger(__name__)


class _OpenTopic:
    """What one process keeps of one topic: connections, threads, and who waits for records."""

    def __init__(self, log: "SqliteLog", path: Path, flushed: bool) -> None:
        self._log, self._path, self._flushed = log, path, flushed
        self.retention_ms: int | None = None
        self.file = TopicFile(path, log.clock)  # the reading connection, used in the reading thread only
        self.partitions, self.identity = self.file.partitions, self.file.identity
        self._watch = TopicFile(path, log.clock)  # used in the event loop only; never waits for a lock in WAL mode
        self._version = -1
        self._ends = list(self._watch.heads().next)
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._reading = ThreadPoolExecutor(1, thread_name_prefix=f"log-reader-{path.stem}")
        self.writer: Writer | None = None

    def start_writer(self) -> Writer:
        """The writer thread, started at its first use: most processes only read most topics."""
        file = TopicFile(
            self._path,
            self._log.clock,
            writes=True,
            synchronous=self._log.synchronous if self._flushed else "NORMAL",
            bytes_max=self._log.topic_bytes_max,
        )
        self.writer = Writer(
            file,
            asyncio.get_running_loop(),
            self._settled,
            disk_reserve_bytes=self._log.disk_reserve_bytes,
            wrote=self._log.wrote,
            clock=self._log.clock,
        )
        return self.writer

    async def fetch(self, topic: str, partition: int, position: int, records_max: int, bytes_max: int) -> Batch:
        """Read once: the newest records in the event loop, more in the topic's reading thread."""
        if self._ends[partition] - position <= TAIL_RECORDS:
            return self._watch.fetch(topic, partition, position, records_max, bytes_max)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._reading, self.file.fetch, topic, partition, position, records_max, bytes_max
        )

    def end(self, partition: int) -> int:
        """The end of the partition as this process knows it."""
        return self._ends[partition]

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for records here."""
        return bool(self._waiting)

    def wait(self, partition: int) -> "asyncio.Future[None]":
        """A future that is done when the partition grows; give it back with `forget`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(partition, set()).add(future)
        return future

    def forget(self, partition: int, future: "asyncio.Future[None]") -> None:
        """Stop waiting."""
        waiting = self._waiting.get(partition, set())
        waiting.discard(future)
        if not waiting:
            self._waiting.pop(partition, None)

    def look(self) -> bool:
        """Wake the readers whose partition grew by another process's append; whether there was one."""
        try:
            version = self._watch.data_version()
            if version != self._version:
                self._grown(self._watch.heads())
                self._version = version
                return True
        except sqlite3.OperationalError as error:  # another process recovers the file after a crash; look again soon
            _log.debug("log_not_readable_yet", file=self._path.name, error=str(error))
        return False

    def wake_all(self) -> None:
        """Wake everybody who waits (the log is closing)."""
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Commit what is queued, end the threads, close the connections. Blocks."""
        if self.writer is not None:
            self.writer.finish()
        self._reading.shutdown()
        self.file.close()
        self._watch.close()

    def _grown(self, heads: Heads) -> None:
        for partition, end in enumerate(heads.next):
            if end > self._ends[partition]:
                self._ends[partition] = end
                for future in self._waiting.get(partition, ()):
                    if not future.done():
                        future.set_result(None)

    def _settled(self, group: Sequence[Request], results: Sequence[object], heads: Heads | None) -> None:
        landed = 0
        for request, result in zip(group, results, strict=True):
            landed += request.size
            future: asyncio.Future[object] = request.future  # type: ignore[assignment]
            if future.done():  # its caller was cancelled; the records are in the log all the same
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._log.landed(landed)
        if heads is not None:
            self._grown(heads)


class SqliteLog:
    """The log port on SQLite files in `folder`. Used from one event loop; `close` it there."""

    appends_whole = True

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        inflight_bytes_max: int = 64 * MIB,
        synchronous: str = "FULL",
        disk_reserve_bytes: int = 64 * MIB,
        topic_bytes_max: int | None = None,
    ) -> None:
        """`synchronous` FULL survives a power cut, NORMAL only a crash of the process. Appends are refused while
        fewer than `disk_reserve_bytes` are free, or a topic's file would grow beyond `topic_bytes_max`."""
        self.folder, self.clock, self.synchronous = folder, clock, synchronous
        self.disk_reserve_bytes, self.topic_bytes_max = disk_reserve_bytes, topic_bytes_max
        self._inflight_bytes_max, self._inflight_bytes = inflight_bytes_max, 0
        self._topics: dict[str, _OpenTopic] = {}
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._readers = 0
        self._housekeeping = threading.Thread(target=self._keep_house, name="log-housekeeping", daemon=True)
        self._house_wakes, self._written_bytes = threading.Event(), 0

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the missing files; LogMismatch where a file has another number of partitions."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for topic in topics:
            path = self._path(topic.name)
            if not path.exists():
                create(path, topic, self.clock.new_id().hex())
            opened = self._open(topic.name, topic.flushed)
            opened.file.check(topic)
            opened.retention_ms = topic.retention_ms
        if not self._housekeeping.is_alive():
            self._housekeeping.start()

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        """One future for the call, whatever its number of records; the port says the rest."""
        opened = self._open(topic)
        size = _size(topic, opened.partitions, records)
        if self._closed:
            raise NotAccepting("the log is closed")
        if self._inflight_bytes and self._inflight_bytes + size > self._inflight_bytes_max:
            raise NotAccepting(f"{self._inflight_bytes >> 20} MiB wait for the disk already")
        if not records:
            return []
        writer = opened.writer or opened.start_writer()
        future: asyncio.Future[list[int]] = writer.loop.create_future()
        self._inflight_bytes += size
        writer.put(Append(future, records, size))
        return await future

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
        """As the port says. Once the log is closed it returns empty."""
        opened = self._open(topic)
        _check_partition(topic, partition, opened.partitions)
        deadline = self._loop_time() + wait_seconds
        waited = False
        while not self._closed:
            known = opened.end(partition)
            if position == known and wait_seconds and not waited:  # nothing new was seen yet: look before reading
                waited = True
                opened.look()
                if opened.end(partition) == known:
                    await self._growth(opened, partition, wait_seconds)
                continue
            batch = await opened.fetch(topic, partition, position, records_max, bytes_max)
            left = deadline - self._loop_time()
            if batch.records or left <= 0:
                return batch
            if opened.end(partition) == known:  # else it grew while we read
                await self._growth(opened, partition, left)
        return Batch((), position)

    async def release(self, topic: str, partition: int, position: int | None = None) -> None:
        """Nothing is kept between reads."""

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        """Bounds of every partition, taken under the file's write lock: every append stamped before is in them."""
        opened = self._open(topic)
        if self._closed:
            raise NotAccepting("the log is closed")
        future: asyncio.Future[dict[int, Bounds]] = asyncio.get_running_loop().create_future()
        (opened.writer or opened.start_writer()).put(AskBounds(future))
        return await future

    async def identity(self, topic: str) -> str:
        """The id written into the file when it was made."""
        return self._open(topic).identity

    async def close(self) -> None:
        """Commit what is queued, then end threads and connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._house_wakes.set()
        if self._looking is not None:
            self._looking.cancel()
        for opened in self._topics.values():
            opened.wake_all()
            if opened.writer is not None:
                opened.writer.hand_over_rest()
            await asyncio.to_thread(opened.close)
        if self._housekeeping.is_alive():
            await asyncio.to_thread(self._housekeeping.join)

    def tidy(self) -> int:
        """Delete records past their topic's retention; returns how many chunks. Housekeeping calls it once a minute."""
        now_ms = self.clock.now_ms()
        deleted = 0
        for opened in list(self._topics.values()):
            if opened.retention_ms is not None:
                file = TopicFile(opened.file.path, self.clock, writes=True)
                try:
                    deleted += file.delete_before(now_ms - opened.retention_ms)
                finally:
                    file.close()
        return deleted

    def landed(self, size: int) -> None:
        """A group of `size` bytes is settled (called in the event loop)."""
        self._inflight_bytes -= size

    def wrote(self, size: int) -> None:
        """`size` bytes were committed (called in a writer thread): wakes housekeeping when the write-ahead log grew."""
        self._written_bytes += size
        if self._written_bytes >= CHECKPOINT_BYTES:
            self._written_bytes = 0
            self._house_wakes.set()

    def _path(self, topic: str) -> Path:
        if not _NAME.fullmatch(topic):
            raise Rejected(f"{topic!r} is not a topic name: small letters, digits, dot, dash and underscore")
        return self.folder / f"{topic}.sqlite"

    def _open(self, topic: str, flushed: bool = True) -> _OpenTopic:
        opened = self._topics.get(topic)
        if opened is None:
            path = self._path(topic)
            if not path.exists():
                raise Rejected(f"unknown topic {topic!r}; `ensure` it first")
            opened = self._topics[topic] = _OpenTopic(self, path, flushed)
        return opened

    async def _growth(self, opened: _OpenTopic, partition: int, seconds: float) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        self._readers += 1
        future = opened.wait(partition)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            self._readers -= 1
            opened.forget(partition, future)

    async def _look(self) -> None:
        busy_until = 0.0
        while self._readers:
            # A list: each of them looks, also behind one that grew.
            grown = [opened.look() for opened in self._topics.values() if opened.is_awaited]
            if any(grown):
                busy_until = self._loop_time() + BUSY_SECONDS
            await asyncio.sleep(BUSY_POLL_SECONDS if self._loop_time() < busy_until else POLL_SECONDS)

    def _keep_house(self) -> None:
        """Retention and checkpoints, away from the appends."""
        tidied = self.clock.monotonic()
        while not self._closed:
            self._house_wakes.wait(TIDY_SECONDS)
            self._house_wakes.clear()
            try:
                self._checkpoint()
                if self.clock.monotonic() - tidied >= TIDY_SECONDS:
                    tidied = self.clock.monotonic()
                    self.tidy()
            except (sqlite3.Error, NotAccepting) as error:  # a full or busy disk; the next round tries again
                _log.warning("log_housekeeping_failed", error=str(error))

    def _checkpoint(self) -> None:
        for opened in list(self._topics.values()):
            file = TopicFile(opened.file.path, self.clock)
            try:
                file.checkpoint()
            finally:
                file.close()

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()


def _size(topic: str, partitions: int, records: Sequence[Outgoing]) -> int:
    """Bytes of an append; TooLarge or Rejected before anything is written."""
    size = 0
    for partition, value, key in records:
        if not 0 <= partition < partitions:
            _check_partition(topic, partition, partitions)
        if len(value) > RECORD_BYTES_MAX:
            raise TooLarge(f"a record of {len(value)} bytes is over RECORD_BYTES_MAX ({RECORD_BYTES_MAX})")
        size += len(value) + len(key)
    return size


def _check_partition(topic: str, partition: int, partitions: int) -> None:
    if not 0 <= partition < partitions:
        raise Rejected(f"topic {topic} has partitions 0..{partitions - 1}, not {partition}")
