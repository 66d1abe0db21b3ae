"""The composition root of scoring: the only place that picks log, database and ownership and starts the parts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from services.scoring.acting import Publishing, Verdicts
from services.scoring.asking import Profiles
from services.scoring.decide import ChangesProjection
from services.scoring.domain.watermark import Heard
from services.scoring.fit_runs import FitRuns
from services.scoring.fits import Fits, FitTerms, Imports
from services.scoring.hearing import Hearing
from services.scoring.metrics import Counting, ScoringMetrics
from services.scoring.past import PastDesk
from services.scoring.rebuilding import Rebuilder
from services.scoring.recovering import Recovering
from services.scoring.routes import Desk, Streaming, alert_routes, decision_routes, definition_routes, stream_routes
from services.scoring.routes_models import model_routes
from services.scoring.routes_rebuild import WORDS, RebuildShown, ScoringRebuildDesk
from services.scoring.rulebook import Rulebook
from services.scoring.settings import ScoringSettings
from services.scoring.store import SqlStore
from services.scoring.stream import Streams
from services.scoring.switching import House
from services.scoring.tail import Tail
from shared.access import Key
from shared.clock import Clock, SystemClock
from shared.crew import Keeper, Watch
from shared.database import DATABASE_ERRORS, Away, Database, fetch, open_database
from shared.definitions import DefinitionsFeed
from shared.ending import ended
from shared.errors import Stopped
from shared.httpd import Auth, Checks, HouseApp, Life, finish, new_app
from shared.lane import named
from shared.log.ownership import AllPartitions
from shared.log.port import Log, Ownership
from shared.log.sqlite import SqliteLog
from shared.loop import Worker
from shared.rebuild_rest import rebuild_routes
from shared.relay import Relaying
from shared.retry import until_answered
from shared.telemetry import Telemetry
from shared.topics import PROFILE_CHANGES, topics

DESCRIPTION = (
    "Who is about to leave, since when, and why? Alerts and stages, live and to look up. Reads need a secret key with "
    "the scope `read`, words on alerts `act`, new rules `admin`. Everything belongs to the key's workspace."
)
GROUP = "raftar-scoring"

Owns = Callable[[], Ownership]
"""A fresh ownership of the partitions of `profile-changes`."""


def build(
    settings: ScoringSettings,
    *,
    log: Log,
    database: Database,
    clock: Clock,
    feed: DefinitionsFeed,
    ownership: Owns,
    owns_stores: bool = False,
) -> HouseApp:
    """Scoring as one ASGI application; its lifespan starts and ends the worker and the feed.

    `feed` not yet started. The database's tables must be there (`python -m services migrate`). `owns_stores`: the
    lifespan closes log and database.
    """
    life, telemetry, partitions = Life(), Telemetry(), settings.partitions
    rulebook, store, heard = Rulebook(feed), SqlStore(database, partitions), Heard(partitions)
    changes = ChangesProjection(
        store, clock, partitions, rulebook.rules, feed.age_seconds, heard, in_force=rulebook.in_force
    )
    relaying = Relaying(partitions, states_watermarks=False, allowance_ms=settings.allowance_ms)
    keeper = Keeper(PROFILE_CHANGES, lambda: Worker(log, ownership(), changes, clock, relaying))
    hearing, tail = Hearing(log, clock, heard, keeper, changes.unfinished), Tail(log, partitions)
    streams = Streams(settings.scoring_streams_max)
    watch = Watch(log, database, clock, [keeper])
    recovering = Recovering(log, database, clock, partitions)
    rebuilder = Rebuilder(House(log, database, rulebook.rules, partitions), clock)
    counting = Counting(database, clock, lambda: [lane.partition for lane in keeper.lanes])
    publishing = Publishing(log, feed, clock, rulebook)
    imports, runs = Imports(feed), FitRuns(database)
    fits = Fits(_fit_terms(settings), runs, clock, rulebook, publishing, imports, hearing.known_until)
    telemetry.registry.register(
        ScoringMetrics(changes.tally, rulebook, hearing, streams, tail, watch, counting, feed, fits.tally)
    )

    past = PastDesk(Profiles(settings.profiles), rulebook.rules, clock)

    async def ready() -> Checks:
        age_seconds = feed.age_seconds()
        return {
            "database": await _answers(database),
            "definitions": {
                "ok": age_seconds <= settings.scoring_feed_stale_seconds,
                "age_seconds": round(age_seconds, 3) if feed.read_at_monotonic is not None else None,
            },
            "decisions": recovering.check(),
            "watermarks": hearing.check(settings.scoring_watermark_stale_seconds),
            PROFILE_CHANGES: watch.check(keeper),
        }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await until_answered(lambda: _check_tables(database), "the database")
            await until_answered(lambda: log.ensure(topics(partitions)), "the log")
            await feed.start()
            parts = (
                recovering.run(keeper.run), rebuilder.run(), hearing.run(), tail.run(), watch.run(), counting.run(),
                fits.run(),
            )  # fmt: skip
            tasks = [asyncio.create_task(part) for part in parts]
            try:
                yield
            finally:
                await ended(tasks)
                await asyncio.gather(feed.close(), past.profiles.close())
        finally:
            if owns_stores:
                await asyncio.gather(log.close(), database.close())

    api = new_app(
        title="Raftar scoring",
        description=DESCRIPTION,
        version="1",
        telemetry=telemetry,
        life=life,
        ready=ready,
        lifespan=lifespan,
    )
    auth = Auth(lambda: feed.access)
    desk = Desk(database, clock, rulebook)
    verdicts = Verdicts(store, clock, changes.setting, keeper.wake, changes.tally)
    streaming = Streaming(
        tail,
        streams,
        life,
        lambda key: _live(feed, key),
        settings.scoring_stream_events_max,
        settings.scoring_stream_stall_seconds,
    )
    api.include_router(stream_routes(streaming, auth))
    api.include_router(alert_routes(desk, verdicts, past, auth))
    api.include_router(decision_routes(desk, past, auth))
    api.include_router(definition_routes(desk, publishing, auth))
    api.include_router(model_routes(fits, auth))
    api.include_router(rebuild_routes(ScoringRebuildDesk(clock, rebuilder), auth, RebuildShown, WORDS))
    return finish(api, life)


def from_settings(settings: ScoringSettings) -> HouseApp:
    """Scoring on the log and database the settings name; its lifespan closes what this opens."""
    clock = SystemClock()
    log = _open_log(settings, clock)
    return build(
        settings,
        log=log,
        database=open_database(settings.database_url, settings.data_dir, "scoring"),
        clock=clock,
        feed=DefinitionsFeed(log, clock),
        ownership=ownership_of(settings, clock),
        owns_stores=True,
    )


def ownership_of(settings: ScoringSettings, clock: Clock) -> Owns:
    """A consumer group on Kafka; embedded, this process folds everything."""
    if not settings.kafka_bootstrap:
        return lambda: AllPartitions(settings.partitions)
    from shared.log.kafka_ownership import KafkaOwnership  # an embedded house starts without the Kafka client

    def joined() -> Ownership:
        topics_read, prefix, security = (PROFILE_CHANGES,), settings.kafka_topic_prefix, settings.kafka_security
        return KafkaOwnership(settings.kafka_bootstrap, GROUP, topics_read, clock, prefix=prefix, settings=security)

    return joined


def _open_log(settings: ScoringSettings, clock: Clock) -> Log:
    """Kafka when bootstrap servers are named, else SQLite files in the data folder."""
    if settings.kafka_bootstrap:
        from shared.log.kafka import KafkaLog

        return KafkaLog(
            settings.kafka_bootstrap, clock, prefix=settings.kafka_topic_prefix, security=settings.kafka_security
        )
    return SqliteLog(settings.log_dir, clock)


def _fit_terms(settings: ScoringSettings) -> FitTerms:
    return FitTerms(
        settings.database_url,
        str(settings.data_dir),
        settings.partitions,
        settings.scoring_refit_hours,
        settings.scoring_refit_change_min,
        settings.scoring_fit_customers_max,
    )


def _live(feed: DefinitionsFeed, key: Key) -> bool:
    known = feed.access.keys.get(key.key_id)
    return known is not None and known.revoked_at is None


async def _check_tables(database: Database) -> None:
    try:
        async with database.snapshot() as connection:
            await fetch(connection, "SELECT customer FROM decision LIMIT 1")
    except DATABASE_ERRORS as error:
        raise Stopped(
            f"the scoring database has no tables ({named(error)}); run `python -m services migrate`"
        ) from None


async def _answers(database: Database) -> Mapping[str, Any]:
    try:
        async with asyncio.timeout(2.0), database.snapshot() as connection:
            await fetch(connection, "SELECT 1")
    except (*DATABASE_ERRORS, Away, TimeoutError) as error:
        return {"ok": False, "reason": type(error).__name__}
    return {"ok": True}
