"""A task that loses a cancelling ends all the same; what a driver makes of one is a cancelling still."""

import asyncio
from pathlib import Path

import pytest

from shared.database import Away, open_database
from shared.ending import ended


async def deaf(times: int, heard: list[int]) -> None:
    """Goes on over so many cancellings, as a loop does in which a driver made an error of its own of each."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            heard.append(1)
            if len(heard) > times:
                raise


async def test_who_loses_a_cancelling_is_cancelled_again() -> None:
    heard: list[int] = []
    task = asyncio.create_task(deaf(2, heard))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await ended([task], again_seconds=0.01)
    assert task.cancelled()
    assert len(heard) == 3


async def test_whatever_they_end_with_all_have_ended() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("while it cleaned up")

    tasks = [asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(3600)), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    await ended(tasks)
    assert all(task.done() for task in tasks)
    await ended([])


async def test_a_cancelling_that_a_driver_turned_into_its_error_still_ends_the_task(tmp_path: Path) -> None:
    """As asyncpg's InterfaceError did: the audit then waited for its database through the stop of its process."""
    database = open_database("", tmp_path, "profiles")
    begun = asyncio.Event()

    async def asks() -> None:
        async with database.snapshot():
            begun.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise ConnectionError("the connection is closed") from None

    task = asyncio.create_task(asks())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Away):
        async with database.snapshot():
            raise ConnectionError("nobody cancelled: the database is away")
    await database.close()
