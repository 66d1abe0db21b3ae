"""What scoring counts and how far it is, as Prometheus metrics."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.scoring.decide import Tally
from services.scoring.fits import FitTally
from services.scoring.hearing import Hearing
from services.scoring.reading import Census, census
from services.scoring.rulebook import Rulebook
from services.scoring.stream import Streams
from services.scoring.tail import Tail
from shared.clock import Clock
from shared.crew import Watch
from shared.crew_metrics import loop_metrics, standing_metrics
from shared.database import Database
from shared.definitions import DefinitionsFeed
from shared.lane import named

CENSUS_SECONDS = 5.0

_STEP = {
    "fired": "Customers decided because they were due",
    "released": "Customers looked at when an import had finished",
    "unknown": "Facts of kinds this code does not know",
    "undecodable": "Records that are no facts",
    "definitions_too_old": "Turns and folds that decided no silence because definitions were read too long ago",
    "restarts": "Steps that took their locks anew",
}
_BOOK = {
    "decided": "Decisions taken",
    "outdated": "Changes of a version already seen",
    "unsettled_silences": "Silences that ended before their crossing was settled",
    "parked": "Customers parked because a decision failed",
    "taken_over": "Alerts raised under an id that another customer held",
    "suppressed": "Words about an alert that belongs to another customer by now",
}

_log = structlog.get_logger("census")


class Counting:
    """Counts customers that wait, every few seconds. `run()` until cancelled."""

    def __init__(self, database: Database, clock: Clock, owned: Callable[[], Sequence[int]]) -> None:
        self.newest = Census()
        self._database, self._clock, self._owned = database, clock, owned

    async def run(self) -> None:
        """Count for ever; while the database does not answer, the last figures stay."""
        while True:
            try:
                async with self._database.snapshot() as connection:
                    self.newest = await census(connection, self._owned(), self._clock.now_ms())
            except Exception as error:
                _log.warning("customers cannot be counted now", error=named(error))
            await asyncio.sleep(CENSUS_SECONDS)


class ScoringMetrics(Collector):
    """All metrics of scoring, read at the moment they are asked for."""

    def __init__(
        self,
        step: Tally,
        rulebook: Rulebook,
        hearing: Hearing,
        streams: Streams,
        tail: Tail,
        watch: Watch,
        counting: Counting,
        feed: DefinitionsFeed,
        fits: FitTally,
    ) -> None:
        self._step, self._rulebook, self._hearing, self._streams = step, rulebook, hearing, streams
        self._tail, self._watch, self._counting, self._feed = tail, watch, counting, feed
        self._fits = fits

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: `collect` names what it gives."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the counts of this moment."""
        for name, about in _STEP.items():
            yield CounterMetricFamily(f"raftar_scoring_{name}", about, getattr(self._step, name))
        for name, about in _BOOK.items():
            yield CounterMetricFamily(f"raftar_scoring_{name}", about, getattr(self._step.counts, name))
        yield from self._time()
        yield from self._waiting()
        yield from self._telling()
        yield from self._fitting()
        yield from loop_metrics("scoring", self._watch)
        yield from standing_metrics("scoring", self._watch)

    def _time(self) -> Iterator[Metric]:
        hearing = self._hearing
        yield _counter("statements", "Watermark statements heard", hearing.statements)
        yield _counter("statements_undecodable", "Watermark statements that could not be read", hearing.undecodable)
        yield _counter("turn_failures", "Turns and readings of watermarks that failed", hearing.failures)
        lag = GaugeMetricFamily("raftar_scoring_watermark_lag_seconds", "Now less the watermark", labels=["partition"])
        for partition, seconds in sorted(hearing.lags().items()):
            lag.add_metric([str(partition)], seconds)
        yield lag
        unheard = GaugeMetricFamily(
            "raftar_scoring_watermark_unheard_seconds", "Since the watermark moved", labels=["partition"]
        )
        for partition, seconds in sorted(hearing.unheard_seconds().items()):
            unheard.add_metric([str(partition)], seconds)
        yield unheard
        yield _counter("definitions_refused", "Versions and time zones that cannot be used", self._rulebook.refused)
        yield _gauge("definitions_age_seconds", "Age of the reading", self._feed.age_seconds())

    def _waiting(self) -> Iterator[Metric]:
        now = self._counting.newest
        yield _gauge("due_customers", "Customers due before now on owned partitions", now.due)
        yield _gauge("held_customers", "Customers held by an unfinished import", now.held)
        yield _gauge("parked_customers", "Customers about whom nothing is decided any more", now.parked)

    def _fitting(self) -> Iterator[Metric]:
        fits = self._fits
        yield _counter("fits_published", "Fits of the model that were published", fits.published)
        yield _counter("fits_unchanged", "Fits that differed too little to be published", fits.unchanged)
        yield _counter(
            "fits_refused", "Fits refused: too few customers, or no better than the model in force", fits.refused
        )
        yield _counter("fits_failed", "Fits that failed", fits.failed)
        yield _counter(
            "fits_postponed", "Scheduled fits put off because a history import was under way", fits.postponed
        )
        yield _gauge("fits_running", "Fits under way", fits.running)
        yield _gauge("fit_seconds", "How long the last fit took", fits.seconds)
        yield _gauge("fit_customers", "Customers with a purchase that the last fit read", fits.customers)

    def _telling(self) -> Iterator[Metric]:
        streams = self._streams
        yield _gauge("streams", "Event streams open", streams.open)
        yield _counter("streams_opened", "Event streams opened", streams.opened)
        yield _counter("streams_cut_off", "Event streams cut off because nobody read", streams.cut_off)
        yield _counter("streams_fell_behind", "Times a slow stream went on from the log", streams.fell_behind)
        yield _counter("tail_failures", "Failed reads of what was said", self._tail.failures)
        yield _counter("tail_foreign", "Records that are no events of ours", self._tail.foreign)


def _counter(name: str, about: str, value: Any) -> CounterMetricFamily:
    return CounterMetricFamily(f"raftar_scoring_{name}", about, value)


def _gauge(name: str, about: str, value: Any) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"raftar_scoring_{name}", about, value)
