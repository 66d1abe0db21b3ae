"""A rebuild of profiles beside the live one, on SQLite and on PostgreSQL: the same digests, under live traffic, through
processes that die at any phase.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.profiles.comparing import decoded_report
from tests.support.rebuilding import Beside, history, profiles_beside
from tests.support.steps import fresh_database


@pytest.fixture(params=["sqlite", "postgres"])
async def beside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Beside]:
    """Profiles on a fresh database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "profiles") as database, profiles_beside(tmp_path, database) as made:
        yield made


async def test_a_rebuild_equals_live_and_takes_its_place_under_traffic(beside: Beside) -> None:
    """Ties, links, erasures and parked touchpoints; live goes on all the while, and no version goes back."""
    await beside.say(*history(1, 400))
    beside.work()
    await beside.settle()
    assert await beside.rows("SELECT 1 FROM parked")
    assert await beside.rows("SELECT 1 FROM leaf WHERE root <> leaf")
    before = await beside.versions()
    beside.rebuilder()
    await beside.begin()
    for seed in range(2, 8):
        await beside.say(*history(seed, 20))
        await asyncio.sleep(0)
    ready = await beside.phase("ready")
    report = decoded_report(ready.report)
    assert report is not None
    assert report.is_equal
    assert report.digest_live == report.digest_made
    await beside.say(*history(9, 30))
    await beside.ask("switch")
    await beside.say(*history(10, 30))
    await beside.phase("switched")
    await beside.say(*history(11, 30))
    await beside.settle()
    live, anew = await beside.digests()
    assert live == anew
    after = await beside.versions()
    assert all(after[leaf][0] >= version and after[leaf][1] >= moves for leaf, (version, moves) in before.items())
