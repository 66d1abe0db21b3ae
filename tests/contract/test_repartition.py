"""A house copied to another number of partitions on each log and database: stamps and order kept, and nothing else."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.all_in_one import migrate
from services.first_start import UNFINISHED_RESTORE, first_start, open_log
from services.profiles.digest import digest, fold_all
from services.profiles.store import SqlStore
from services.repartition.command import repartition
from services.repartition.copying import copy_topic
from services.repartition.placing import everywhere
from services.scoring import tables
from shared.clock import SystemClock
from shared.codec import decode, encode
from shared.database import Database, execute, fetch, insert_rows, open_database
from shared.errors import LogMismatch, NewerVersion, RaftarError
from shared.events import ImportFinished, TouchpointsRecorded
from shared.ids import partition_of
from shared.log.port import Log, Outgoing, Topic
from shared.log.stamped import StampedLog, StampedSqlite
from shared.settings import HouseSettings
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, TOUCHPOINTS
from tests.builders import a_leaf, a_record, a_touchpoint
from tests.support.broker import Broker, ExternalBroker
from tests.support.logs import read_all
from tests.support.postgres import empty_database

OLD, NEW = 4, 6
CLOCK = SystemClock()
PEOPLE = [a_leaf(f"p{n}", 0 if n % 2 else 4) for n in range(30)]


@dataclass(frozen=True, slots=True)
class Pair:
    """Settings of the house that is copied and of the one that is made."""

    old: HouseSettings
    new: HouseSettings


@pytest.fixture
def embedded(tmp_path: Path) -> Pair:
    old = HouseSettings(data_dir=tmp_path / "old", partitions=OLD, kafka_bootstrap="", database_url="")
    return Pair(old, old.model_copy(update={"data_dir": tmp_path / "new", "partitions": NEW}))


@pytest.fixture(params=["embedded", "cluster"])
def pair(request: pytest.FixtureRequest, embedded: Pair) -> Pair:
    if request.param == "embedded":
        return embedded
    broker: Broker | ExternalBroker = request.getfixturevalue("broker")
    name, urls = secrets.token_hex(4), request.getfixturevalue("two_urls")
    old = {"kafka_bootstrap": broker.bootstrap, "kafka_topic_prefix": f"{name}.old.", "database_url": urls[0]}
    new = {**old, "kafka_topic_prefix": f"{name}.new.", "database_url": urls[1]}
    return Pair(embedded.old.model_copy(update=old), embedded.new.model_copy(update=new))


@pytest.fixture
def two_urls(postgres_server: str) -> AsyncIterator[tuple[str, str]]:
    with empty_database(postgres_server) as one, empty_database(postgres_server) as other:
        yield one, other  # type: ignore[misc]


def quiet(_what: str, _done: int, _of_all: int) -> None:
    """Nobody watches."""


def a_request(number: int) -> list[Outgoing]:
    """What one request of six touchpoints brings to the old partitions, as the door packs it."""
    groups: dict[int, list[bytes]] = defaultdict(list)
    for n in range(6):
        leaf = PEOPLE[(number * 7 + n) % len(PEOPLE)]
        groups[partition_of(leaf, OLD)].append(leaf)
    return [
        Outgoing(
            partition,
            encode(a_record(*[a_touchpoint(id=f"{number} {at}", leaf=leaf) for at, leaf in enumerate(leaves)])),
        )
        for partition, leaves in groups.items()
    ]


async def a_house(settings: HouseSettings) -> None:
    """A house at rest: requests, decisions, an import's end, all folded."""
    await migrate(settings)
    await first_start(settings, CLOCK)
    async with open_log(settings, CLOCK) as log:
        for number in range(40):
            await log.append(TOUCHPOINTS, a_request(number))
        end = encode(ImportFinished("main", "import-1", 5))
        await log.append(TOUCHPOINTS, [Outgoing(partition, end) for partition in range(OLD)])
        said = [Outgoing(partition_of(one, OLD), b"alert %d" % n, one) for n, one in enumerate(PEOPLE * 3)]
        await log.append(CHURN_ALERTS, said)
        profiles, scoring = databases(settings)
        await fold_all(log, SqlStore(profiles))
        async with profiles.transaction() as connection:
            await execute(connection, "DELETE FROM outbox")
            await execute(connection, "UPDATE leaf SET version = version + 100 WHERE leaf = $1", PEOPLE[0])
            for partition, bounds in (await log.bounds(CHURN_ALERTS)).items():
                await _stands(connection, CHURN_ALERTS, partition, bounds.end, await log.identity(CHURN_ALERTS))
        async with scoring.transaction() as connection:
            columns = [column.name for column in tables.decision.columns]
            rows = [_decision(one) for one in PEOPLE]
            await insert_rows(connection, tables.decision, columns, [tuple(row[c] for c in columns) for row in rows])
            for partition in range(OLD):
                await _stands(connection, PROFILE_CHANGES, partition, 0, await log.identity(PROFILE_CHANGES))
            passed = [("main", "import-1", to, came) for to in range(OLD) for came in range(OLD)]
            await insert_rows(
                connection, tables.import_passed, ("workspace", "import_id", "partition", "from_partition"), passed
            )
        await asyncio.gather(profiles.close(), scoring.close())


async def _stands(connection: object, topic: str, partition: int, position: int, identity: str) -> None:
    fields = "topic, partition, epoch, revision, position, frontier, last_position, last_checksum, log_identity"
    statement = f"INSERT INTO checkpoint ({fields}) VALUES ($1, $2, 1, 1, $3, -1, -1, 0, $4)"
    await execute(connection, statement, topic, partition, position, identity)  # type: ignore[arg-type]


def _decision(customer: bytes) -> dict[str, object]:
    return {
        "customer": customer, "workspace": "main", "partition": partition_of(customer, OLD), "version": 7,
        "state": b"s", "decision": b"d", "due_at": 5, "absorbed_into": b"", "parked": "", "held": 0, "armed_version": 1,
    }  # fmt: skip


def databases(settings: HouseSettings) -> tuple[Database, Database]:
    profiles = open_database(settings.database_url, settings.data_dir, "profiles")
    return profiles, open_database(settings.database_url, settings.data_dir, "scoring")


async def by_leaf(log: Log) -> dict[bytes, list[tuple[bytes, int]]]:
    """Leaf → ids and stamps of its touchpoints, in log order."""
    found: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
    for records in (await read_all(log, TOUCHPOINTS)).values():
        for record in records:
            fact = decode(record.value)
            if isinstance(fact, TouchpointsRecorded):
                for one in fact.touchpoints:
                    found[one.leaves[0]].append((one.id, record.recorded_at))
    return found


async def by_key(log: Log, topic: str) -> dict[bytes, list[tuple[bytes, int]]]:
    found: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
    for records in (await read_all(log, topic)).values():
        for record in records:
            found[record.key].append((record.value, record.recorded_at))
    return found


async def test_a_house_is_copied_with_its_stamps_order_states_and_decisions(pair: Pair) -> None:
    await a_house(pair.old)
    done = await repartition(pair.old, pair.new, CLOCK, quiet)
    assert not (pair.new.data_dir / UNFINISHED_RESTORE).exists()
    async with open_log(pair.old, CLOCK) as old, open_log(pair.new, CLOCK) as new:
        assert len(await new.bounds(TOUCHPOINTS)) == NEW
        assert await by_leaf(new) == await by_leaf(old)
        assert await by_key(new, CHURN_ALERTS) == await by_key(old, CHURN_ALERTS)
        ended = [
            sum(isinstance(decode(record.value), ImportFinished) for record in records)
            for records in (await read_all(new, TOUCHPOINTS)).values()
        ]
        assert ended == [1] * NEW
        before = CLOCK.now_ms() - 5_000
        [position] = await new.append(TOUCHPOINTS, [Outgoing(0, encode(a_record(a_touchpoint(id="fresh"))))])
        fresh = (await new.read(TOUCHPOINTS, 0, position, wait_seconds=10)).records[0]
        assert fresh.recorded_at > before, "new records get the log's own stamp"
    (old_profiles, old_scoring), (profiles, scoring) = databases(pair.old), databases(pair.new)
    assert done.digest == await digest(profiles) == await digest(old_profiles)
    async with scoring.snapshot() as connection:
        rows = await fetch(connection, "SELECT customer, partition, version, due_at FROM decision")
        assert {row.customer: (row.partition, row.version, row.due_at) for row in rows} == {
            one: (partition_of(one, NEW), 7, 5) for one in PEOPLE
        }
        passed = await fetch(connection, "SELECT workspace, import_id, partition, from_partition FROM import_passed")
        whole = {("main", "import-1"): {(q, p) for q in range(OLD) for p in range(OLD)}}
        assert sorted(map(tuple, passed)) == everywhere(whole, OLD, NEW)
        stands = await fetch(connection, "SELECT partition, position FROM checkpoint WHERE topic = $1", PROFILE_CHANGES)
        assert sorted(map(tuple, stands)) == [(partition, 0) for partition in range(NEW)]
    async with profiles.snapshot() as connection:
        version = (await fetch(connection, "SELECT version FROM leaf WHERE leaf = $1", PEOPLE[0]))[0].version
        assert version > 100, "versions never go back"
        assert (await fetch(connection, "SELECT count(*) AS n FROM outbox"))[0].n == 0
    await asyncio.gather(*(one.close() for one in (old_profiles, old_scoring, profiles, scoring)))


async def test_a_house_that_is_not_at_rest_is_told_what_to_do(embedded: Pair) -> None:
    await a_house(embedded.old)
    async with open_log(embedded.old, CLOCK) as log:
        await log.append(TOUCHPOINTS, a_request(99))
    with pytest.raises(LogMismatch, match=r"not at rest.*lag_records"):
        await repartition(embedded.old, embedded.new, CLOCK, quiet)
    assert not embedded.new.data_dir.exists()


async def test_states_that_are_not_what_the_log_says_are_not_carried_over(embedded: Pair) -> None:
    await a_house(embedded.old)
    profiles, scoring = databases(embedded.old)
    async with profiles.transaction() as connection:
        await execute(connection, "UPDATE leaf SET state = $1 WHERE leaf = $2", b"\x90", PEOPLE[1])
    await asyncio.gather(profiles.close(), scoring.close())
    with pytest.raises(LogMismatch, match="raftar verify"):
        await repartition(embedded.old, embedded.new, CLOCK, quiet)
    with pytest.raises(RaftarError, match="not finished"):
        await first_start(embedded.new, CLOCK)
    with pytest.raises(LogMismatch, match="is not empty: name a new folder"):
        await repartition(embedded.old, embedded.new, CLOCK, quiet)


async def test_what_is_too_new_to_read_is_not_placed_by_guess(tmp_path: Path) -> None:
    settings = HouseSettings(data_dir=tmp_path, partitions=1, kafka_bootstrap="", database_url="")
    target: StampedLog = StampedSqlite(tmp_path / "new", CLOCK)
    target.make([Topic(TOUCHPOINTS, 3)])
    async with open_log(settings, CLOCK) as log:
        await log.ensure([Topic(TOUCHPOINTS, 1)])
        await log.append(TOUCHPOINTS, [Outgoing(0, b"\x93\xb4touchpoints.recorded\x63\x90")])
        with pytest.raises(NewerVersion, match="newer code first"):
            await copy_topic(log, target, TOUCHPOINTS, 3, lambda *_: [], quiet)
    target.finish()
