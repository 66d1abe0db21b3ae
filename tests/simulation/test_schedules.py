"""Thousands of seeded schedules: whatever happens in whatever order, the promises of the design hold.

A longer run: `make simulate SEEDS=20000`. A failing seed prints the smallest list of actions that still fails.
"""

import os

import pytest

from tests.simulation.house import Action
from tests.simulation.schedules import first_failure, run_schedule

PARTS = 5
SEEDS = int(os.environ.get("SEEDS", "2500"))
FIRST = int(os.environ.get("FIRST_SEED", "0"))


def part_of(number: int) -> range:
    """Every fifth seed, so that a test that fails says so early."""
    return range(FIRST + number, FIRST + SEEDS, PARTS)


@pytest.mark.parametrize("number", range(PARTS))
@pytest.mark.timeout(0)
def test_profiles_are_what_the_log_says(number: int) -> None:
    failure = first_failure(part_of(number), scoring=False)
    assert not failure, failure


@pytest.mark.parametrize("number", range(PARTS))
@pytest.mark.timeout(0)
def test_decisions_rest_on_everything_recorded_before(number: int) -> None:
    failure = first_failure(part_of(number), scoring=True)
    assert not failure, failure


def test_an_alert_raised_in_the_batch_that_splits_its_leaf_off_moves_with_it() -> None:
    # Its row stayed with the customer that had lost the leaf, since only rows found before the batch were moved.
    actions = [
        Action("touch", 2872924848),
        Action("flow", 4220690104),
        Action("touch", 2091760989),
        Action("touch", 1001166502),
        Action("link", 772667805),
        Action("judge", 1385165314),
        Action("unlink", 3415261467),
    ]
    run_schedule(601, actions, scoring=True)


def test_a_replaced_relay_states_nothing_of_the_partition_it_lost() -> None:
    # Its end of profile-changes is an old one, and rows that its successor relayed are not in its snapshot any more:
    # "before position 0 lies all up to now" was false, and could have let an alert rest on unread evidence.
    actions = [
        Action("touch", 1593398349),
        Action("acquire", 2302754337),
        Action("tick", 2685690309),
        Action("fold", 964490900),
        Action("relay", 4028723302),
        Action("flow", 4115395167),
    ]
    run_schedule(1441, actions, scoring=False)


def test_a_tie_recorded_before_a_reinstatement_says_nothing_in_any_order() -> None:
    # It counted when it was folded after the reinstatement, and not when it was folded before.
    actions = [
        Action("erase", 4074160645),
        Action("flow", 2824617852),
        Action("tick", 2578868813),
        Action("flow", 3038839274),
        Action("reinstate", 2147186143),
        Action("touch", 3823894034),
    ]
    run_schedule(35, actions, scoring=False)
