"""SQLite's write-ahead log is moved into its file beside those who write.

SQLite does it in the commit after which the log is large, and that commit holds the event loop up for as long as 64 MiB
take. Here a thread does it every now and then, so that little is left for such a commit.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable

import structlog

from shared.sqlite_connection import LoopConnection

MOVED_SECONDS = 2.0
"""From one move to the next. A page that is written again and again is moved once in such a time."""

_log = structlog.get_logger(__name__)


class Checkpoints:
    """Of one file, on a connection of its own. Nobody waits for it and it waits for nobody (PASSIVE)."""

    def __init__(self, open_connection: Callable[[], Awaitable[LoopConnection]]) -> None:
        self._open_connection = open_connection
        self._connection: LoopConnection | None = None
        self._moving: asyncio.Task[None] | None = None
        self._moved_at = 0.0

    def committed(self) -> None:
        """Something was committed; called in the event loop after every commit."""
        loop = asyncio.get_running_loop()
        if self._moving is None and loop.time() - self._moved_at >= MOVED_SECONDS:
            self._moving = loop.create_task(self._move(), name="checkpoint of a SQLite file")

    async def close(self) -> None:
        """Wait for the move under way, then close the connection."""
        if self._moving is not None:
            await asyncio.wait((self._moving,))
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _move(self) -> None:
        try:
            connection = self._connection = self._connection or await self._open_connection()
            await connection.rows("PRAGMA wal_checkpoint(PASSIVE)", ())
        except (
            OSError,
            sqlite3.Error,
        ) as error:  # a full or sick disk: whoever writes hears of it
            _log.warning("sqlite_checkpoint_failed", error=str(error))
        finally:
            self._moved_at = asyncio.get_running_loop().time()
            self._moving = None
