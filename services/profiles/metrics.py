"""What profiles count and how far behind they are, as Prometheus metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.profiles.crew import Watch
from services.profiles.decisions import DecisionTally
from services.profiles.failed import FailedTally
from services.profiles.fold import Tally
from shared.definitions import DefinitionsFeed

_STEP = {
    "touchpoints": "Touchpoints read from the log, repeats too",
    "duplicates": "Touchpoints seen before",
    "dropped": "Touchpoints dropped because their leaf is erased",
    "parked": "Facts that could not be folded",
    "unknown": "Facts of kinds this code does not know",
    "late_stamps": "Records that surfaced behind the frontier",
    "spread": "Changes of customers whose leaves lie on several partitions",
    "restarts": "Steps that took their locks anew",
}
_LOOP = {
    "folded_records": "Records folded",
    "relayed_rows": "Outbox rows acknowledged by the log",
    "refused": "Writes refused because another worker has the partition",
    "failures": "Anything else that made a lane pause",
    "clock_off": "Frontiers withheld because our clock differs from the log's stamps",
}


class ProfilesMetrics(Collector):
    """All metrics of profiles, read at the moment they are asked for."""

    def __init__(
        self,
        step: Tally,
        decisions: Mapping[str, DecisionTally],
        failed: FailedTally,
        watch: Watch,
        feed: DefinitionsFeed,
    ) -> None:
        self._step, self._decisions, self._failed, self._watch, self._feed = step, decisions, failed, watch, feed

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: `collect` names what it gives."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the counts of this moment."""
        for name, about in _STEP.items():
            yield CounterMetricFamily(f"raftar_profiles_{name}", about, getattr(self._step, name))
        yield CounterMetricFamily("raftar_profiles_failed_items", "Items refused at the door", self._failed.items)
        decided = CounterMetricFamily("raftar_profiles_decisions", "Decisions folded", labels=["topic"])
        for topic, tally in self._decisions.items():
            decided.add_metric([topic], tally.records)
        yield decided
        parked = CounterMetricFamily(
            "raftar_profiles_decisions_parked", "Records that are no decision", labels=["topic"]
        )
        for topic, tally in self._decisions.items():
            parked.add_metric([topic], tally.parked)
        yield parked
        yield from self._loop()
        yield from self._standing()

    def _loop(self) -> Iterator[Metric]:
        for name, about in _LOOP.items():
            family = CounterMetricFamily(f"raftar_profiles_loop_{name}", about, labels=["topic"])
            for keeper in self._watch.keepers:
                if keeper.worker is not None:
                    family.add_metric([keeper.topic], getattr(keeper.worker.tally, name))
            yield family

    def _standing(self) -> Iterator[Metric]:
        watch = self._watch
        yield GaugeMetricFamily("raftar_profiles_outbox_rows", "Facts waiting for the log", watch.outbox_rows)
        lags = {where: lag.records for where, lag in watch.lags.items()}
        yield _by_partition("raftar_profiles_lag_records", "Records not yet folded", lags)
        ages = {where: watch.age_seconds(lag) for where, lag in watch.lags.items()}
        yield _by_partition("raftar_profiles_oldest_unread_seconds", "Age of the oldest record not yet folded", ages)
        frontiers = {(topic, partition): age for topic, partition, age in watch.frontier_ages()}
        yield _by_partition("raftar_profiles_frontier_age_seconds", "Everything older is folded", frontiers)
        stopped = GaugeMetricFamily("raftar_profiles_stopped_partitions", "Wait for a person", labels=["topic"])
        alive = GaugeMetricFamily("raftar_profiles_worker_alive", "1 while a worker folds it", labels=["topic"])
        deaths = CounterMetricFamily("raftar_profiles_worker_deaths", "Workers replaced", labels=["topic"])
        for keeper in watch.keepers:
            deaths.add_metric([keeper.topic], keeper.deaths)
            stopped.add_metric([keeper.topic], sum(1 for lane in keeper.lanes if lane.stopped))
            alive.add_metric([keeper.topic], int(keeper.is_alive))
        yield stopped
        yield alive
        yield deaths
        age = self._feed.age_seconds()
        yield GaugeMetricFamily("raftar_profiles_definitions_age_seconds", "Age of the reading", age)


def _by_partition(name: str, about: str, values: Mapping[tuple[str, int], Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=["topic", "partition"])
    for (topic, partition), value in sorted(values.items()):
        family.add_metric([topic, str(partition)], value)
    return family
