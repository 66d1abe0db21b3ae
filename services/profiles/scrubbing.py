"""After an erasure: the table of personal values is written anew, so that deleted bytes are not left in its files.

Deleted rows are overwritten at once on SQLite (`secure_delete`), but pages that were split leave old bytes in their
gaps, and PostgreSQL leaves dead rows in place. So the table is rewritten as a whole, a while after the last erasure at
the latest. What lies in PostgreSQL's write-ahead log and in back-ups is not ours to overwrite.
"""

import asyncio
from dataclasses import dataclass, field

import structlog
from sqlalchemy import text

from shared.clock import Clock
from shared.database import Away, Database, execute, fetch
from shared.errors import Retryable
from shared.lane import named

LOOKED_SECONDS = 1.0
PERSONAL = "personal"
_NEW = "personal_anew"
_OPEN = """SELECT e.id FROM erasure e WHERE e.scrubbed_at < 0 AND e.recorded_at >= 0
AND NOT EXISTS (SELECT 1 FROM erasure_leaf l WHERE l.erasure = e.id AND l.erased_at < 0)"""

_log = structlog.get_logger("scrubbing")


class StillRead(Retryable):
    """A reader holds the old bytes: the next look tries again."""


@dataclass(slots=True)
class Scrubber:
    """Rewrites after erasures. `pause_seconds`: at least so long between two rewrites · `done`: how many there were."""

    database: Database
    clock: Clock
    pause_seconds: float
    done: int = 0
    failures: int = 0
    _rewritten: set[bytes] = field(default_factory=set)  # erasures that only wait for the write-ahead file

    async def run(self) -> None:
        """Look every second, until cancelled; the first rewrite comes at once."""
        next_at = self.clock.monotonic()
        while True:
            try:
                if self.clock.monotonic() >= next_at and await self.scrub():
                    next_at = self.clock.monotonic() + self.pause_seconds
            except (Away, StillRead) as error:
                _log.info("scrubbing waits", why=str(error))
            except Exception as error:  # whatever the database trips over: receipts keep saying that it is not done
                self.failures += 1
                next_at = self.clock.monotonic() + self.pause_seconds
                _log.warning("scrubbing failed", error=named(error))
            await asyncio.sleep(LOOKED_SECONDS)

    async def scrub(self) -> bool:
        """Rewrite the table if an erasure waits for it. Raises Away, StillRead."""
        async with self.database.snapshot() as connection:
            waiting = [bytes(row.id) for row in await fetch(connection, _OPEN)]
        if not waiting:
            return False
        if not self._rewritten.issuperset(waiting):
            await (_rewrite_sqlite(self.database) if self.database.is_sqlite else _rewrite_postgresql(self.database))
            self._rewritten.update(waiting)
        if self.database.is_sqlite:
            await _empty_write_ahead(self.database)
        now = self.clock.now_ms()
        async with self.database.transaction() as connection:
            for identity in waiting:
                await execute(connection, "UPDATE erasure SET scrubbed_at = $2 WHERE id = $1", identity, now)
        self._rewritten.difference_update(waiting)
        self.done += 1
        _log.info("personal values were rewritten", erasures=len(waiting))
        return True


async def _rewrite_sqlite(database: Database) -> None:
    """One transaction: whoever reads meanwhile reads the old pages."""
    async with database.transaction() as connection:
        found = await fetch(connection, "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = $1", PERSONAL)
        made = str(found[0].sql).replace(PERSONAL, _NEW, 1)
        await connection.execute(text(made))
        await connection.execute(text(f"INSERT INTO {_NEW} SELECT * FROM {PERSONAL} ORDER BY leaf, field"))
        await connection.execute(text(f"DROP TABLE {PERSONAL}"))
        await connection.execute(text(f"ALTER TABLE {_NEW} RENAME TO {PERSONAL}"))


async def _empty_write_ahead(database: Database) -> None:
    """The write-ahead file holds old pages too. Raises StillRead."""
    async with database.bare() as driver:
        cursor = await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy = (await cursor.fetchone())[0]
        await cursor.close()
    if busy:
        raise StillRead("a reader still holds the write-ahead file")


async def _rewrite_postgresql(database: Database) -> None:
    """VACUUM FULL writes the table into a new file. It waits for its lock as long as any step does.

    Raises StillRead while another worker does it.
    """
    async with database.bare() as driver:
        if not await driver.fetchval("SELECT pg_try_advisory_lock(hashtext('raftar scrubbing'))"):
            raise StillRead("another worker rewrites it")
        await driver.execute("SET transaction_timeout = 0")
        try:
            await driver.execute(f"VACUUM (FULL) {PERSONAL}")
        finally:
            await driver.execute("RESET transaction_timeout")
            await driver.execute("SELECT pg_advisory_unlock(hashtext('raftar scrubbing'))")
