"""The promise under fire, in the short form: more than sixty kill -9 and everything else of the plan, in both modes.

`SEED=`, `KILLS=` (in this mode) and `SECONDS=` (of load at least) make other and longer runs.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.plan import EMBEDDED, KAFKA, KILL, planned
from tests.chaos.run import Course, endured, quick, standing
from tests.support.broker import NewBroker
from tests.support.postgres_process import PostgresProcess
from tests.support.required import unavailable

pytestmark = pytest.mark.alone

KILLS_MIN = 60


@pytest.fixture
def database() -> Iterator[PostgresProcess]:
    """A PostgreSQL server of the test's own."""
    # Not below pytest's own folder: as root the server runs as another user, and that one is closed to others.
    with TemporaryDirectory(prefix="raftar-pg-", ignore_cleanup_errors=True) as folder:
        try:
            server = PostgresProcess(Path(folder) / "data")
        except ImportError as error:
            unavailable("PostgreSQL", f"{error}; install the dev extra")
        server.start()
        try:
            yield server
        finally:
            server.kill9()


def _course(mode: str) -> Course:
    course = quick(mode, _number("SEED", 20261122))
    return replace(course, kills=_number("KILLS", course.kills), seconds=_number("SECONDS", int(course.seconds)))


def _number(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable) or otherwise)


@pytest.mark.timeout(1200)
def test_an_embedded_house_loses_and_doubles_nothing_through_every_fault(tmp_path: Path) -> None:
    course = _course(EMBEDDED)
    with standing(course, tmp_path) as (house, ground):
        report = asyncio.run(endured(house, ground, course))
    print(report.figures)
    assert not report.failed, report.failed


@pytest.mark.timeout(1200)
def test_a_house_on_kafka_and_postgresql_loses_and_doubles_nothing_through_every_fault(
    tmp_path: Path, new_broker: NewBroker, database: PostgresProcess
) -> None:
    course = _course(KAFKA)
    with standing(course, tmp_path, new_broker(), database) as (house, ground):
        report = asyncio.run(endured(house, ground, course))
    print(report.figures)
    assert not report.failed, report.failed


def test_the_short_forms_kill_often_enough() -> None:
    courses = [quick(mode, 1) for mode in (EMBEDDED, KAFKA)]
    plans = [planned(one.seed, one.mode, one.kills, one.seconds, one.freeze_seconds_max) for one in courses]
    assert sum(fault.what == KILL for plan in plans for fault in plan) >= KILLS_MIN
