"""Copying a log: records appended with the stamps they already have. For a log nobody else writes, never a live one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shared.clock import Clock
from shared.log.port import Outgoing, Topic
from shared.log.sqlite_file import TopicFile, create


class StampedLog(Protocol):
    """A new log that is filled in order of its stamps."""

    def make(self, topics: Sequence[Topic]) -> None:
        """Make the topics. Raises LogMismatch where one is there already: nothing is copied over anything."""

    def append(self, topic: str, recorded_at: int, records: Sequence[Outgoing]) -> None:
        """Append behind everything appended before; `recorded_at` never goes back within a topic."""

    def finish(self) -> None:
        """Put everything on disk: what was appended is a log like any other from now on."""


class _Stamps:
    """A clock that shows the stamp of what is being copied."""

    def __init__(self, clock: Clock) -> None:
        self.at = 0
        self.monotonic, self.new_id = clock.monotonic, clock.new_id

    def now_ms(self) -> int:
        return self.at


class StampedSqlite:
    """New topics in a folder of SQLite files."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock, self._stamps = folder, clock, _Stamps(clock)
        self._files: dict[str, TopicFile] = {}

    def make(self, topics: Sequence[Topic]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for topic in topics:
            path = self._folder / f"{topic.name}.sqlite"
            create(path, topic, self._clock.new_id().hex())
            self._files[topic.name] = TopicFile(
                path, self._stamps, writes=True, synchronous="OFF"
            )  # flushed at the end
            self._files[topic.name].check(topic)

    def append(self, topic: str, recorded_at: int, records: Sequence[Outgoing]) -> None:
        self._stamps.at = recorded_at
        self._files[topic].append([records])

    def finish(self) -> None:
        for file in self._files.values():
            file.checkpoint()
            file.close()  # the last connection moves the write-ahead log into the file
            _flush(file.path)
        _flush(self._folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
