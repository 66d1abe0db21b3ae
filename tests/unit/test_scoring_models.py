"""The models against the figures others published, and against scipy."""

import pytest
from scipy import special

from services.scoring.domain import mbg, rhythm
from tests.support import btyd

P = mbg.CDNOW
QUARTER = 13.0


def test_customer_1516_of_cdnow() -> None:
    assert mbg.p_alive(P, 26, 30.86, 31.0) == pytest.approx(0.96555, abs=2e-4)


def test_first_order_alone_already_leaves_a_chance_below_a_third() -> None:
    assert mbg.p_buy(P, 0, 0.0, 0.0, QUARTER) == pytest.approx(0.2887, abs=5e-5)


@pytest.mark.parametrize(
    ("x", "t_x", "age"), [(0, 0.0, 12.99), (1, 4.0, 14.44), (2, 30.43, 57.57), (5, 20.0, 31.45), (26, 30.86, 35.98)]
)
def test_age_at_which_half_are_gone(x: int, t_x: float, age: float) -> None:
    assert btyd.mbg_age_at_p_alive(P, x, t_x, 0.5) == pytest.approx(age, abs=0.006)
    assert mbg.p_alive(P, x, t_x, btyd.mbg_age_at_p_alive(P, x, t_x, 0.5)) == pytest.approx(0.5, abs=1e-12)


def test_below_from_the_first_order_on() -> None:
    assert mbg.age_at_p_buy(P, 0, 0.0, QUARTER, 0.3) == 0.0


@pytest.mark.parametrize(
    ("x", "t_x", "age"), [(1, 4.0, 12.36), (2, 30.43, 42.36), (5, 20.0, 34.82), (26, 30.86, 37.35)]
)
def test_age_at_which_a_purchase_within_a_quarter_falls_to_three_tenths(x: int, t_x: float, age: float) -> None:
    assert mbg.age_at_p_buy(P, x, t_x, QUARTER, 0.3) == pytest.approx(age, abs=0.006)
    assert mbg.p_buy(P, x, t_x, age - 0.006, QUARTER) > 0.3 > mbg.p_buy(P, x, t_x, age + 0.006, QUARTER)


def test_the_longest_gone_do_not_overflow() -> None:
    assert 0.0 <= mbg.p_buy(P, 5_000, 500.0, 50_000.0, QUARTER) < 1e-300


@pytest.mark.parametrize("shape", [0.5, 1.0, 1.4, 1.5, 2.3, 6.0])
def test_gamma_cdf_is_scipys(shape: float) -> None:
    for x in [1e-9, 1e-3, 0.1, 0.5, 1.0, shape, shape + 1.0, shape + 1.0001, 5.0, 10.0, 40.0, 300.0]:
        assert rhythm.gamma_cdf(shape, x) == pytest.approx(float(special.gammainc(shape, x)), abs=1e-12)
    assert rhythm.gamma_cdf(shape, 0.0) == rhythm.gamma_cdf(shape, -1.0) == 0.0


@pytest.mark.parametrize("probability", [0.001, 0.5, 0.7, 0.8, 0.9, 0.98])
def test_quantile_is_the_inverse(probability: float) -> None:
    assert rhythm.quantile(1.5, probability) == pytest.approx(float(special.gammaincinv(1.5, probability)), rel=1e-12)


def test_usual_gap_is_the_shops_until_the_customer_has_their_own() -> None:
    assert rhythm.usual_gap(45.0, 1.5, 0, 0.0) == 45.0
    assert rhythm.usual_gap(45.0, 1.5, 3, 30.0) == pytest.approx((1.5 * 45 + 30) / 4.5)
    assert rhythm.unusual(45.0, 45.0, 1.5) == pytest.approx(float(special.gammainc(1.5, 1.5)), abs=1e-12)
