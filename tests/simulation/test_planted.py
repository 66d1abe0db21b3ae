"""Each mistake that is easy to make is found by the normal seeds: the simulation is not blind."""

from itertools import islice

import pytest

from services.profiles.domain.step import World
from tests.simulation import planted
from tests.simulation.house import Simulation
from tests.simulation.schedules import failure_of, schedule_of
from tests.simulation.test_schedules import SEEDS


def found(house: type[Simulation], *, scoring: bool) -> str:
    """The first failure among the normal seeds."""
    failures = (failure_of(seed, schedule_of(seed, scoring=scoring), scoring=scoring, house=house) for seed in seeds())
    return next(filter(None, failures), "")


def seeds() -> range:
    """Never more than the tests of the real house look at."""
    return range(SEEDS)


@pytest.mark.parametrize(
    ("house", "scoring", "told"),
    [
        (planted.WatermarkWithoutSnapshot, True, ""),
        (planted.AdvancePastTheWatermark, True, "no alert before"),
        (planted.CacheKeptOverATakeOver, False, ""),
        (planted.CheckpointBeforeEffects, False, ""),
        (planted.DedupSkipped, False, "state"),
        (planted.RelayDeletesBeforeTheAck, False, "relayed"),
        (planted.ZombiesWrite, False, ""),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_planted_mistake_is_found(house: type[Simulation], scoring: bool, told: str) -> None:
    failure = found(house, scoring=scoring)
    assert failure
    assert told in failure, failure


def test_absorbed_on_the_wrong_partition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_send", planted.send_absorbed_to_the_taker)
    assert "a change lies on its customer's partition" in found(Simulation, scoring=False)


def test_absorbed_on_the_wrong_partition_breaks_decisions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_send", planted.send_absorbed_to_the_taker)
    monkeypatch.setattr("tests.simulation.schedules.check_profiles", lambda simulation, watcher: watcher.truth())
    assert found(Simulation, scoring=True)


def test_the_same_seed_is_the_same_schedule() -> None:
    first, second = (list(islice(schedule_of(7, scoring=True), 99)) for _ in range(2))
    assert first == second
