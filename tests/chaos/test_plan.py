"""A plan follows from its seed, stays within its bounds, and hits everybody with everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import (
    BROKER,
    CLOCK,
    CUT,
    DATABASE,
    DISK,
    EMBEDDED,
    FREEZE,
    KAFKA,
    KILL,
    MODES,
    ROOMS,
    STOP,
    planned,
    told,
)
from tests.chaos.stalls import Happened, longest_gaps, table, worst

SEEDS = st.integers(0, 1 << 31)


@given(SEEDS, st.sampled_from(MODES), st.integers(1, 200), st.floats(10, 2_000), st.floats(1.5, 15))
def test_a_plan_is_bounded_and_follows_from_its_seed(
    seed: int, mode: str, kills: int, seconds: float, freeze_seconds_max: float
) -> None:
    plan = planned(seed, mode, kills, seconds, freeze_seconds_max)
    assert plan == planned(seed, mode, kills, seconds, freeze_seconds_max)
    assert plan == sorted(plan, key=lambda fault: fault.at)
    assert all(0 < fault.at < seconds for fault in plan)
    assert sum(fault.what == KILL for fault in plan) == kills
    assert all(fault.seconds <= max(freeze_seconds_max + 0.1, 10.0) for fault in plan)


EVERYTHING = {
    EMBEDDED: {f"{what} {room}" for what in (KILL, STOP, FREEZE, DISK) for room in ROOMS} | {f"{CLOCK} the machine"},
    KAFKA: {f"{what} {room}" for what in (KILL, STOP, FREEZE, CLOCK) for room in ROOMS}
    | {f"{what} {DATABASE}" for what in (KILL, STOP, CUT)}
    | {f"{what} {BROKER}" for what in (KILL, FREEZE, DISK)},
}


@pytest.mark.parametrize("mode", MODES)
def test_everybody_is_hit_with_everything(mode: str) -> None:
    plan = planned(1, mode, 24, 60, 3)
    assert {fault.kind for fault in plan} == EVERYTHING[mode]
    assert all(kind in told(plan) for kind in EVERYTHING[mode])


@given(SEEDS)
def test_a_shared_clock_jumps_both_ways_and_late(seed: int) -> None:
    jumps = [fault for fault in planned(seed, EMBEDDED, 36, 60, 3) if fault.what == CLOCK]
    assert {fault.hours for fault in jumps} == {1, -1}
    assert min(fault.at for fault in jumps) >= 45


def test_the_longest_stall_is_the_one_that_touches_a_fault() -> None:
    signs = [0.0, 1.0, 4.0, 5.0, 11.0, 12.0]
    faults = [Happened("kill a", 1.5, 2.0), Happened("kill b", 4.2, 4.4), Happened("kill c", 11.5, 11.6)]
    assert longest_gaps(signs, faults) == {"kill a": 3.0, "kill b": 6.0, "kill c": 1.0}
    assert "kill b" in table({"accepting": signs}, faults)
    told_worst = worst("accepting", signs, faults, 0.0)
    assert "6.0 s from 5.0 s on (kill b 4.2–4.4)" in told_worst


def test_without_a_sign_there_is_no_stall_to_tell() -> None:
    assert longest_gaps([], [Happened("kill a", 1.0, 2.0)]) == {"kill a": 0.0}
