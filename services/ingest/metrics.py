"""What the door counts: plain integers on the hot path, turned into Prometheus metrics when somebody asks."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ingest.imports import Imports
from services.ingest.pressure import Inflight, LogHealth
from shared.definitions import DefinitionsFeed

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Counts:
    """Counters of the hot path: an addition to a dict each, no locks."""

    def __init__(self) -> None:
        self.appends = [0] * (len(_SECONDS) + 1)
        self.appends_seconds = 0.0
        self.requests: dict[tuple[str, int], int] = {}
        self.failed: dict[str, int] = {}
        self.accepted = 0
        self.not_deduplicable = 0
        self.append_failures: dict[str, int] = {}

    def request(self, route: str, status: int) -> None:
        """One request to an event route was answered."""
        self.requests[route, status] = self.requests.get((route, status), 0) + 1

    def refused(self, code: str) -> None:
        """One item was refused."""
        self.failed[code] = self.failed.get(code, 0) + 1

    def appended(self, seconds: float) -> None:
        """One append took so long."""
        self.appends[bisect_left(_SECONDS, seconds)] += 1
        self.appends_seconds += seconds

    def append_failed(self, code: str) -> None:
        """The log did not take a request's records."""
        self.append_failures[code] = self.append_failures.get(code, 0) + 1


class DoorMetrics(Collector):
    """All metrics of the door. Names are listed in the reference of metrics."""

    def __init__(
        self,
        counts: Counts,
        inflight: Inflight,
        health: LogHealth,
        imports: Imports,
        feed: DefinitionsFeed,
    ) -> None:
        self._counts, self._inflight, self._health = counts, inflight, health
        self._imports, self._feed = imports, feed

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: `collect` names what it gives."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the counts of this moment."""
        yield from self._counters()
        yield self._append_seconds()
        yield GaugeMetricFamily("raftar_ingest_inflight_bytes", "Bytes of requests in progress", self._inflight.held)
        yield GaugeMetricFamily("raftar_ingest_imports_open", "History imports open", self._imports.open_count())
        yield GaugeMetricFamily("raftar_ingest_definitions_age_seconds", "Age of the reading", self._feed.age_seconds())
        yield GaugeMetricFamily("raftar_ingest_log_ok", "1 when the last append worked", self._health.last_worked)

    def _counters(self) -> Iterator[Metric]:
        counts = self._counts
        requests = CounterMetricFamily("raftar_ingest_requests", "Requests to event routes", labels=["route", "status"])
        for (route, status), value in counts.requests.items():
            requests.add_metric([route, str(status)], value)
        yield requests
        yield CounterMetricFamily("raftar_ingest_accepted", "Touchpoints durably in the log", counts.accepted)
        yield CounterMetricFamily(
            "raftar_ingest_not_deduplicable", "Touchpoints whose retry would count again", counts.not_deduplicable
        )
        yield _by_code("raftar_ingest_failed", "Touchpoints refused, by reason", counts.failed)
        yield _by_code("raftar_ingest_append_failures", "Appends the log refused", counts.append_failures)
        yield CounterMetricFamily(
            "raftar_ingest_imports_closed_idle", "Imports closed by the door", self._imports.closed_idle
        )

    def _append_seconds(self) -> Metric:
        counted = [float(count) for count in accumulate(self._counts.appends)]
        bounds = [*(str(float(bound)) for bound in _SECONDS), "+Inf"]
        name, text = "raftar_ingest_append_seconds", "Time one append to the log took"
        buckets = list(zip(bounds, counted, strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._counts.appends_seconds)


def _by_code(name: str, text: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["code"])
    for code, value in values.items():
        family.add_metric([code], value)
    return family
