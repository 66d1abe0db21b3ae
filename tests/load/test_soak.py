"""What the soak's figures mean, on samples made by hand."""

import pytest

from tests.load.soak import Sample, Watched


def watched(memory: list[float]) -> Watched:
    """One process sampled every ten seconds."""
    seen = Watched(seconds=10.0 * len(memory))
    seen.samples = [Sample(10.0 * n, {"ingest": mib}, {"a.db": float(n)}) for n, mib in enumerate(memory)]
    return seen


def test_growth_is_a_slope_an_hour_after_the_warm_up() -> None:
    growing = [50.0, 90.0, 91.0, 92.0] + [100.0 + n / 10 for n in range(20)]
    assert watched(growing).memory_slopes()["ingest"] == pytest.approx(36.0)


def test_one_jump_is_no_slope() -> None:
    jumping = [100.0] * 20 + [130.0] * 4
    assert watched(jumping).memory_slopes()["ingest"] == 0.0


def test_files_grow_by_what_was_taken() -> None:
    seen = watched([1.0] * 11)
    seen.touchpoints = 1 << 20
    assert seen.bytes_per_touchpoint() == {"a.db": 10.0}


def test_first_and_last_quarter_are_compared() -> None:
    seen = Watched(seconds=100.0)
    assert seen.quarters([(1.0, 0.010), (50.0, 9.0), (99.0, 0.020)]) == (pytest.approx(10.0), pytest.approx(20.0))
