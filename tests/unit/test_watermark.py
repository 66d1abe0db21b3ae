"""How far silence may be decided: nothing until each touchpoints partition was heard of, never by the unread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain.watermark import PENDING_MAX, Heard
from shared.checkpoint import NEVER
from shared.events import Statement, WatermarkStated


def stated(position: int, *frontiers: int, partition: int = 0) -> WatermarkStated:
    """Before `position` of a partition lies all that `frontiers` speak of."""
    return WatermarkStated((Statement(partition, position),), frontiers)


def heard(*statements: WatermarkStated, folded: int = 0) -> Heard:
    """Partition 0 of two, acquired at 0 and folded up to `folded`."""
    made = Heard(2)
    made.acquired(0, 0)
    for one in statements:
        made.hear(one)
    made.folded(0, folded)
    return made


def test_nothing_is_known_until_every_partition_was_heard_of() -> None:
    made = heard()
    assert made.watermark(0) is None
    assert made.hear(stated(0, 50, NEVER)) == [0]
    assert made.watermark(0) is None
    made.hear(stated(0, NEVER, 40))
    assert made.watermark(0) == 40


def test_a_statement_counts_once_its_position_is_folded() -> None:
    made = heard(stated(7, 100, 90), folded=6)
    assert made.watermark(0) is None
    made.folded(0, 7)
    assert made.watermark(0) == 90


def test_statements_are_reached_out_of_order_and_the_greatest_of_each_holds() -> None:
    made = heard(stated(9, 300, 100), stated(5, 200, 210), folded=5)
    assert made.watermark(0) == 200
    made.folded(0, 9)
    assert made.watermark(0) == 210
    made.hear(stated(9, 10, 10))
    assert made.watermark(0) == 210


def test_a_new_owner_hears_anew() -> None:
    made = heard(stated(3, 100, 100), folded=5)
    made.acquired(0, 5)
    assert made.watermark(0) is None
    made.folded(0, 6)
    assert made.watermark(0) is None
    made.hear(stated(6, 120, 110))
    assert made.watermark(0) == 110


def test_another_partition_moves_nothing_and_a_lost_one_is_silent() -> None:
    made = heard()
    assert made.hear(stated(0, 100, 100, partition=1)) == []
    assert (made.watermark(0), made.watermark(1)) == (None, None)
    made.hear(stated(0, 100, 100))
    made.lost(0)
    assert made.watermark(0) is None
    assert made.hear(stated(0, 200, 200)) == []
    made.folded(0, 9)
    assert made.watermark(0) is None


@pytest.mark.parametrize("frontiers", [(100,), (100, 100, 100)])
def test_a_vector_of_another_house_is_ignored(frontiers: tuple[int, ...]) -> None:
    assert heard().hear(stated(0, *frontiers)) == []


def test_who_holds_the_watermark_back_is_named() -> None:
    made = heard(stated(0, 100, 40))
    assert made.holding_back(0) == 1
    assert made.holding_back(1) is None


def test_while_a_partition_lags_only_the_newest_statements_wait() -> None:
    """What is dropped makes the watermark later and never greater than what was stated for what is folded."""
    made = heard(*(stated(n, n, n) for n in range(1, PENDING_MAX + 101)))
    made.folded(0, 100)
    assert made.watermark(0) is None
    made.folded(0, 150)
    assert made.watermark(0) == 150


@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 9), max_size=12))
def test_the_watermark_never_says_more_than_what_is_folded(order: list[int], steps: list[int]) -> None:
    """Statement n speaks of what lies before n, up to time 10 n: however they are read, W is at most 10 x folded."""
    made, folded = heard(), 0
    for n, step in zip(order, [*steps, *([9] * 8)], strict=False):
        made.hear(stated(n, 10 * n, 10 * n))
        folded = max(folded, step)
        made.folded(0, folded)
        reached = [m for m in order[: order.index(n) + 1] if m <= folded]
        assert made.watermark(0) == (10 * max(reached) if reached else None)
