"""What the workers of a service count and how far behind they are, as Prometheus metrics under the service's name."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.crew import Watch

_LOOP = {
    "folded_records": "Records folded",
    "relayed_rows": "Outbox rows acknowledged by the log",
    "refused": "Writes refused because another worker has the partition",
    "failures": "Anything else that made a lane pause",
    "clock_off": "Frontiers withheld because our clock differs from the log's stamps",
}


def loop_metrics(service: str, watch: Watch) -> Iterator[Metric]:
    """`raftar_<service>_loop_*`: the loops' counters, by topic."""
    for name, about in _LOOP.items():
        family = CounterMetricFamily(f"raftar_{service}_loop_{name}", about, labels=["topic"])
        for keeper in watch.keepers:
            if keeper.worker is not None:
                family.add_metric([keeper.topic], getattr(keeper.worker.tally, name))
        yield family


def standing_metrics(service: str, watch: Watch) -> Iterator[Metric]:
    """`raftar_<service>_*`: outbox depth; by partition lag, ages, stops; by topic whether a worker is at work."""
    yield GaugeMetricFamily(
        f"raftar_{service}_outbox_rows", "Facts waiting for the log, counted up to 100,000", watch.outbox_rows
    )
    lags = {where: lag.records for where, lag in watch.lags.items()}
    yield by_partition(f"raftar_{service}_lag_records", "Records not yet folded", lags)
    ages = {where: watch.age_seconds(lag) for where, lag in watch.lags.items()}
    yield by_partition(f"raftar_{service}_oldest_unread_seconds", "Age of the oldest record not yet folded", ages)
    frontiers = {(topic, partition): age for topic, partition, age in watch.frontier_ages()}
    yield by_partition(f"raftar_{service}_frontier_age_seconds", "Everything older is folded", frontiers)
    stopped = GaugeMetricFamily(f"raftar_{service}_stopped_partitions", "Wait for a person", labels=["topic"])
    alive = GaugeMetricFamily(f"raftar_{service}_worker_alive", "1 while a worker folds it", labels=["topic"])
    deaths = CounterMetricFamily(f"raftar_{service}_worker_deaths", "Workers replaced", labels=["topic"])
    for keeper in watch.keepers:
        deaths.add_metric([keeper.topic], keeper.deaths)
        stopped.add_metric([keeper.topic], sum(1 for lane in keeper.lanes if lane.stopped))
        alive.add_metric([keeper.topic], int(keeper.is_alive))
    yield stopped
    yield alive
    yield deaths


def by_partition(name: str, about: str, values: Mapping[tuple[str, int], Any]) -> GaugeMetricFamily:
    """A gauge with a value for each (topic, partition)."""
    family = GaugeMetricFamily(name, about, labels=["topic", "partition"])
    for (topic, partition), value in sorted(values.items()):
        family.add_metric([topic, str(partition)], value)
    return family
