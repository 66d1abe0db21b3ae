"""The published figures of the sister models that need no fit: they fix what x, t_x and age mean."""

import pytest

from services.scoring.domain import mbg
from tests.support import btyd

# Published tables round the parameters; some figures were computed from more digits, some from fewer.
PARETO_OF_THE_EXPECTATION = btyd.ParetoParameters(0.55, 10.56, 0.61, 11.64)


def test_bg_nbd_of_the_spreadsheet_customer() -> None:
    assert btyd.bg_expected_purchases(btyd.BG_CDNOW, 2, 30.43, 38.86, 39.0) == pytest.approx(1.226, abs=5e-4)
    assert btyd.bg_p_alive(btyd.BG_CDNOW, 2, 30.43, 38.86) == pytest.approx(0.7266, abs=5e-5)


@pytest.mark.parametrize(
    ("time", "mean"),
    [(0.1429, 0.0078), (1, 0.0532), (3, 0.1506), (31.8571, 1.0405), (32, 1.0437), (78, 1.8576)],
)
def test_bg_nbd_mean_of_a_new_customer(time: float, mean: float) -> None:
    assert btyd.bg_mean_purchases(btyd.BG_FITTED, time) == pytest.approx(mean, abs=5e-4)


def test_bg_nbd_probability_of_a_count() -> None:
    assert btyd.bg_pmf(btyd.BG_CDNOW, 0, 39.0) == pytest.approx(0.5737864, abs=1e-7)
    assert btyd.bg_pmf(btyd.BG_CDNOW, 10, 2.0) == pytest.approx(1.07869e-07, rel=1e-4)
    assert sum(btyd.bg_pmf(btyd.BG_CDNOW, n, 10.0) for n in range(200)) == pytest.approx(1.0, abs=1e-9)


def test_customer_1516_by_each_model() -> None:
    customer = (26, 30.86, 31.0)
    assert btyd.pareto_expected_purchases(btyd.PARETO_FITTED, *customer, 52.0) == pytest.approx(25.4564, abs=2e-3)
    assert btyd.pareto_p_alive(btyd.PARETO_CDNOW, *customer) == pytest.approx(0.99792, abs=2e-5)
    assert btyd.bg_expected_purchases(btyd.BG_FITTED, *customer, 52.0) == pytest.approx(25.759, abs=1e-3)
    assert btyd.bg_p_alive(btyd.BG_FITTED, *customer) == pytest.approx(0.96892, abs=1e-5)


def test_pareto_nbd_mean_of_a_new_customer() -> None:
    published = [0, 0.05078, 0.09916, 0.14543, 0.18980, 0.23247, 0.27361, 0.31335, 0.35181, 0.38909]
    found = [btyd.pareto_mean_purchases(PARETO_OF_THE_EXPECTATION, week) for week in range(10)]
    assert found == pytest.approx(published, abs=6e-6)
    with pytest.raises(ValueError, match="alpha"):
        btyd.pareto_p_alive(btyd.ParetoParameters(0.5, 12.0, 0.6, 11.0), 1, 1.0, 2.0)


def test_gamma_gamma_of_the_first_ten_customers() -> None:
    customers = [(2, 22.35), (1, 11.77), (0, 0), (0, 0), (0, 0), (7, 73.74), (1, 11.77), (0, 0), (2, 25.55), (0, 0)]
    published = [24.65, 18.91, 35.17, 35.17, 35.17, 71.46, 18.91, 35.17, 27.28, 35.17]
    found = [btyd.gamma_gamma_mean(6.2496, 3.7442, 15.4434, x, mean) for x, mean in customers]
    assert found == pytest.approx(published, abs=0.02)


def test_one_time_buyers_are_always_alive_for_bg_nbd_and_not_for_mbg_nbd() -> None:
    assert btyd.bg_p_alive(btyd.BG_CDNOW, 0, 0.0, 500.0) == 1.0
    assert mbg.p_alive(mbg.CDNOW, 0, 0.0, 500.0) < 0.2
