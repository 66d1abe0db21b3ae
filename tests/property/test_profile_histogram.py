"""The activity histogram: exact in any order, single days for the last 64, never more bins than promised."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.profile.histogram import add, block_of, fine_from, merged, middle_from, width_of

days = st.lists(st.one_of(st.integers(19_000, 19_700), st.integers(-2_000, 25_000)), max_size=40)


def histogram(counted: list[int]) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    counts: list[int] = []
    for day in counted:
        add(starts, counts, day)
    return starts, counts


@given(days)
def test_adding_one_by_one_equals_counting_blocks_at_the_end(counted: list[int]) -> None:
    newest = max(counted, default=0)
    expected = sorted(Counter(block_of(day, newest) for day in counted).items())
    assert histogram(counted) == ([start for start, _ in expected], [count for _, count in expected])


@given(days, days)
def test_merging_equals_adding_all(a: list[int], b: list[int]) -> None:
    assert merged(*histogram(a), *histogram(b)) == histogram([*a, *b])


@given(st.integers(-5_000, 30_000), st.integers(0, 4_000))
def test_every_day_lies_in_one_aligned_bin_of_its_width(newest: int, age: int) -> None:
    day = newest - age
    start = block_of(day, newest)
    width = width_of(start, newest)
    assert start <= day < start + width
    assert start % width == 0
    assert block_of(start, newest) == start
    assert width == 1 if age < 64 else width >= 1
    assert fine_from(newest) % 8 == 0
    assert middle_from(newest) % 64 == 0


def test_years_of_daily_visits_stay_small() -> None:
    starts, counts = histogram(list(range(19_000, 19_000 + 3_650)))
    assert sum(counts) == 3_650
    assert len(starts) <= 72 + 64 + 64
