"""What is remembered is bounded by its weight, and what was made first goes first."""

from services.scoring.domain.remembered import Remembered


def test_what_was_kept_is_found() -> None:
    memory: Remembered[str] = Remembered(10)
    assert memory.get("a") is None
    assert memory.keep("a", "made", 3) == "made"
    assert memory.get("a") == "made"


def test_beyond_the_bound_the_older_half_is_forgotten() -> None:
    memory: Remembered[int] = Remembered(12)
    for n in range(9):
        memory.keep(n, n, 2)
        assert 2 * sum(memory.get(one) is not None for one in range(9)) <= 12
        assert memory.get(n) == n
    assert [n for n in range(9) if memory.get(n) is not None] == [3, 4, 5, 6, 7, 8]


def test_what_is_too_heavy_alone_is_not_kept_and_pushes_nothing_out() -> None:
    memory: Remembered[int] = Remembered(10)
    memory.keep("light", 1, 4)
    assert memory.keep("heavy", 2, 6) == 2
    assert (memory.get("light"), memory.get("heavy")) == (1, None)
