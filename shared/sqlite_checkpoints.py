"""SQLite's write-ahead log is moved into its file beside those who write, a little at a time.

SQLite itself does it in the commit after which the log is large: that commit holds the event loop up for as long as
64 MiB take, and waits for the disk to have them. Here a thread moves what there is, and has the disk take it. It comes
to the end of the log only where nobody writes; so once the log is large the writers wait for the little that is left,
and the log begins anew.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from shared.sqlite_connection import LoopConnection, connect

MOVED_SECONDS = 0.5
"""From one move to the next. Seldom moved, all at once, takes processor and disk from those who write; what is moved
often is moved again for every change of its page."""
LARGE_PAGES = 65_536
"""A log of so many pages, 256 MiB, begins anew."""
SMALL_PAGES = 1_024
"""What a log of fewer pages changed in the file may wait for the system to write it."""

_log = structlog.get_logger(__name__)


class Checkpoints:
    """Of one file, on a connection of its own. It waits for no reader (PASSIVE).

    `alone`: while it is held nobody writes.
    """

    def __init__(self, path: Path, alone: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._path, self._alone = path, alone
        self._connection: LoopConnection | None = None
        self._moving: asyncio.Task[None] | None = None
        self._moved_at = 0.0

    def committed(self) -> None:
        """Something was committed; called in the event loop after every commit."""
        loop = asyncio.get_running_loop()
        if self._moving is None and loop.time() - self._moved_at >= MOVED_SECONDS:
            self._moving = loop.create_task(self._guarded(), name="checkpoint of a SQLite file")

    async def close(self) -> None:
        """Wait for the move under way, then close the connection."""
        if self._moving is not None:
            await asyncio.wait((self._moving,))
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _guarded(self) -> None:
        try:
            await self._move()
        except (OSError, sqlite3.Error) as error:  # a full or sick disk: whoever writes hears of it
            _log.warning("sqlite_checkpoint_failed", error=str(error))
        finally:
            self._moved_at = asyncio.get_running_loop().time()
            self._moving = None

    async def _move(self) -> None:
        if await self._some() >= LARGE_PAGES:
            await self._some()  # what was written meanwhile
            async with self._alone():
                await self._some()  # and now nothing is: who writes next writes at the log's beginning

    async def _some(self) -> int:
        """Move what is in the log now; returns how many pages it has, with those that were moved before."""
        connection = self._connection = self._connection or await connect(self._path)
        [(_, pages, _)] = await connection.rows("PRAGMA wal_checkpoint(PASSIVE)", ())
        if pages >= SMALL_PAGES:
            await asyncio.to_thread(_flush, self._path)
        return int(pages)


_descriptors: dict[tuple[int, int], int] = {}
"""Of files that were flushed, by device and inode. Never closed: SQLite's own locks on the file would go with them."""


def _flush(path: Path) -> None:
    """Have the disk take what was moved. SQLite does it with the last page of the log, when the writers wait."""
    found = path.stat()
    place = found.st_dev, found.st_ino
    if place not in _descriptors:
        _descriptors[place] = os.open(path, os.O_RDWR)
    os.fsync(_descriptors[place])
