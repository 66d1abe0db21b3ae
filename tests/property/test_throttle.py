"""The throttle of background work: never in live's way, never still while live keeps up, and a lag that is never
too small.
"""

from hypothesis import given
from hypothesis import strategies as st

from shared.rebuild import done_share, seconds_left
from shared.throttle import (
    LAG_GOAL_SECONDS,
    LAG_STOP_SECONDS,
    PAUSE_SECONDS_MAX,
    SHARE_MAX,
    SHARE_MIN,
    LagMeter,
    adapted,
    pause_seconds,
    size_next,
)

SHARES = st.one_of(st.just(0.0), st.floats(SHARE_MIN, SHARE_MAX))
LAGS = st.floats(0, 3_600)


@given(SHARES, LAGS, LAGS)
def test_more_lag_never_brings_more_work(share: float, one: float, other: float) -> None:
    assert adapted(share, max(one, other)) <= adapted(share, min(one, other))


@given(SHARES, LAGS)
def test_the_share_is_bounded_and_nothing_from_the_stop_on(share: float, lag: float) -> None:
    after = adapted(share, lag)
    assert after == 0.0 if lag >= LAG_STOP_SECONDS else SHARE_MIN <= after <= SHARE_MAX


@given(SHARES, st.lists(st.floats(0, LAG_GOAL_SECONDS), min_size=25, max_size=25))
def test_it_takes_all_it_may_while_live_keeps_up(share: float, lags: list[float]) -> None:
    for lag in lags:
        share = adapted(share, lag)
    assert share == SHARE_MAX


@given(SHARES, st.floats(0, 10))
def test_a_pause_is_bounded_and_keeps_the_share(share: float, worked: float) -> None:
    pause = pause_seconds(share, worked)
    assert 0 <= pause <= PAUSE_SECONDS_MAX
    if share and pause < PAUSE_SECONDS_MAX:
        assert worked <= share * (worked + pause) + 1e-9


@given(st.integers(1, 500), st.floats(0, 10), st.integers(1, 500))
def test_the_size_of_a_piece_stays_within_its_bounds(size: int, worked: float, size_max: int) -> None:
    assert 1 <= size_next(size, worked, size_max) <= max(size_max, 1) or size > size_max


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=60))
def test_the_lag_is_an_upper_bound_of_the_oldest_unread_records_age(steps: list[tuple[float, int, int]]) -> None:
    """Records arrive just before a look; live folds some of them just after one."""
    meter, now, arrived_at, folded = LagMeter(), 0.0, list[float](), 0
    for pause, arrived, fold in steps:
        before, now = now, now + pause
        arrived_at += [now] * arrived
        lag = meter.look(now, {0: len(arrived_at)}, {0: folded})
        unread = arrived_at[folded:]
        if not unread:
            assert lag == 0.0
        elif before:
            assert now - unread[0] - 1e-9 <= lag
        folded = min(len(arrived_at), folded + fold)


def test_the_lag_of_one_partition_is_the_lag_of_all() -> None:
    meter = LagMeter()
    assert meter.look(0.0, {0: 5, 1: 5}, {0: 5, 1: 5}) == 0.0
    assert meter.look(1.0, {0: 9, 1: 6}, {0: 9, 1: 5}) == 1.0
    assert meter.look(2.0, {0: 99, 1: 7}, {0: 99, 1: 6}) == 1.0
    assert meter.look(3.0, {0: 99, 1: 7}, {0: 99, 1: 7}) == 0.0


@given(st.dictionaries(st.integers(0, 3), st.integers(0, 99)), st.dictionaries(st.integers(0, 3), st.integers(0, 99)))
def test_progress_ends_at_one_and_the_time_left_at_nothing(positions: dict[int, int], goals: dict[int, int]) -> None:
    assert 0.0 <= done_share(positions, goals) <= 1.0
    assert done_share(goals, goals) == 1.0
    assert seconds_left(goals, goals, 0.0) == 0.0
    left = seconds_left(positions, goals, 10.0)
    assert left is not None
    assert left >= 0.0
