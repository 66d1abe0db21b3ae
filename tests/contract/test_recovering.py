"""A lost scoring database on SQLite and on PostgreSQL: brought back from what was said, by one process or the next."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.scoring import recall
from services.scoring.recovering import Recovering
from shared.clock import FrozenClock
from shared.codec import decode
from shared.database import Database, execute, fetch
from shared.errors import Fenced
from shared.events import REPUBLISHING, Fact, ProfileChanged, RepublishPassed, RepublishRequested
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.topics import CHURN_ALERTS, DEFINITIONS, topics
from tests.support.decisions import Scoring, absorbed, bought, changed, complained, erased, leaf_on, s
from tests.support.steps import PARTITIONS, START_MS, fresh_database

ANA, BEN, CLIO, DAN, EVE = (
    leaf_on(n % PARTITIONS, name) for n, name in enumerate(("ana", "ben", "clio", "dan", "eve"))
)


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh scoring database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with fresh_database(url, tmp_path, "scoring") as made:
        yield made


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A log without any record."""
    made = SqliteLog(tmp_path / "log", FrozenClock(START_MS))
    await made.ensure(topics(PARTITIONS))
    yield made
    await made.close()


async def lost(scoring: Scoring, log: SqliteLog) -> None:
    """All that scoring said is on the log, and nothing is left of its database."""
    for topic, partition, key, value in await scoring.sent():
        await log.append(topic, [Outgoing(partition, value, key)])
    async with scoring.database.transaction() as connection:
        for table in ("decision", "alert", "outbox", "checkpoint", "import_passed"):
            await execute(connection, f"DELETE FROM {table}")


async def recovered(database: Database, log: SqliteLog) -> Recovering:
    """A process that brings decisions back."""
    made = Recovering(log, database, FrozenClock(s(1_000)), PARTITIONS, patience_seconds=0.0)

    async def nothing() -> None:
        """Folding begins."""

    await made.run(nothing)
    async with database.transaction() as connection:  # the worker of these tests reads no log
        await execute(connection, "UPDATE checkpoint SET log_identity = 'test'")
    return made


def again(fact: ProfileChanged) -> ProfileChanged:
    """The customer told again by a republish."""
    return msgspec.structs.replace(fact, facts=(), import_id=REPUBLISHING + "r1")


LAST: tuple[Fact, ...] = (
    changed(ANA, 2, 30, bought(ANA, 0), bought(ANA, 30)),
    changed(BEN, 1, 1, bought(BEN, 1)),
    changed(CLIO, 2, 40, complained(CLIO, 2), bought(CLIO, 40)),
)


async def lived(scoring: Scoring) -> None:
    """Some customers, a silence said, a complaint, one who is absorbed and one who is erased."""
    await scoring.tell(changed(ANA, 1, 0, bought(ANA, 0)), changed(BEN, 1, 1, bought(BEN, 1)))
    await scoring.tell(changed(CLIO, 1, 2, complained(CLIO, 2)), changed(DAN, 1, 3, bought(DAN, 3)))
    await scoring.tell(changed(EVE, 1, 4, complained(EVE, 4)))
    await scoring.reach(s(20))
    await scoring.tell(LAST[0], LAST[2], absorbed(DAN, ANA, 2, 41), erased(EVE, 2, 42))
    await scoring.reach(s(70))


async def told_again(scoring: Scoring) -> None:
    """Profiles tells everybody again, and then that everybody was told."""
    await scoring.tell(*(again(fact) for fact in LAST if isinstance(fact, ProfileChanged)))
    await scoring.tell(absorbed(DAN, ANA, 2, 41), erased(EVE, 2, 42))
    for partition in range(PARTITIONS):
        await scoring.fold(partition, [RepublishPassed("r1", s(80))])


async def test_rows_come_back_as_they_were_and_nothing_is_said_again(database: Database, log: SqliteLog) -> None:
    first = Scoring(database)
    await lived(first)
    rows, alerts = await first.rows(), await first.alerts()
    await lost(first, log)
    await recovered(database, log)

    second = Scoring(database)
    for partition in range(PARTITIONS):
        await second.acquire(partition)
    await told_again(second)
    await second.reach(s(70))
    assert await second.told() == []
    after = await second.rows()
    for customer in (ANA, BEN, CLIO):
        mine, was = after[customer], rows[customer]
        assert (mine.decision.stage, mine.decision.sequence) == (was.decision.stage, was.decision.sequence)
        assert mine.due_at == was.due_at
        assert mine.decision.alerts == was.decision.alerts
        assert (mine.state, mine.version, mine.decision.held) == (was.state, was.version, ())
    assert after[DAN].absorbed_into == ANA
    told = {alert_id: (row.customer, row.state, row.revision) for alert_id, row in (await second.alerts()).items()}
    assert told == {alert_id: (row.customer, row.state, row.revision) for alert_id, row in alerts.items()}

    await second.reach(s(91))
    assert [line for line in await second.told(ANA) if "alert" in line] == ["alert.raised r1 @90"]


async def test_a_silence_that_was_never_said_is_said_late_and_once(database: Database, log: SqliteLog) -> None:
    first = Scoring(database)
    await first.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await first.reach(s(5))
    await lost(first, log)
    await recovered(database, log)
    second = Scoring(database)
    for partition in range(PARTITIONS):
        await second.acquire(partition)
    await second.tell(again(changed(ANA, 1, 0, bought(ANA, 0))))
    await second.reach(s(500))
    data = [event["data"] for event in await second.events(ANA) if event["type"] == "raftar.alert.raised"]
    assert [(one["crossed_at"], one["revision"]) for one in data] == [(s(60), 1)]


async def test_who_was_never_decided_is_history_until_all_were_told_again(database: Database, log: SqliteLog) -> None:
    """An import was under way: nobody is alerted about a past that nobody watched."""
    first = Scoring(database)
    await first.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await lost(first, log)
    await recovered(database, log)
    second = Scoring(database)
    for partition in range(PARTITIONS):
        await second.acquire(partition)
    await second.tell(again(changed(BEN, 1, 1, bought(BEN, 1))))
    await second.reach(s(500))
    assert await second.told(BEN) == []
    for partition in range(PARTITIONS):
        await second.fold(partition, [RepublishPassed("r1", s(501))])
    await second.reach(s(600))
    assert await second.told(BEN) == ["segment.changed gone @599.999"]


async def test_a_killed_process_is_followed_by_another(
    database: Database, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Scoring(database)
    await lived(first)
    await lost(first, log)

    async def dies(*args: object) -> None:
        raise Fenced("planned: killed before it wrote anything down")

    with monkeypatch.context() as patch:
        patch.setattr(recall, "bring_back", dies)
        killed = Recovering(log, database, FrozenClock(s(1_000)), PARTITIONS)
        assert not await killed._attend()  # it begins
        with pytest.raises(Fenced):
            await killed._attend()
    assert not killed.check()["ok"]
    made = await recovered(database, log)
    assert made.check() == {"ok": True}
    async with database.snapshot() as connection:
        assert len(await fetch(connection, "SELECT customer FROM decision")) == 5
        assert not await fetch(connection, "SELECT customer FROM recalled")
        assert not await fetch(connection, "SELECT name FROM rebuild")
    asked = [decode(record.value) for record in (await log.read(DEFINITIONS, 0, 0)).records]
    assert [type(fact) for fact in asked] == [RepublishRequested]


async def test_an_erased_customers_alerts_come_back_without_their_text(database: Database, log: SqliteLog) -> None:
    first = Scoring(database)
    await lived(first)
    await lost(first, log)
    await recovered(database, log)
    bodies = [row.body for row in (await Scoring(database).alerts()).values() if row.customer == EVE]
    assert bodies == [b""]


async def test_what_is_no_decision_is_passed_over(database: Database, log: SqliteLog) -> None:
    first = Scoring(database)
    await first.tell(changed(ANA, 1, 0, bought(ANA, 0)))
    await lost(first, log)
    await log.append(CHURN_ALERTS, [Outgoing(0, b"{}"), Outgoing(1, b'{"type":"raftar.alert.raised"}')])
    assert (await recovered(database, log)).foreign == 2


async def test_a_new_house_begins_at_once(database: Database, log: SqliteLog) -> None:
    made = await recovered(database, log)
    assert made.check() == {"ok": True}
    async with database.snapshot() as connection:
        assert not await fetch(connection, "SELECT topic FROM checkpoint")
