"""How much a lane reads at once follows how long its steps take."""

from shared.lane import BATCH_RECORDS_MAX, STEP_SECONDS_MAX, Lane


def test_a_slow_step_is_halved_from_what_it_really_held() -> None:
    lane = Lane(0)
    lane.folded(40, 2 * STEP_SECONDS_MAX)  # the bound of bytes had cut it to 40 records
    assert lane.records_max == 20
    lane.folded(20, 2 * STEP_SECONDS_MAX)
    assert lane.records_max == 10


def test_it_never_falls_below_one_record() -> None:
    lane = Lane(0)
    for _ in range(20):
        lane.folded(1, 9.0)
        lane.failed()
    assert lane.records_max == 1


def test_what_has_the_right_length_stays() -> None:
    lane = Lane(0, records_max=50)
    lane.folded(50, STEP_SECONDS_MAX / 2)
    assert lane.records_max == 50


def test_quick_steps_grow_back_to_the_usual() -> None:
    lane = Lane(0, records_max=1)
    for _ in range(20):
        lane.folded(1, 0.001)
    assert lane.records_max == BATCH_RECORDS_MAX
