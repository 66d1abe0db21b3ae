"""`repartition`: a house at rest is copied to another number of partitions; the old one stays as it is."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
from rich.console import Console

from services.all_in_one import migrate, one_house_per_folder
from services.backup.restore import finished, unfinished
from services.backup.save import check_space
from services.first_start import open_log
from services.local_access import FILE_NAME as ACCESS_FILE
from services.repartition.copying import COPIED, Copied, Told, copy_topic
from services.repartition.placing import Divide
from services.repartition.state import carry_profiles, carry_scoring, check_at_rest
from shared.clock import Clock
from shared.database import Database, fetch, open_database
from shared.errors import LogMismatch, Poison, Stopped
from shared.events import Sealed
from shared.keyring import Keyring
from shared.log.port import Log
from shared.log.stamped import StampedLog, StampedSqlite
from shared.sealing import Opener
from shared.settings import HouseSettings
from shared.topics import topics

SERVICES = ("profiles", "scoring")


@dataclass(frozen=True, slots=True)
class Done:
    """What was copied, by topic, and the digest that the old and the new profiles share."""

    topics: dict[str, Copied]
    digest: str


async def repartition(old: HouseSettings, new: HouseSettings, clock: Clock, told: Told) -> Done:
    """Copy the house at rest of `old` to `new`, which differs in `partitions`, `data_dir` and, on Kafka and PostgreSQL,
    in `kafka_topic_prefix` and `database_url`.

    Raises LogMismatch or Stopped, with the next step, before anything of `new` can be started on.
    """
    _check(old, new)
    with one_house_per_folder(old.data_dir):
        async with _opened(old, clock) as (log, databases):
            await check_at_rest(log, databases)
            unfinished(new.data_dir)
            _check_room(old, new)
            copied = await _copy_log(old, new, log, clock, told)
            await migrate(new, begun=True)
            async with _opened(new, clock) as (new_log, fresh):
                await _check_empty(fresh)
                digest = await carry_profiles(databases["profiles"], fresh["profiles"], new_log, told)
                await carry_scoring(databases["scoring"], fresh["scoring"], new_log, new.partitions, told)
            await _check_still(log, copied)
        shutil.copytree(old.data_dir / "keys", new.data_dir / "keys")
        if (old.data_dir / ACCESS_FILE).exists():
            shutil.copy2(old.data_dir / ACCESS_FILE, new.data_dir / ACCESS_FILE)
        finished(new.data_dir)
    return Done(copied, digest)


def repartition_command(
    old: HouseSettings, changes: dict[str, object], clock: Clock, console: Console, as_json: bool
) -> int:
    """Copy, and say what comes next. Raises RaftarError with the next step, ValueError for settings out of range."""
    new = HouseSettings.model_validate({**old.model_dump(include=set(HouseSettings.model_fields)), **changes})
    done = asyncio.run(repartition(old, new, clock, _telling(console, as_json)))
    records = {name: copied.written for name, copied in done.topics.items()}
    if as_json:
        said = {"partitions": new.partitions, "records": records, "digest": done.digest}
        console.print(msgspec.json.encode(said).decode(), markup=False, highlight=False, soft_wrap=True)
        return 0
    variables = [f"RAFTAR_DATA_DIR={new.data_dir}", f"RAFTAR_PARTITIONS={new.partitions}"]
    if new.kafka_bootstrap:
        variables.append(f"RAFTAR_KAFKA_TOPIC_PREFIX={new.kafka_topic_prefix}")
    if new.database_url:
        variables.append("RAFTAR_DATABASE_URL as you gave it with --database-url")
    console.print(
        f"{sum(records.values())} records are on {new.partitions} partitions, every profile is the same "
        f"(digest {done.digest[:12]}).\nNext: start every service with {', '.join(variables)}; look at "
        "`raftar doctor`; remove the old house when you trust the new one.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def divider(keyring: Keyring) -> Divide:
    """Divides sealed fields with the keys of this folder. Raises Stopped for a key that was never here."""
    openers: dict[str, Opener] = {}

    def divide(workspace: str, sealed: Sealed, groups: Sequence[Sequence[int]]) -> Sequence[Sealed | None]:
        if workspace not in openers:
            keyring.leaf_secret(workspace)  # raises where the workspace's keys are not here at all
            openers[workspace] = Opener(keyring.private_keys(workspace))
        if sealed.key not in keyring.sealing_names(workspace):
            raise Stopped(
                f"sealing key {sealed.key} of workspace {workspace} is not here: bring its files, then repeat"
            )
        try:
            return openers[workspace].divide(sealed, groups)
        except Poison:
            return [sealed, *[None] * (len(groups) - 1)]  # it opens nowhere: it is parked again, with its reason

    return divide


def _check(old: HouseSettings, new: HouseSettings) -> None:
    if new.data_dir.exists() and any(new.data_dir.iterdir()):
        raise LogMismatch(f"{new.data_dir} is not empty: name a new folder")
    if old.kafka_bootstrap and new.kafka_topic_prefix == old.kafka_topic_prefix:
        raise LogMismatch("the new topics need other names: choose another --topic-prefix than the present one")
    if old.database_url and new.database_url in ("", old.database_url):
        raise LogMismatch("the new house needs an empty database of its own: name it with --database-url")


def _check_room(old: HouseSettings, new: HouseSettings) -> None:
    """What is copied on this machine needs about as much room as it takes now."""
    files = [*old.log_dir.glob("*.sqlite*"), *old.data_dir.glob("*.db*")]
    check_space(sum(path.stat().st_size for path in files), new.data_dir)


async def _copy_log(old: HouseSettings, new: HouseSettings, log: Log, clock: Clock, told: Told) -> dict[str, Copied]:
    target, divide = await asyncio.to_thread(_target, new, clock), divider(Keyring(old.data_dir))
    target.make(topics(new.partitions))
    copied = {}
    for topic in COPIED:
        copied[topic] = await copy_topic(log, target, topic, new.partitions, divide, told)
    target.finish()
    return copied


def _target(new: HouseSettings, clock: Clock) -> StampedLog:
    if new.kafka_bootstrap:
        from shared.log.kafka_stamped import StampedKafka

        return StampedKafka(new.kafka_bootstrap, new.kafka_topic_prefix, new.kafka_security)
    return StampedSqlite(new.log_dir, clock)


async def _check_empty(databases: dict[str, Database]) -> None:
    async with databases["profiles"].snapshot() as connection:
        if (await fetch(connection, "SELECT count(*) AS n FROM leaf"))[0].n:
            raise LogMismatch("the new database is not empty: name an empty one with --database-url")


async def _check_still(log: Log, copied: dict[str, Copied]) -> None:
    """Whatever was appended meanwhile is not in the copy."""
    for topic, one in copied.items():
        if {n: bounds.end for n, bounds in (await log.bounds(topic)).items()} != one.ends:
            raise LogMismatch(f"{topic} grew while it was copied: stop every service of the house, then repeat")


@asynccontextmanager
async def _opened(settings: HouseSettings, clock: Clock) -> AsyncIterator[tuple[Log, dict[str, Database]]]:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(settings, clock))
        databases = {}
        for service in SERVICES:
            databases[service] = open_database(settings.database_url, settings.data_dir, service)
            stack.push_async_callback(databases[service].close)
        yield log, databases


def _telling(console: Console, as_json: bool) -> Told:
    shown: dict[str, int] = {}

    def told(what: str, done: int, of_all: int) -> None:
        percent = 100 * done // max(1, of_all)
        if not as_json and percent >= shown.get(what, -1) + 10:
            shown[what] = percent
            console.print(f"[dim]{what}: {done} of {of_all}[/dim]", highlight=False)

    return told
