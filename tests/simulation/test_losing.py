"""The scoring database may be lost at any moment: no alert is doubled, none is false, none is lost."""

import os

import pytest

from tests.simulation.schedules import first_failure

SEEDS = int(os.environ.get("LOSING_SEEDS", "150"))
FIRST = int(os.environ.get("FIRST_SEED", "0"))
PARTS = 5


@pytest.mark.parametrize("number", range(PARTS))
@pytest.mark.timeout(0)
def test_a_lost_scoring_database_is_made_again_from_what_was_said(number: int) -> None:
    failure = first_failure(range(FIRST + number, FIRST + SEEDS, PARTS), scoring=True, losing=True)
    assert not failure, failure
