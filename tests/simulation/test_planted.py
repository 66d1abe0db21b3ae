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


STATEMENT = "Broken: a statement covers only what lies before its position"


@pytest.mark.parametrize(
    ("house", "scoring", "told"),
    [
        (planted.WatermarkWithoutSnapshot, True, STATEMENT),
        (planted.AdvancePastTheWatermark, True, "Broken: no alert before"),
        (planted.CacheKeptOverATakeOver, False, "Broken: versions of a customer strictly grow"),
        (planted.CheckpointBeforeEffects, False, "Broken: every record behind the checkpoint was folded"),
        (planted.DedupSkipped, False, "Broken: "),
        (planted.RelayDeletesBeforeTheAck, False, STATEMENT),
        (planted.ZombiesWrite, False, STATEMENT),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_planted_mistake_is_found(house: type[Simulation], scoring: bool, told: str) -> None:
    assert found(house, scoring=scoring).startswith(told)


def test_absorbed_on_the_wrong_partition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_send", planted.send_absorbed_to_the_taker)
    assert found(Simulation, scoring=False) == STATEMENT


def test_absorbed_on_the_wrong_partition_breaks_decisions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_send", planted.send_absorbed_to_the_taker)
    monkeypatch.setattr("tests.simulation.checks.Watcher.appended", lambda watcher, topic, record: None)
    monkeypatch.setattr("tests.simulation.schedules.check_profiles", lambda simulation, watcher: watcher.truth())
    assert found(Simulation, scoring=True).startswith("Broken: ")


def test_the_same_seed_is_the_same_schedule() -> None:
    first, second = (list(islice(schedule_of(7, scoring=True), 99)) for _ in range(2))
    assert first == second
