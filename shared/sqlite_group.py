"""Group commit: brief transactions of one SQLite file that wait for each other share one commit.

Who joins does so in a savepoint: what fails is taken back alone, and who left well hears of the common commit. A commit
flushes, and where several topics are folded and relayed in small steps it is the largest part of each. Who comes first
needs no savepoint, for which SQLite copies each page before it changes: a large step is first, and alone.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shared.clock import SystemClock
from shared.sqlite_checkpoints import Checkpoints
from shared.sqlite_connection import BEGIN_WRITING, LoopConnection, connect_briefly

WRITERS = ("cache_size=-65536", "wal_autocheckpoint=262144")
"""64 MiB: what steps touch comes again. A commit moves the log only where `Checkpoints` does not keep up, at 1 GiB."""
OPEN_SECONDS = 0.010
"""A transaction older than this takes nobody in but who is in no hurry: a large commit would hold the event loop up."""
COMPANY_SECONDS = 0.010
"""So long who is in no hurry waits for another's commit: busy steps follow each other more closely."""

_clock = SystemClock()


class GroupCommit:
    """All writing transactions of one process on one file, in the order they were asked for."""

    def __init__(self, open_connection: Callable[[], Awaitable[LoopConnection]], committed: Callable[[], None]) -> None:
        """`committed` is called after every commit."""
        self._open_connection, self._committed = open_connection, committed
        self._connection: LoopConnection | None = None
        self._lock = asyncio.Lock()  # SQLite has one writer, and waiting here beats its busy loop
        self._holder: asyncio.Task[Any] | None = None
        self._members: list[asyncio.Future[None]] = []  # who left the open transaction and waits for its commit
        self._unhurried: list[asyncio.Future[None]] = []  # who waits for a transaction to join; done: it may now
        self._began = 0.0
        self._committer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn to write; this task's first transaction inside takes it over and gives it on at its end."""
        await self._take_lock()
        self._holder = task = asyncio.current_task()
        try:
            yield
        finally:
            if self._holder is task:
                self._give_lock()

    @asynccontextmanager
    async def transaction(self, hurried: bool = True) -> AsyncIterator[LoopConnection]:
        """One brief transaction: committed when the block is left, or it never was.

        Not `hurried`: it waits a moment for another's commit to share.
        """
        await (self._take_lock() if hurried else self._take_lock_in_company())
        try:
            connection = self._connection = self._connection or await self._open_connection()
            joins = bool(self._members)
            try:
                await self._enter(connection)
                yield connection
                if joins:
                    await connection.changed("RELEASE SAVEPOINT member", ())
            except BaseException as error:
                await self._take_back(connection, error)
                raise
            committed = self._left()
        finally:
            self._give_lock()
        await committed

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No transaction of the group is open meanwhile: for one on another connection."""
        await self._take_lock(alone=True)
        try:
            yield
        finally:
            self._give_lock()

    async def close(self) -> None:
        """Close the connection once everything that left is committed."""
        async with self.alone():
            if self._connection is not None:
                self._connection.brief = False
                await self._connection.close()
                self._connection = None

    async def _take_lock(self, alone: bool = False) -> None:
        """The lock, with no transaction open that is old; `alone`: with none open at all."""
        if self._holder is asyncio.current_task():
            self._holder = None
        else:
            await self._lock.acquire()
        if self._members and (alone or _clock.monotonic() - self._began > OPEN_SECONDS):
            try:
                # Whoever is cancelled meanwhile, the others hear of their commit; what comes next is queued behind it.
                await asyncio.shield(self._commit())
            except BaseException:
                self._lock.release()
                raise

    async def _take_lock_in_company(self) -> None:
        """The lock, with a transaction open that is about to be committed; after COMPANY_SECONDS without one."""
        company = asyncio.get_running_loop().create_future()
        self._unhurried.append(company)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(COMPANY_SECONDS):
                    await company
        finally:
            self._unhurried.remove(company)
        await self._lock.acquire()

    def _give_lock(self) -> None:
        self._holder = None
        self._lock.release()

    async def _enter(self, connection: LoopConnection) -> None:
        if self._members:
            await connection.changed("SAVEPOINT member", ())
        else:
            await connection.changed(BEGIN_WRITING, ())
            self._began = _clock.monotonic()

    def _left(self) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        self._members.append(loop.create_future())
        if self._committer is None:
            self._committer = loop.create_task(self._commit_in_turn(), name="group commit")
        return self._members[-1]

    async def _commit_in_turn(self) -> None:
        """A task of its own, behind who waits for the lock now or is in no hurry: they join the transaction first."""
        for company in self._unhurried:
            if not company.done():
                company.set_result(None)
        await asyncio.sleep(0)  # in this turn of the event loop they ask for the lock
        async with self._lock:
            self._committer = None
            await self._commit()

    async def _commit(self) -> None:
        members, self._members = self._members, []
        if not members or self._connection is None:
            return
        try:
            await self._connection.commit()
        except Exception as error:
            _tell(members, error)
            await self._connection.rollback()
        else:
            _tell(members, None)
            self._committed()

    async def _take_back(self, connection: LoopConnection, error: BaseException) -> None:
        """Undo one member. Where SQLite itself gave the transaction up (a full disk), all of it is gone.

        With nobody else in it the transaction ends: who is cancelled while it waits in the thread may begin after all.
        """
        if self._members and connection.in_transaction:
            try:
                await connection.changed("ROLLBACK TO SAVEPOINT member", ())
                await connection.changed("RELEASE SAVEPOINT member", ())
                return
            except sqlite3.Error as failed:
                error = failed
        await connection.rollback()
        members, self._members = self._members, []
        _tell(members, error if isinstance(error, Exception) else sqlite3.OperationalError("the transaction is gone"))


class Briefly:
    """Brief transactions on a file: one connection for all that write (`group`), and one for all that read."""

    def __init__(self, path: Path, pragmas: Sequence[str]) -> None:
        self._opened = partial(connect_briefly, path, pragmas)
        self._checkpoints = Checkpoints(path, self._alone)
        opened = partial(connect_briefly, path, (*pragmas, *WRITERS))
        self.group = GroupCommit(opened, self._checkpoints.committed)
        self._reader: LoopConnection | None = None
        self._reading = asyncio.Lock()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[LoopConnection]:
        """A transaction that reads: every statement sees one instant."""
        async with self._reading:
            reader = self._reader = self._reader or await self._opened()
            try:
                await reader.changed("BEGIN", ())  # inside: who is cancelled while it waits in the thread may begin
                yield reader
            finally:
                await reader.rollback()

    def _alone(self) -> AbstractAsyncContextManager[None]:
        return self.group.alone()

    async def close(self) -> None:
        """Close all, once what is to be committed is."""
        await self.group.close()
        await self._checkpoints.close()
        if self._reader is not None:
            self._reader.brief = False
            await self._reader.close()
            self._reader = None


def _tell(members: list["asyncio.Future[None]"], error: Exception | None) -> None:
    for member in members:
        if member.done():  # its caller was cancelled
            continue
        if error is None:
            member.set_result(None)
        else:
            member.set_exception(error)
