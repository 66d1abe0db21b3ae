"""One instant of many SQLite files that other processes write: what is read is what a power cut would leave.

For a moment the write locks of all files are held, so that nothing moves; in that moment a snapshot of each is begun.
The writers wait for that moment only, and copying takes its time from the snapshots.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from shared.clock import Clock
from shared.errors import NotAccepting

HELD_SECONDS_MAX = 1.5
"""Writers of the log wait for a lock this long and more; whoever cannot get all locks in it gives all of them back."""
ATTEMPTS_MAX = 40
PAUSE_SECONDS = 0.001


@contextmanager
def one_instant(paths: Sequence[Path], clock: Clock) -> Iterator[dict[Path, sqlite3.Connection]]:
    """A reading connection on each file, all of one instant; closed at the end of the block.

    Locks are taken in the order given: slow writers (databases) first, the door's topics last. Raises NotAccepting
    where the house never lets go of all its files for a moment.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(closing(_connect(path))) for path in paths]
        readers = {path: stack.enter_context(closing(_connect(path))) for path in paths}
        for _ in range(ATTEMPTS_MAX):
            if _snapshot(writers, list(readers.values()), clock):
                yield readers
                return
            time.sleep(random.uniform(0.05, 0.25))  # noqa: S311  # spreads rivals, keeps no secret
    raise NotAccepting("the house is too busy for a snapshot of all its files; try again at a quieter time", 30)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)


def _snapshot(writers: Sequence[sqlite3.Connection], readers: Sequence[sqlite3.Connection], clock: Clock) -> bool:
    """Begin a snapshot of each reader while every writer holds its lock; False where a lock was not free in time."""
    deadline = clock.monotonic() + HELD_SECONDS_MAX
    try:
        if not all(_locked(writer, clock, deadline) for writer in writers):
            return False
        for reader in readers:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read begins the snapshot
        return True
    finally:
        for writer in writers:
            if writer.in_transaction:
                writer.execute("ROLLBACK")


def _locked(writer: sqlite3.Connection, clock: Clock, deadline: float) -> bool:
    while True:
        try:
            writer.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        if clock.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
