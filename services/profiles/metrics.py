"""What profiles count and how far behind they are, as Prometheus metrics."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.profiles.auditing import AuditTally
from services.profiles.decisions import DecisionTally
from services.profiles.failed import FailedTally
from services.profiles.fold import Tally
from shared.crew import Watch
from shared.crew_metrics import loop_metrics, standing_metrics
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

_AUDIT = {
    "audited": "Customers refolded from the log at random",
    "drifted": "Of them, those of whom something is stored otherwise than the log says",
    "looked_at": "Touchpoints of the log looked up at random",
    "lost": "Of them, those nobody counted",
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
        yield from loop_metrics("profiles", self._watch)
        yield from standing_metrics("profiles", self._watch)
        age = self._feed.age_seconds()
        yield GaugeMetricFamily("raftar_profiles_definitions_age_seconds", "Age of the reading", age)


class AuditMetrics(Collector):
    """What the self-audit found, and whether what is live was folded by this code's fold."""

    def __init__(self, audit: AuditTally, projection: Callable[[], Mapping[str, Any]]) -> None:
        self._audit, self._projection = audit, projection

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: `collect` names what it gives."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the counts of this moment."""
        for name, about in _AUDIT.items():
            yield CounterMetricFamily(f"raftar_profiles_audit_{name}", about, getattr(self._audit, name))
        state = self._projection()
        about = "1 while what is live was folded by another fold than this code's: rebuild profiles"
        yield GaugeMetricFamily("raftar_profiles_projection_outdated", about, int(state["outdated"]))
        about = "1 while a version is made beside the live one"
        running = state["rebuild"] in ("filling", "comparing", "ready")
        yield GaugeMetricFamily("raftar_profiles_rebuild_running", about, int(running))
