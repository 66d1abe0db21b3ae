"""The composition root of the door: the only place that picks its log, clock and keys and puts the parts together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from services.ingest.door import EventDoor
from services.ingest.imports import Imports
from services.ingest.intake import Intake
from services.ingest.metrics import Counts, DoorMetrics
from services.ingest.openapi import describe_events
from services.ingest.pressure import Backlog, Inflight, LogHealth, Patience
from services.ingest.replaying import Replaying
from services.ingest.routes import import_routes, key_routes, settings_routes
from services.ingest.routes_replay import replay_routes
from services.ingest.senders import Secrets, Senders
from services.ingest.settings import IngestSettings
from shared.clock import Clock, SystemClock
from shared.definitions import DefinitionsFeed
from shared.ending import ended
from shared.httpd import Auth, Checks, Guarded, HouseApp, Life, new_app
from shared.keyring import Keyring
from shared.log.port import Log
from shared.log.sqlite import SqliteLog
from shared.retry import until_answered
from shared.telemetry import Telemetry
from shared.topics import topics

DESCRIPTION = (
    "Post touchpoints; a 200 means they are durably in the log. Speaks Segment's HTTP API and its own. "
    "Websites use a write key, back-office systems a secret key."
)


def build(
    settings: IngestSettings,
    *,
    log: Log,
    clock: Clock,
    keyring: Secrets,
    feed: DefinitionsFeed,
    owns_log: bool = False,
) -> HouseApp:
    """The door as one ASGI application.

    `feed` not yet started: the application's lifespan starts and closes it. `owns_log`: the lifespan closes the log.
    """
    life, telemetry = Life(), Telemetry()
    counts, inflight = Counts(), Inflight(settings.ingest_inflight_bytes_max)
    health, backlog = LogHealth(log, clock), Backlog(log, clock)
    patience = Patience(clock, settings.ingest_turn_seconds_max, settings.ingest_log_seconds_max)
    senders = Senders(keyring, feed, settings.ingest_default_currency)
    imports = Imports(log, feed, clock, settings.partitions, settings.ingest_import_idle_seconds)
    intake = Intake(log, clock, senders, imports, settings.limits, settings.partitions, counts, health, patience)
    telemetry.registry.register(DoorMetrics(counts, inflight, health, imports, feed))

    async def ready() -> Checks:
        age_seconds = feed.age_seconds()
        missing = senders.missing()
        return {
            "log": {**await health.check(), "inflight_bytes": inflight.held},
            "backlog": await backlog.check(),
            "definitions": {
                "ok": age_seconds <= settings.ingest_feed_stale_seconds,
                "age_seconds": round(age_seconds, 3) if feed.read_at_monotonic is not None else None,
            },
            "secrets": {"ok": not missing, "missing_workspaces": missing},
        }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await until_answered(lambda: log.ensure(topics(settings.partitions)), "the log")
            await feed.start()
            closer = asyncio.create_task(imports.keep_closing_idle(), name="idle imports")
            try:
                yield
            finally:
                await ended([closer])
                await feed.close()
        finally:
            if owns_log:
                await log.close()

    api = new_app(
        title="Raftar ingest",
        description=DESCRIPTION,
        version="1",
        telemetry=telemetry,
        life=life,
        ready=ready,
        lifespan=lifespan,
    )
    auth = Auth(lambda: feed.access)
    api.include_router(key_routes(log, feed, clock, auth))
    api.include_router(import_routes(imports, auth))
    replaying = Replaying(intake, senders, log, clock, settings.limits)
    api.include_router(replay_routes(replaying, auth))
    api.include_router(settings_routes(feed, settings.ingest_public_url))
    describe_events(api)
    rest = Guarded(api, body_bytes_max=1 << 20)
    door = EventDoor(rest, intake, senders, feed, clock, settings, inflight, patience, counts)
    return HouseApp(door, life, straight=door)


def from_settings(settings: IngestSettings) -> HouseApp:
    """The door on the log and keys the settings name. Opens the log; its lifespan closes it."""
    clock = SystemClock()
    log = open_log(settings, clock)
    feed = DefinitionsFeed(log, clock)
    return build(settings, log=log, clock=clock, keyring=Keyring(settings.data_dir), feed=feed, owns_log=True)


def open_log(settings: IngestSettings, clock: Clock) -> Log:
    """Kafka when bootstrap servers are named, else SQLite files in the data folder."""
    options: dict[str, Any] = {"inflight_bytes_max": settings.ingest_inflight_bytes_max}
    if settings.kafka_bootstrap:
        from shared.log.kafka import KafkaLog  # an embedded house starts without the Kafka client

        options |= {"prefix": settings.kafka_topic_prefix, "security": settings.kafka_security}
        return KafkaLog(settings.kafka_bootstrap, clock, **options)
    return SqliteLog(settings.log_dir, clock, disk_reserve_bytes=settings.ingest_disk_reserve_bytes, **options)
