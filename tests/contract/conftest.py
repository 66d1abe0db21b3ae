"""The scoring contract on both databases: a worker on each, and the promise that both hold the same at the end."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.database import Database
from tests.support.decisions import Scoring
from tests.support.steps import PARTITIONS, fresh_database

CONTENTS: dict[str, Any] = {}
"""What each test left behind on the database it ran on first."""


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh scoring database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "scoring") as made:
        yield made


@pytest.fixture
async def scoring(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Scoring]:
    """A worker on it; at the end what must always hold is asked, and whether both databases hold the same."""
    made = Scoring(database)
    for partition in range(PARTITIONS):
        await made.acquire(partition)
    yield made
    await made.check()
    contents = await made.contents()
    assert contents == CONTENTS.setdefault(_test(request), contents)


def _test(request: pytest.FixtureRequest) -> str:
    """The test and its other parameters, without the database."""
    others = {name: value for name, value in request.node.callspec.params.items() if name != "database"}
    return f"{request.path.name} {request.function.__name__} {sorted(others.items())}"
