"""The log and the databases: reachable, the right ones, of this version, and fitting to each other."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from zlib import crc32

import migrations
from services.backup.manifest import SavedCheckpoint, SavedDatabase, SavedTopic, contradictions
from services.doctor.finding import Finding, fail, ok, stamps, warn
from shared.clock import Clock
from shared.codec import decode
from shared.database import DATABASE_ERRORS, Away, Database, fetch, open_database
from shared.errors import RaftarError, Rejected
from shared.events import WorkspaceDefined
from shared.keyring import Keyring
from shared.lane import named
from shared.log.port import Bounds, Log
from shared.settings import HouseSettings
from shared.topics import DEFINITIONS, TOUCHPOINTS, WATERMARKS, topics

POSTGRESQL_MIN = 17
STAMP_ALLOWANCE_MS = 1_000
"""A log's newest record may be this far ahead of our clock before something is wrong embedded."""
LOOK_BACK_RECORDS = 5

Topics = dict[str, SavedTopic]


async def log(settings: HouseSettings, source: Log, clock: Clock, found: Topics) -> AsyncIterator[Finding]:
    """Every topic is there with the right number of partitions; what it is and where it ends goes into `found`."""
    what = f"Kafka at {settings.kafka_bootstrap}" if settings.kafka_bootstrap else f"the log in {settings.log_dir}"
    init = "python -m services init makes what is missing"
    missing: list[str] = []
    wrong = False
    for topic in topics(settings.partitions):
        try:
            bounds = await source.bounds(topic.name)
            found[topic.name] = SavedTopic(await source.identity(topic.name), _pairs(bounds))
        except Rejected:
            missing.append(topic.name)
        except RaftarError as error:
            step = (
                "start the brokers, or set RAFTAR_KAFKA_BOOTSTRAP" if settings.kafka_bootstrap else "see the disk check"
            )
            yield fail("log", f"{what} does not answer: {error}", step)
            return
        else:
            if len(bounds) != topic.partitions:
                wrong = True
                step = f"set RAFTAR_PARTITIONS={len(found[TOUCHPOINTS].bounds)}, or see docs/how-to/partitions.md"
                yield fail("log", f"{topic.name} has {len(bounds)} partitions, not {topic.partitions}", step)
    if missing:
        yield fail("log", f"{what} lacks {', '.join(missing)}", f"a first start? {init}; else restore it")
    elif not wrong:
        records = sum(end for _, end in found[TOUCHPOINTS].bounds)
        yield ok("log", f"{what} answers: {len(found)} topics, touchpoints end at {records} records")
    newest = await _newest_stamp(source, found)
    if newest:
        allowance = max(settings.allowance_ms, STAMP_ALLOWANCE_MS)
        yield stamps("the newest record of the log", max(0, newest - clock.now_ms()), allowance)


def _pairs(bounds: Mapping[int, Bounds]) -> tuple[tuple[int, int], ...]:
    return tuple((bounds[partition].earliest, bounds[partition].end) for partition in sorted(bounds))


async def _newest_stamp(source: Log, found: Topics) -> int:
    newest = 0
    for name in (WATERMARKS, TOUCHPOINTS):
        for partition, (earliest, end) in enumerate(found[name].bounds if name in found else ()):
            if end > earliest:
                start = max(earliest, end - LOOK_BACK_RECORDS)
                batch = await source.read(name, partition, start, records_max=LOOK_BACK_RECORDS)
                newest = max([newest, *(record.recorded_at for record in batch.records)])
    return newest


async def workspaces(settings: HouseSettings, source: Log, found: Topics) -> AsyncIterator[Finding]:
    """Every workspace the log tells of has its keys on this machine, the one doors seal to among them."""
    keyring, told = Keyring(settings.data_dir), dict[str, WorkspaceDefined]()
    position, end = found[DEFINITIONS].bounds[0] if DEFINITIONS in found else (0, 0)
    while position < end:
        batch = await source.read(DEFINITIONS, 0, position, wait_seconds=5.0)
        if batch.next_position == position:
            break
        position = batch.next_position
        for record in batch.records:
            try:
                fact = decode(record.value)
            except RaftarError as error:
                yield fail("log", f"{DEFINITIONS} at {record.position} cannot be read: {error}", "update Raftar first")
                return
            if isinstance(fact, WorkspaceDefined):
                told[fact.workspace] = fact
    step = "copy keys/{name}/ from the machine or place where it is kept"
    for name, fact in sorted(told.items()):
        if name not in keyring.workspaces():
            yield fail("keys", f"the log tells of workspace {name}, its keys are not here", step.format(name=name))
        elif fact.sealing_key not in keyring.sealing_names(name):
            yield fail("keys", f"doors seal to {fact.sealing_key}, which is not here", step.format(name=name))


async def database(
    settings: HouseSettings, service: str, clock: Clock, found: Topics, source: Log | None
) -> AsyncIterator[Finding]:
    """The database of a service answers, is of this version, and its checkpoints lie on this log."""
    check = f"database {service}"
    if not settings.database_url and not (settings.data_dir / f"{service}.db").exists():
        yield fail(
            check, f"{settings.data_dir / f'{service}.db'} is not there", "a first start? raftar run; else restore it"
        )
        return
    opened = open_database(settings.database_url, settings.data_dir, service)
    try:
        async with opened.snapshot() as connection:
            if not opened.is_sqlite:
                yield await _server(connection, check)
                yield await _server_clock(connection, clock, settings)
        async for finding in _tables(opened, service, check):
            yield finding
        async for finding in _checkpoints(opened, service, check, found, source):
            yield finding
    except (Away, *DATABASE_ERRORS, OSError) as error:
        yield fail(check, f"it does not answer ({named(error)})", "start PostgreSQL, or set RAFTAR_DATABASE_URL")
    finally:
        await opened.close()


async def _server(connection: Any, check: str) -> Finding:
    told = (await fetch(connection, "SELECT current_setting('server_version_num') AS n"))[0].n
    major = int(told) // 10_000
    if major < POSTGRESQL_MIN:
        said = f"PostgreSQL {major} lacks transaction_timeout, which keeps a frozen worker from holding locks"
        return fail(check, said, f"move to PostgreSQL {POSTGRESQL_MIN} or newer")
    return ok(check, f"PostgreSQL {major} answers")


async def _server_clock(connection: Any, clock: Clock, settings: HouseSettings) -> Finding:
    before = clock.now_ms()
    told = (await fetch(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS n"))[0].n
    after = clock.now_ms()
    apart = 0 if before <= told <= after else told - (after if told > after else before)
    return stamps("PostgreSQL", apart, max(settings.allowance_ms, STAMP_ALLOWANCE_MS))


async def _tables(opened: Database, service: str, check: str) -> AsyncIterator[Finding]:
    try:
        async with opened.snapshot() as connection:
            rows = await fetch(connection, "SELECT version_num FROM alembic_version")
    except DATABASE_ERRORS:
        yield fail(check, "it has no tables", "python -m services migrate")
        return
    revision = rows[0].version_num if rows else "none"
    if revision == migrations.head(service):
        yield ok(check, f"its tables are of this version ({revision})")
    elif revision in migrations.revisions(service):
        yield fail(check, f"its tables are of an older version ({revision})", "python -m services migrate")
    else:
        yield fail(check, f"its tables are of revision {revision}, which this version does not know", "update Raftar")


async def _checkpoints(
    opened: Database, service: str, check: str, found: Topics, source: Log | None
) -> AsyncIterator[Finding]:
    statement = "SELECT topic, partition, position, last_position, last_checksum, log_identity FROM checkpoint"
    async with opened.snapshot() as connection:
        rows = await fetch(connection, f"{statement} ORDER BY topic, partition")
        waiting = (await fetch(connection, "SELECT count(*) AS n FROM outbox"))[0].n
    if source is None or not found:
        return
    held = tuple(SavedCheckpoint(row[0], row[1], row[2], row[3], row[5]) for row in rows)
    wrong = contradictions(found, {service: SavedDatabase("", held, waiting)})
    wrong += [said for row in rows if (said := await _other_record(source, found, row))] if not wrong else []
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        step = "restore the log and the database of one time (docs/how-to/backup.md), or rebuild from the log"
        yield fail(check, f"it does not fit the log: {'; '.join(wrong[:2])}{more}", step)
        return
    unread = sum(max(0, found[one.topic].bounds[one.partition][1] - one.position) for one in held)
    if unread or waiting:
        said = f"{unread} records are not folded yet, {waiting} facts not appended"
        yield warn(check, said, "nothing, while the service runs and this number falls; else start it")
    else:
        yield ok(check, "all that is in the log is folded")


async def _other_record(source: Log, found: Topics, row: Any) -> str:
    """Whether another record lies where the last one was folded."""
    earliest, end = found[row.topic].bounds[row.partition]
    if not earliest <= row.last_position < end:
        return ""
    batch = await source.read(row.topic, row.partition, row.last_position, records_max=1, wait_seconds=5.0)
    first = batch.records[0] if batch.records else None
    if first is not None and first.position == row.last_position and crc32(first.value) == row.last_checksum:
        return ""
    return f"another record is at {row.last_position} of {row.topic}/{row.partition} than was folded"
