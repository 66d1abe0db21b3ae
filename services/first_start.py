"""First start of a house: topics, the workspace with its secrets, two API keys, version 1 of what decides.

Every step looks before it writes, so running it again changes nothing. What every service must know lies on the log
(`definitions`) afterwards; what only this machine may know lies in the data folder, readable by its owner alone.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services import local_access
from services.local_access import LocalAccess
from services.scoring.defaults import first_definition
from shared.access import KEY_RANDOM_BYTES, SCOPES, SECRET_KEY, WRITE, WRITE_KEY, new_key
from shared.clock import Clock
from shared.codec import encode
from shared.definitions import DefinitionsFeed
from shared.errors import Stopped
from shared.events import DefinitionPublished, Fact, KeyCreated, WorkspaceDefined
from shared.keyring import Keyring
from shared.log.port import Log, Outgoing
from shared.log.sqlite import SqliteLog
from shared.settings import HouseSettings
from shared.topics import DEFINITIONS, topics

WEBSITE, BACK_OFFICE = "website", "back-office"
UNFINISHED_RESTORE = "restore.unfinished"
"""Stands in the data folder while a backup, or a house of other partitions, is put into it."""


@dataclass(slots=True)
class FirstStart:
    """What was done: one line for each thing, none on a later start. `access` is what the CLI may use."""

    access: LocalAccess
    done: list[str] = field(default_factory=list)


@asynccontextmanager
async def open_log(settings: HouseSettings, clock: Clock) -> AsyncIterator[Log]:
    """The log the settings name, closed at the end of the block."""
    log: Log
    if settings.kafka_bootstrap:
        from shared.log.kafka import KafkaLog  # only a house on Kafka pays for loading its client

        log = KafkaLog(
            settings.kafka_bootstrap, clock, prefix=settings.kafka_topic_prefix, security=settings.kafka_security
        )
    else:
        log = SqliteLog(settings.log_dir, clock)
    try:
        yield log
    finally:
        await log.close()


def check_whole(data_dir: Path) -> None:
    """Raise Stopped where filling the folder was interrupted: half a house must not start."""
    if (data_dir / UNFINISHED_RESTORE).exists():
        raise Stopped(f"what was put into {data_dir} was not finished: remove the folder, then do it again")


async def first_start(settings: HouseSettings, clock: Clock, new_keys: bool = False) -> FirstStart:
    """Do what a first start does and was not done yet; `new_keys` makes two more keys in any case.

    Raises Stopped when the log knows the workspace but this machine lacks its secrets, Retryable when the log is
    not there yet.
    """
    check_whole(settings.data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=local_access.FOLDER_OWNER_ONLY)
    async with open_log(settings, clock) as log:
        await log.ensure(topics(settings.partitions))
        feed = DefinitionsFeed(log, clock)
        published: set[str] = set()
        feed.on(DefinitionPublished, lambda fact: published.add(fact.workspace))
        await feed.start()
        try:
            return await _complete(settings, clock, log, feed, settings.workspace in published, new_keys)
        finally:
            await feed.close()


async def _complete(
    settings: HouseSettings, clock: Clock, log: Log, feed: DefinitionsFeed, published: bool, new_keys: bool
) -> FirstStart:
    workspace, facts = settings.workspace, list[Fact]()
    known = local_access.load(settings.data_dir)
    start = FirstStart(known if known and known.workspace == workspace else LocalAccess(workspace=workspace))
    if workspace not in feed.workspaces:
        facts.append(_new_workspace(settings, clock.now_ms()))
        start.done.append(
            f"workspace {workspace} made, time zone {settings.time_zone}; its secrets lie in the data folder"
        )
    else:
        Keyring(settings.data_dir).leaf_secret(workspace)  # raises, with the next step, when it is lost
    if not published:
        facts.append(first_definition(workspace))
        start.done.append("version 1 of rules and model published")
    if new_keys or not feed.access.keys_of(workspace):
        made, start.access = _new_keys(start.access, clock.now_ms())
        facts.extend(made)
        start.done.append("a public write key and a secret key made")
        local_access.save(settings.data_dir, start.access)  # before the facts: a key nobody can read opens nothing
    if facts:
        await log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in facts])
    return start


def _new_workspace(settings: HouseSettings, now_ms: int) -> WorkspaceDefined:
    keyring = Keyring(settings.data_dir)
    keyring.create(settings.workspace)
    name, public = keyring.sealing_public(settings.workspace)
    return WorkspaceDefined(
        settings.workspace, settings.time_zone, settings.region.upper(), name, public, created_at=now_ms
    )


def _new_keys(access: LocalAccess, now_ms: int) -> tuple[list[KeyCreated], LocalAccess]:
    write, write_text = new_key(
        WRITE_KEY, access.workspace, WEBSITE, (WRITE,), "first start", now_ms, secrets.token_bytes(KEY_RANDOM_BYTES)
    )
    secret, secret_text = new_key(
        SECRET_KEY, access.workspace, BACK_OFFICE, SCOPES, "first start", now_ms, secrets.token_bytes(KEY_RANDOM_BYTES)
    )
    return [write, secret], msgspec.structs.replace(access, write_key=write_text, secret_key=secret_text)
