"""One topic in one SQLite file: its tables, the packing of records, and blocking statements on one connection.

A *chunk* is a run of consecutive records of one partition that one transaction appended; its row's id is
`partition << 47 | position of its first record`, so that one integer key finds any position and each partition
grows at an end of its own. The single row `head` holds the last stamp and, for each partition, the earliest and the
next position: it is what an append, `bounds` and a waiting reader need, and it changes in the chunk's transaction.
"""

import os
import sqlite3
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from shared.clock import Clock
from shared.errors import LogMismatch, NotAccepting, OutcomeUnknown, OutOfRange
from shared.log.port import Batch, Bounds, Outgoing, Record, Topic

POSITION_BITS = 47
POSITION_MASK = (1 << POSITION_BITS) - 1
CHUNK_BYTES = 256 * 1024
"""A chunk is closed when it holds this much, so that a small read never loads a large group commit."""
LOCK_SECONDS = 5.0
LOCK_PAUSE_SECONDS = 0.0005
PAGE_BYTES = 1024
"""Small on purpose: a group commit writes one page at least for each partition it touches (measured: 469 µs a group
of 64 records with pages of 1 KiB, 833 µs with 4 KiB)."""
WAL_PAGES_MAX = (32 << 20) // PAGE_BYTES
"""Backstop: beyond 32 MiB the writer itself moves the write-ahead log into the file; housekeeping does so earlier."""
TIDY_CHUNKS = 500

_SCHEMA = """
CREATE TABLE meta (identity TEXT NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE head (stamp INTEGER NOT NULL, next BLOB NOT NULL, earliest BLOB NOT NULL);
CREATE TABLE chunk (id INTEGER PRIMARY KEY, recorded_at INTEGER NOT NULL, body BLOB NOT NULL);
"""


class Heads(NamedTuple):
    """The last stamp given in the file; next and earliest position of each partition."""

    stamp: int
    next: "array[int]"
    earliest: "array[int]"


class Committed(NamedTuple):
    """Positions of each append of a group, in order, and the heads after it."""

    positions: list[list[int]]
    heads: Heads


class _Chunk:
    """Records of one partition that will share a row."""

    __slots__ = ("records", "row_id", "size")

    def __init__(self, row_id: int) -> None:
        self.row_id, self.size = row_id, 0
        self.records: list[Outgoing] = []

    def row(self, stamp: int) -> tuple[int, int, bytes]:
        return self.row_id, stamp, pack(self.records)


def pack(records: Sequence[Outgoing]) -> bytes:
    """A chunk's body: how many, the length of each key and value (u32 little-endian), then their bytes."""
    parts: list[bytes] = []
    for _, value, key in records:
        parts += (key, value)
    return b"".join((struct.pack(f"<I{len(parts)}I", len(records), *map(len, parts)), *parts))


def unpack(body: bytes, first: int, recorded_at: int, position: int) -> list[Record]:
    """The records of a chunk that starts at `first`, from `position` on."""
    (count,) = struct.unpack_from("<I", body)
    lengths = struct.unpack_from(f"<{2 * count}I", body, 4)
    records = []
    at = 4 + 8 * count
    for index in range(count):
        key_end = at + lengths[2 * index]
        value_end = key_end + lengths[2 * index + 1]
        if first + index >= position:
            records.append(Record(first + index, recorded_at, body[key_end:value_end], body[at:key_end]))
        at = value_end
    return records


def cut(records: list[Record], position: int, records_max: int, bytes_max: int) -> Batch:
    """A batch of the first records within the limits (at least one), and where to read on."""
    size = 0
    for count, record in enumerate(records):
        size += len(record.value)
        if count and (count >= records_max or size > bytes_max):
            records = records[:count]
            break
    return Batch(tuple(records), records[-1].position + 1 if records else position)


def bounds_of(heads: Heads) -> dict[int, Bounds]:
    """The heads in the port's words."""
    return {
        partition: Bounds(earliest, end)
        for partition, (earliest, end) in enumerate(zip(heads.earliest, heads.next, strict=True))
    }


def create(path: Path, topic: Topic, identity: str) -> None:
    """Make the topic's file whole under another name, then give it its name: of several processes one wins."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    connection = sqlite3.connect(partial, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO meta VALUES (?, ?)", (identity, topic.partitions))
        zeros = array("q", [0] * topic.partitions).tobytes()
        connection.execute("INSERT INTO head VALUES (0, ?, ?)", (zeros, zeros))
    finally:
        connection.close()
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        partial.unlink()
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """A power cut must not take back a file's name whose records were acknowledged."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TopicFile:
    """One connection to one topic's file. Blocking; used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        writes: bool = False,
        synchronous: str = "FULL",
        bytes_max: int | None = None,
    ) -> None:
        self.path, self._clock = path, clock
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=0 if writes else LOCK_SECONDS,  # a writer waits in `_begin`
            isolation_level=None,
            check_same_thread=False,
        )
        self._run(f"PRAGMA synchronous={synchronous}")
        self._run(f"PRAGMA wal_autocheckpoint={WAL_PAGES_MAX}")
        self.identity: str
        self.partitions: int
        self.identity, self.partitions = self._run("SELECT identity, partitions FROM meta").fetchone()
        if bytes_max is not None:
            self._run(f"PRAGMA max_page_count={max(1, bytes_max // PAGE_BYTES)}")

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        self._connection.close()

    def check(self, topic: Topic) -> None:
        """Raise LogMismatch when the file was made with another number of partitions."""
        if self.partitions != topic.partitions:
            raise LogMismatch(
                f"topic {topic.name} has {self.partitions} partitions in {self.path}, not {topic.partitions}; "
                "set the number it was made with, or copy it to a new topic"
            )

    def heads(self) -> Heads:
        """The heads as of now."""
        stamp, following, earliest = self._run("SELECT stamp, next, earliest FROM head").fetchone()
        return Heads(stamp, array("q", following), array("q", earliest))

    def bounds(self) -> dict[int, Bounds]:
        """Bounds of every partition, read under the write lock: whatever was stamped before is in them."""
        with self._locked():
            return bounds_of(self.heads())

    def data_version(self) -> int:
        """A number that changes whenever another connection, of any process, commits."""
        version: int = self._run("PRAGMA data_version").fetchone()[0]
        return version

    def append(self, appends: Sequence[Sequence[Outgoing]], begun: bool = False) -> Committed:
        """Append a group in one transaction; the stamp and the positions are given under its lock. `begun`: `try_begin`
        has taken it.

        Raises NotAccepting when nothing was written (no lock, disk full), OutcomeUnknown when the commit itself failed.
        """
        with self._locked(begun):
            return self._insert(appends)

    def try_begin(self) -> bool:
        """Take the write lock for an `append` that is `begun`, without waiting; whether that worked."""
        try:
            self._run("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True

    def _insert(self, appends: Sequence[Sequence[Outgoing]]) -> Committed:
        found = self.heads()
        heads = Heads(max(found.stamp, self._clock.now_ms()), found.next, found.earliest)
        following = heads.next
        chunks: dict[int, _Chunk] = {}
        rows: list[tuple[int, int, bytes]] = []
        positions = []
        for records in appends:
            given = []
            for record in records:
                partition = record[0]
                chunk = chunks.get(partition)
                if chunk is None or chunk.size >= CHUNK_BYTES:
                    if chunk is not None:
                        rows.append(chunk.row(heads.stamp))
                    chunk = chunks[partition] = _Chunk(partition << POSITION_BITS | following[partition])
                chunk.records.append(record)
                chunk.size += len(record[1])
                given.append(following[partition])
                following[partition] += 1
            positions.append(given)
        rows += [chunk.row(heads.stamp) for chunk in chunks.values()]
        self._insert_rows(rows)
        self._run("UPDATE head SET stamp = ?, next = ?", (heads.stamp, following.tobytes()))
        return Committed(positions, heads)

    def _insert_rows(self, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """One statement for up to 64 chunks: each step of a statement waits for the interpreter lock once, and a busy
        event loop makes that wait long."""
        for at in range(0, len(rows), 64):
            some = rows[at : at + 64]
            self._run("INSERT INTO chunk VALUES " + ", ".join(["(?, ?, ?)"] * len(some)), list(chain(*some)))

    def fetch(self, topic: str, partition: int, position: int, records_max: int, bytes_max: int) -> Batch:
        """Records from `position` on, at least one where there is one. Raises OutOfRange."""
        low, high = partition << POSITION_BITS, (partition + 1) << POSITION_BITS
        at = low | min(max(position, 0), POSITION_MASK)
        cursor = self._run(
            "SELECT id, recorded_at, body FROM chunk WHERE id < ? AND id >= "
            "coalesce((SELECT max(id) FROM chunk WHERE id BETWEEN ? AND ?), ?) ORDER BY id",
            (high, low, at, at),
        )
        records: list[Record] = []
        size = 0
        for row_id, recorded_at, body in cursor:
            records += unpack(body, row_id & POSITION_MASK, recorded_at, position)
            size += len(body)
            if len(records) >= records_max or size >= bytes_max:
                break
        cursor.close()
        if not records or records[0].position != position:
            # Asked after the chunks: whatever was deleted before they were read is in these heads already.
            self._check_range(topic, partition, position)
        return cut(records, position, records_max, bytes_max)

    def _check_range(self, topic: str, partition: int, position: int) -> None:
        heads = self.heads()
        earliest, end = heads.earliest[partition], heads.next[partition]
        if not earliest <= position <= end:
            raise OutOfRange(topic, partition, position, earliest, end)

    def delete_before(self, cutoff_ms: int) -> int:
        """Delete the chunks recorded before `cutoff_ms`, a few per transaction; returns how many."""
        return sum(self._delete_in(partition, cutoff_ms) for partition in range(self.partitions))

    def _delete_in(self, partition: int, cutoff_ms: int) -> int:
        deleted = 0
        while True:
            with self._locked():
                some = self._delete_some(partition, cutoff_ms)
            deleted += some
            if some < TIDY_CHUNKS:
                return deleted

    def _delete_some(self, partition: int, cutoff_ms: int) -> int:
        low, high = partition << POSITION_BITS, (partition + 1) << POSITION_BITS
        oldest = self._run(
            "SELECT id, recorded_at FROM chunk WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (low, high, TIDY_CHUNKS + 1),
        ).fetchall()
        kept = next((at for at, (_, recorded_at) in enumerate(oldest) if recorded_at >= cutoff_ms), len(oldest))
        kept = min(kept, TIDY_CHUNKS)
        if kept:
            heads = self.heads()
            first_kept = oldest[kept][0] & POSITION_MASK if kept < len(oldest) else heads.next[partition]
            heads.earliest[partition] = first_kept
            self._run("DELETE FROM chunk WHERE id >= ? AND id <= ?", (low, oldest[kept - 1][0]))
            self._run("UPDATE head SET earliest = ?", (heads.earliest.tobytes(),))
        return kept

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file as far as nobody is disturbed."""
        self._run("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _run(self, statement: str, values: Sequence[int | bytes] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    @contextmanager
    def _locked(self, begun: bool = False) -> Iterator[None]:
        """One transaction under the write lock; on the way out it is committed, or rolled back as NotAccepting."""
        if not begun:
            self._begin()
        try:
            yield
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise NotAccepting(f"{self.path.name}: {error}") from error
            raise
        self._commit()

    def _begin(self) -> None:
        """Take the write lock. SQLite's own waiting sleeps ever longer and starves beside a busy writer."""
        for _ in range(int(LOCK_SECONDS / LOCK_PAUSE_SECONDS)):
            try:
                self._run("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise NotAccepting(f"{self.path.name}: {error}") from error
            time.sleep(LOCK_PAUSE_SECONDS)
        raise NotAccepting(f"{self.path.name} is locked by another process")

    def _commit(self) -> None:
        try:
            self._run("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise NotAccepting(f"{self.path.name}: {error}") from error
            raise OutcomeUnknown(f"{self.path.name}: the commit failed: {error}") from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._run("ROLLBACK")
