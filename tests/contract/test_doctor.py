"""Broken houses, and what the doctor says of each: the check that fails and the next step, with no service running."""

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services import local_access
from services.__main__ import main
from services.all_in_one import AllInOneSettings, migrate
from services.doctor.brokers import brokers
from services.doctor.command import examine
from services.doctor.finding import Finding, Level
from services.first_start import UNFINISHED_RESTORE, first_start, open_log
from services.profiles.digest import fold_all
from services.profiles.store import SqlStore
from shared.clock import FrozenClock, SystemClock
from shared.codec import encode
from shared.database import open_database
from shared.log.port import Outgoing
from shared.topics import TOUCHPOINTS
from tests.builders import a_record, a_touchpoint
from tests.support.kafka_broker import Broker, free_ports
from tests.support.scripted_broker import ScriptedBroker

CLOCK = SystemClock()
HOUR_MS = 3_600_000


@pytest.fixture
async def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AllInOneSettings:
    """A house that was started once, folded three requests, and does not run now."""
    ports = dict(zip(("ingest_port", "profiles_port", "scoring_port"), free_ports(3), strict=True))
    variables = {"data_dir": tmp_path / "data", "partitions": 2, "kafka_bootstrap": "", "database_url": "", **ports}
    for name, value in variables.items():
        monkeypatch.setenv(f"RAFTAR_{name.upper()}", str(value))
    made = AllInOneSettings()
    await migrate(made)
    await first_start(made, CLOCK)
    async with open_log(made, CLOCK) as log:
        for n in range(3):
            record = encode(a_record(a_touchpoint(id=f"t{n}")))
            await log.append(TOUCHPOINTS, [Outgoing(0, record), Outgoing(1, record)])
        database = open_database("", made.data_dir, "profiles")
        await fold_all(log, SqlStore(database))
        await database.close()
    sql(made, "profiles.db", "DELETE FROM outbox")
    return made


def sql(settings: AllInOneSettings, name: str, *statements: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / name)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def examined(settings: AllInOneSettings) -> list[Finding]:
    return [finding async for finding in examine(settings, CLOCK)]


async def worst(settings: AllInOneSettings, level: Level = Level.FAIL) -> list[Finding]:
    """What is as bad as this; each of them with a next step."""
    found = [finding for finding in await examined(settings) if finding.level is level]
    assert all(finding.next_step for finding in found)
    return found


async def test_a_house_at_rest_has_nothing_broken(settings: AllInOneSettings) -> None:
    found = await examined(settings)
    assert [finding for finding in found if finding.level is Level.FAIL] == []
    assert {finding.check for finding in found if finding.level is Level.WARN} <= {"ports", "disk"}
    assert {"versions", "folder", "disk", "clock", "keys", "ports", "log", "database profiles", "database scoring"} == {
        finding.check for finding in found
    }


def lost_keys(settings: AllInOneSettings) -> None:
    shutil.rmtree(settings.data_dir / "keys")


def wide_keys(settings: AllInOneSettings) -> None:
    (settings.data_dir / "keys" / "main" / "leaf.secret").chmod(0o644)


def short_secret(settings: AllInOneSettings) -> None:
    (settings.data_dir / "keys" / "main" / "leaf.secret").write_bytes(b"short")


def lost_database(settings: AllInOneSettings) -> None:
    for path in settings.data_dir.glob("scoring.db*"):
        path.unlink()


def lost_topic(settings: AllInOneSettings) -> None:
    for path in settings.log_dir.glob("touchpoints.sqlite*"):
        path.unlink()


def no_tables(settings: AllInOneSettings) -> None:
    lost_database(settings)
    sql(settings, "scoring.db", "CREATE TABLE other (n INTEGER)")


def newer_tables(settings: AllInOneSettings) -> None:
    sql(settings, "profiles.db", "UPDATE alembic_version SET version_num = '9999'")


def ahead_of_the_log(settings: AllInOneSettings) -> None:
    sql(settings, "profiles.db", "UPDATE checkpoint SET position = position + 100 WHERE topic = 'touchpoints'")


def of_another_log(settings: AllInOneSettings) -> None:
    sql(settings, "profiles.db", "UPDATE checkpoint SET log_identity = 'another'")


def of_another_record(settings: AllInOneSettings) -> None:
    sql(settings, "profiles.db", "UPDATE checkpoint SET last_checksum = 1 WHERE topic = 'touchpoints'")


def unfinished(settings: AllInOneSettings) -> None:
    (settings.data_dir / UNFINISHED_RESTORE).touch()


def damaged_access(settings: AllInOneSettings) -> None:
    (settings.data_dir / local_access.FILE_NAME).write_text("{")


def damaged_log(settings: AllInOneSettings) -> None:
    (settings.log_dir / "definitions.sqlite").write_bytes(b"no database at all" * 100)


BROKEN: dict[Callable[[AllInOneSettings], None], tuple[str, str, str]] = {
    lost_keys: ("keys", "its keys are not here", "copy keys/main/"),
    wide_keys: ("keys", "others can read", "chmod go-rwx"),
    short_secret: ("keys", "a key has 32", "restore the keys folder"),
    lost_database: ("database scoring", "is not there", "restore it"),
    lost_topic: ("log", "lacks touchpoints", "restore it"),
    no_tables: ("database scoring", "no tables", "services migrate"),
    newer_tables: ("database profiles", "does not know", "update Raftar"),
    ahead_of_the_log: ("database profiles", "the log ends at 3", "docs/how-to/backup.md"),
    of_another_log: ("database profiles", "of log another", "docs/how-to/backup.md"),
    of_another_record: ("database profiles", "another record is at 2", "docs/how-to/backup.md"),
    unfinished: ("folder", "was not finished", "remove the folder"),
    damaged_access: ("ports", "is damaged", "--new-keys"),
    damaged_log: ("log", "could not be checked", "then ask again"),
}


@pytest.mark.parametrize("harm", BROKEN, ids=lambda harm: harm.__name__)
async def test_each_harm_is_named_with_its_next_step(
    harm: Callable[[AllInOneSettings], None], settings: AllInOneSettings
) -> None:
    check, says, step = BROKEN[harm]
    harm(settings)
    found = await worst(settings)
    assert [(one.check, one.says) for one in found if one.check == check and says in one.says and step in one.next_step]


async def test_what_is_not_folded_yet_is_worth_a_look(settings: AllInOneSettings) -> None:
    async with open_log(settings, CLOCK) as log:
        await log.append(TOUCHPOINTS, [Outgoing(0, encode(a_record(a_touchpoint(id="late"))))])
    assert await worst(settings) == []
    assert any("1 records are not folded yet" in one.says for one in await worst(settings, Level.WARN))


async def test_another_number_of_partitions_is_named(settings: AllInOneSettings) -> None:
    found = await worst(settings.model_copy(update={"partitions": 5}))
    assert any(
        "touchpoints has 2 partitions, not 5" in one.says and "RAFTAR_PARTITIONS=2" in one.next_step for one in found
    )


async def test_a_clock_that_was_set_back_is_seen_by_the_logs_stamps(settings: AllInOneSettings) -> None:
    past = FrozenClock(CLOCK.now_ms() - HOUR_MS)
    found = [one async for one in examine(settings, past) if one.check == "clock" and one.level is Level.FAIL]
    assert "ahead of this machine's clock" in found[0].says


async def test_too_little_disk_is_broken(settings: AllInOneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTAR_INGEST_DISK_RESERVE_BYTES", str(1 << 60))
    assert any(one.check == "disk" and "refuses events" in one.says for one in await worst(settings))


@pytest.fixture
def listener(settings: AllInOneSettings) -> Iterator[None]:
    """Something that is no service of ours takes connections on the port of ingest."""
    with socket.create_server(("127.0.0.1", settings.ingest_port)):
        yield


async def test_a_port_that_somebody_else_has_is_named(settings: AllInOneSettings, listener: None) -> None:
    [found] = await worst(settings)
    assert "does not answer as ingest does" in found.says
    assert "RAFTAR_INGEST_PORT" in found.next_step


async def test_brokers_and_databases_that_are_away_are_named_and_the_rest_is_still_checked(
    settings: AllInOneSettings,
) -> None:
    port = free_ports(1)[0]
    away = {"kafka_bootstrap": f"127.0.0.1:{port}", "database_url": f"postgresql://nobody@127.0.0.1:{port}/none"}
    found = await worst(settings.model_copy(update=away))
    steps = {one.check: one.next_step for one in found}
    assert "RAFTAR_KAFKA_BOOTSTRAP" in steps["log"]
    assert "RAFTAR_KAFKA_BOOTSTRAP" in steps["kafka"]
    assert "RAFTAR_DATABASE_URL" in steps["database profiles"]
    assert "database scoring" in steps


@pytest.mark.kafka
async def test_brokers_are_asked_what_they_understand(settings: AllInOneSettings, broker: Broker) -> None:
    async def said(bootstrap: str) -> list[tuple[Level, str, str]]:
        asked = settings.model_copy(update={"kafka_bootstrap": bootstrap})
        return [(one.level, one.says, one.next_step) async for one in brokers(asked)]

    [(level, says, _)] = await said(broker.bootstrap)
    assert level is Level.OK
    assert "Kafka 4.1" in says
    one, other = await said(f"127.0.0.1:{free_ports(1)[0]},{broker.bootstrap}")
    assert (one[0], other[0]) == (Level.OK, Level.WARN), "one that answers is enough"
    [(level, says, step)] = await said("127.0.0.1")
    assert level is Level.FAIL
    assert "host:port" in step
    assert any(
        one.check == "kafka"
        for one in await examined(settings.model_copy(update={"kafka_bootstrap": broker.bootstrap}))
    )


async def test_a_broker_that_is_too_old_is_named_with_what_it_lacks(settings: AllInOneSettings) -> None:
    old = ScriptedBroker("t", 1)
    await old.start()
    found = [one async for one in brokers(settings.model_copy(update={"kafka_bootstrap": old.bootstrap}))]
    await old.stop()
    [(level, says, step)] = [(one.level, one.says, one.next_step) for one in found]
    assert level is Level.FAIL
    assert "Metadata v10" in says
    assert "3.7" in step


@pytest.mark.postgres
async def test_a_house_on_postgresql_is_examined(settings: AllInOneSettings, postgres_url: str) -> None:
    on_postgres = settings.model_copy(update={"database_url": postgres_url})
    assert any("no tables" in one.says for one in await worst(on_postgres))
    await migrate(on_postgres)
    found = await examined(on_postgres)
    assert [one for one in found if one.level is Level.FAIL] == []
    assert any("PostgreSQL 1" in one.says for one in found)


def test_the_command_is_for_people_and_for_scripts(
    settings: AllInOneSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    assert "Nothing is broken" in capsys.readouterr().out
    lost_keys(settings)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert any(one["level"] == "fail" and one["next_step"] for one in told["checks"])
