"""The composition root of profiles: the only place that picks log, database and ownership and starts the workers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from services.profiles.auditing import Auditor
from services.profiles.decisions import DecisionsProjection
from services.profiles.domain.terms import House
from services.profiles.facts import Facts
from services.profiles.failed import FailedProjection
from services.profiles.fold import TouchpointsProjection
from services.profiles.linking import Linking
from services.profiles.metrics import AuditMetrics, ProfilesMetrics
from services.profiles.opening import Leaves, Openers
from services.profiles.privacy import privacy
from services.profiles.rebuilding import Rebuilder
from services.profiles.replaying import Replaying
from services.profiles.republish import Republishing
from services.profiles.routes import Desk, customer_routes, tie_routes
from services.profiles.routes_failed import FailedDesk, failed_routes
from services.profiles.routes_past import PastDesk, past_routes
from services.profiles.routes_rebuild import WORDS, ProfilesRebuildDesk, RebuildShown
from services.profiles.routes_republish import RepublishDesk, republish_routes
from services.profiles.routes_verify import VerifyDesk, verify_routes
from services.profiles.sealing_keys import SealingSecrets
from services.profiles.settings import ProfilesSettings
from services.profiles.store import SqlStore
from services.profiles.verifying import Verifier
from shared.clock import Clock, SystemClock
from shared.crew import Keeper, Watch
from shared.database import DATABASE_ERRORS, Away, Database, fetch, open_database
from shared.definitions import DefinitionsFeed
from shared.ending import ended
from shared.errors import Stopped
from shared.events import RepublishRequested
from shared.httpd import Auth, Checks, HouseApp, Life, finish, new_app
from shared.keyring import Keyring
from shared.lane import named
from shared.log.ownership import AllPartitions
from shared.log.port import RECORD_BYTES_MAX, Log, Ownership
from shared.log.sqlite import SqliteLog
from shared.loop import Projection, Worker
from shared.rebuild_rest import rebuild_routes
from shared.relay import Relaying
from shared.retry import until_answered
from shared.stepping import AT_ONCE, IN_PASSING, Pace
from shared.telemetry import Telemetry
from shared.topics import CHURN_ALERTS, FAILED_PARTITIONS, SEGMENT_CHANGES, TOUCHPOINTS, TOUCHPOINTS_FAILED, topics

DESCRIPTION = (
    "Who is this customer, what happened, and why does Raftar say so? Reads need a secret key with the scope `read`, "
    "links one with `act`. Everything belongs to the key's workspace."
)
GROUP = "raftar-profiles"
Owns = Callable[[str], Ownership]
"""topic → a fresh ownership of its partitions."""


def build(
    settings: ProfilesSettings,
    *,
    log: Log,
    database: Database,
    clock: Clock,
    keyring: SealingSecrets,
    feed: DefinitionsFeed,
    ownership: Owns,
    owns_stores: bool = False,
) -> HouseApp:
    """Profiles as one ASGI application; its lifespan starts and ends the workers and the feed.

    The database's tables must be there (`python -m services migrate`). `owns_stores`: the lifespan closes log and
    database.
    """
    life, telemetry, store = Life(), Telemetry(), SqlStore(database)
    openers, leaves = Openers(keyring, clock, lambda: feed.workspaces), Leaves(keyring, feed)
    touchpoints = TouchpointsProjection(store, House(settings.partitions, RECORD_BYTES_MAX), openers.open)
    decisions = [DecisionsProjection(store, topic) for topic in (SEGMENT_CHANGES, CHURN_ALERTS)]
    failed = FailedProjection(store)

    def keeper(projection: Projection, relaying: Relaying | None = None, pace: Pace = AT_ONCE) -> Keeper:
        topic = projection.topic
        return Keeper(topic, lambda: Worker(log, ownership(topic), projection, clock, relaying, pace))

    folding = keeper(touchpoints, Relaying(settings.partitions, True, settings.allowance_ms))
    shown: list[Projection] = [*decisions, failed]
    keepers = [folding, *(keeper(one, pace=IN_PASSING) for one in shown)]
    watch = Watch(log, database, clock, keepers)
    tallies = {one.topic: one.tally for one in decisions}
    republishing = Republishing(store, touchpoints.house, clock, folding.wake)
    feed.on(RepublishRequested, republishing.hear)
    rebuilder = Rebuilder(log, database, clock, settings.partitions, folding.wake)
    verifier = Verifier(log, database)
    auditor = Auditor(verifier, clock, settings.profiles_audit_per_minute)
    telemetry.registry.register(AuditMetrics(auditor.tally, rebuilder.check))
    private = privacy(settings, log, store, clock, keyring, feed, openers, folding.wake)
    telemetry.registry.register(ProfilesMetrics(touchpoints.tally, tallies, failed.tally, watch, feed))

    async def ready() -> Checks:
        missing = leaves.missing()
        age_seconds = feed.age_seconds()
        return {
            "database": await _answers(database),
            "definitions": {
                "ok": age_seconds <= settings.profiles_feed_stale_seconds,
                "age_seconds": round(age_seconds, 3) if feed.read_at_monotonic is not None else None,
            },
            "secrets": private.check(missing),
            "projection": rebuilder.check(),
            "audit": auditor.check(),
            **{one.topic: watch.check(one) for one in keepers},
        }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await until_answered(lambda: _check_tables(database), "the database")
            await until_answered(rebuilder.declare, "the database")
            await until_answered(lambda: log.ensure(topics(settings.partitions)), "the log")
            await feed.start()
            tasks = [asyncio.create_task(one.run(), name=f"keeper {one.topic}") for one in keepers]
            tasks.append(asyncio.create_task(watch.run(), name="watch"))
            tasks.append(asyncio.create_task(private.scrubber.run(), name="scrubber"))
            tasks.append(asyncio.create_task(republishing.run(), name="republish"))
            tasks.append(asyncio.create_task(rebuilder.run(), name="rebuild"))
            tasks.append(asyncio.create_task(auditor.run(), name="audit"))
            try:
                yield
            finally:
                await ended(tasks)
                await feed.close()
        finally:
            if owns_stores:
                await asyncio.gather(log.close(), database.close())

    api = new_app(
        title="Raftar profiles",
        description=DESCRIPTION,
        version="1",
        telemetry=telemetry,
        life=life,
        ready=ready,
        lifespan=lifespan,
    )
    auth = Auth(lambda: feed.access)
    linking = Linking(store, leaves, clock, settings.partitions, folding.wake)
    api.include_router(tie_routes(linking, auth))
    api.include_router(private.routes(auth))
    api.include_router(customer_routes(Desk(database, clock, leaves), auth))
    api.include_router(past_routes(PastDesk(database, Facts(database, clock)), auth))
    replaying = Replaying(store, log, clock, feed, openers.open, settings.partitions, folding.wake)
    api.include_router(failed_routes(FailedDesk(database, openers.open, replaying, settings.workspace), auth))
    api.include_router(republish_routes(RepublishDesk(database, log, feed, clock, republishing), auth))
    api.include_router(rebuild_routes(ProfilesRebuildDesk(clock, rebuilder), auth, RebuildShown, WORDS))
    api.include_router(verify_routes(VerifyDesk(verifier, leaves, clock), auth))
    return finish(api, life, body_bytes_max=64 << 10)


def from_settings(settings: ProfilesSettings) -> HouseApp:
    """Profiles on the log, database and keys the settings name; its lifespan closes what this opens."""
    clock = SystemClock()
    log = _open_log(settings, clock)
    return build(
        settings,
        log=log,
        database=open_database(settings.database_url, settings.data_dir, "profiles"),
        clock=clock,
        keyring=Keyring(settings.data_dir),
        feed=DefinitionsFeed(log, clock),
        ownership=ownership_of(settings, clock),
        owns_stores=True,
    )


def ownership_of(settings: ProfilesSettings, clock: Clock) -> Owns:
    """A consumer group for each topic on Kafka; embedded, this process folds everything."""
    if not settings.kafka_bootstrap:
        counts = {TOUCHPOINTS_FAILED: FAILED_PARTITIONS}
        return lambda topic: AllPartitions(counts.get(topic, settings.partitions))
    from shared.log.kafka_ownership import KafkaOwnership  # an embedded house starts without the Kafka client

    def joined(topic: str) -> Ownership:
        group = GROUP if topic == TOUCHPOINTS else f"{GROUP}.{topic}"
        prefix, security = settings.kafka_topic_prefix, settings.kafka_security
        return KafkaOwnership(settings.kafka_bootstrap, group, (topic,), clock, prefix=prefix, settings=security)

    return joined


def _open_log(settings: ProfilesSettings, clock: Clock) -> Log:
    """Kafka when bootstrap servers are named, else SQLite files in the data folder."""
    if settings.kafka_bootstrap:
        from shared.log.kafka import KafkaLog

        return KafkaLog(
            settings.kafka_bootstrap, clock, prefix=settings.kafka_topic_prefix, security=settings.kafka_security
        )
    return SqliteLog(settings.log_dir, clock)


async def _check_tables(database: Database) -> None:
    try:
        async with database.snapshot() as connection:
            await fetch(connection, "SELECT leaf FROM leaf LIMIT 1")
    except DATABASE_ERRORS as error:
        raise Stopped(
            f"the profiles database has no tables ({named(error)}); run `python -m services migrate`"
        ) from None


async def _answers(database: Database) -> dict[str, Any]:
    try:
        async with asyncio.timeout(2.0), database.snapshot() as connection:
            await fetch(connection, "SELECT 1")
    except (*DATABASE_ERRORS, Away, TimeoutError) as error:
        return {"ok": False, "reason": type(error).__name__}
    return {"ok": True}
