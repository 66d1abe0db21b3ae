"""Fits against the figures others published for the CDNOW sample, and against the single-customer formulas."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.domain import fitting, goodness, mbg
from services.scoring.domain.definitions import DEFAULT_MODEL, model_of
from services.scoring.domain.fitting import Histories, Ledger, Unfitted, fit, histories_at, ledger_of
from services.scoring.domain.refitting import refit
from shared.ids import DAY_MS
from tests.support import btyd, cdnow
from tests.support.btyd import BGBB_DONATIONS
from tests.support.shops import a_shop

HOLDOUT = float(cdnow.HOLDOUT_WEEKS)
CUSTOMER_1516 = Histories(np.array([26]), np.array([30.86]), np.array([31.0]))

DONORS = {  # (x, t_x) of six years → donors (Fader, Hardie & Shang 2010, table 1)
    (6, 6): 1203, (5, 6): 728, (4, 6): 512, (3, 6): 357, (2, 6): 234, (1, 6): 129,
    (5, 5): 335, (4, 5): 284, (3, 5): 225, (2, 5): 173, (1, 5): 119,
    (4, 4): 240, (3, 4): 181, (2, 4): 155, (1, 4): 78,
    (3, 3): 322, (2, 3): 255, (1, 3): 129,
    (2, 2): 613, (1, 2): 277, (1, 1): 1091, (0, 0): 3464,
}  # fmt: skip


# --- published fits -------------------------------------------------------------------------------------------------


def test_mbg_nbd_fit_of_the_cdnow_sample() -> None:
    found = fit(cdnow.calibration())
    p = found.parameters
    assert found.customers == 2357
    assert (p.r, p.alpha, p.a, p.b) == pytest.approx((0.525, 6.183, 0.891, 1.614), abs=6e-4)
    assert found.log_likelihood == pytest.approx(-9582.136, abs=1e-3)
    assert found.starts_agreeing == len(fitting.STARTS)
    assert found.limits == ()


def test_bg_nbd_fit_of_the_cdnow_sample() -> None:
    found, height = btyd.maximum(lambda p: btyd.bg_log_likelihood(p, cdnow.calibration()), (1.0, 5.0, 1.0, 3.0))
    assert found == pytest.approx((0.243, 4.414, 0.793, 2.426), abs=2e-3)
    assert height == pytest.approx(-9582.429, abs=1e-3)


def test_pareto_nbd_fit_of_the_cdnow_sample() -> None:
    found, height = btyd.maximum(lambda p: btyd.pareto_log_likelihood(p, cdnow.calibration()), (0.6, 9.0, 0.5, 12.0))
    assert found == pytest.approx((0.553, 10.578, 0.606, 11.669), rel=2e-3)
    assert height == pytest.approx(-9594.976, abs=1e-3)


def test_gompertz_nbd_likelihood_of_the_published_parameters() -> None:
    """`b` was published with one digit: somewhere in what rounds to it lies the published likelihood."""
    rounds_to_it = np.linspace(0.00015, 0.00025, 21)
    heights = [
        btyd.gompertz_log_likelihood((0.553, 10.578, b, 0.603, 0.0026), cdnow.calibration(), 40) for b in rounds_to_it
    ]
    assert max(heights) == pytest.approx(-9594.98, abs=0.01)


def test_gamma_gamma_fit_of_the_946_repeat_buyers() -> None:
    x, mean_value = cdnow.repeat_buyers()
    assert len(x) == 946
    found, height = btyd.maximum(lambda p: btyd.gamma_gamma_log_likelihood(p, x, mean_value), (3.0, 3.0, 10.0))
    assert found == pytest.approx((6.25, 3.74, 15.44), abs=0.01)
    assert height == pytest.approx(-4055.9177, abs=1e-3)


def test_bg_bb_of_the_donors() -> None:
    assert sum(DONORS.values()) == 11_104
    p = BGBB_DONATIONS
    total = sum(n * btyd.bgbb_expected(p, x, t_x, 6, 5) for (x, t_x), n in DONORS.items())
    assert total == pytest.approx(12_884.2, rel=1e-3)
    alive = [btyd.bgbb_p_alive(p, x, t_x, 6) for x, t_x in ((0, 0), (2, 4), (6, 6))]
    assert alive == pytest.approx([0.11, 0.59, 0.93], abs=5e-3)
    height = sum(n * math.log(btyd.bgbb_likelihood(p, x, t_x, 6)) for (x, t_x), n in DONORS.items())
    assert height == pytest.approx(-33_225.6, abs=0.1)


# --- holdout: weeks 40 to 78 ----------------------------------------------------------------------------------------


def test_mbg_nbd_predicts_the_holdout_as_published_comparisons_do() -> None:
    known, bought = cdnow.calibration(), cdnow.held_out()
    p = fit(known).parameters
    found = goodness.goodness(known, bought, HOLDOUT, HOLDOUT * 7, p, mbg.CDNOW)
    assert found.purchases_observed == 1882
    assert found.purchases_predicted == pytest.approx(1577, abs=0.5)
    assert found.correlation == pytest.approx(0.6273, abs=5e-5)
    assert (found.brier, found.auc) == pytest.approx((0.161, 0.760), abs=5e-4)
    rows = [(row.customers, row.predicted, row.observed) for row in found.by_x]
    assert [n for n, _, _ in rows] == [1411, 439, 214, 100, 62, 38, 29, 64]
    assert [said for _, said, _ in rows] == pytest.approx(
        [0.185, 0.551, 1.049, 1.493, 2.104, 2.564, 3.361, 5.849], abs=6e-4
    )
    assert [did for _, _, did in rows] == pytest.approx(
        [0.237, 0.697, 1.393, 1.560, 2.532, 2.947, 3.862, 6.359], abs=6e-4
    )
    mean = goodness.expected_purchases(p, known, HOLDOUT)
    assert np.abs(mean - bought).mean() == pytest.approx(0.765, abs=5e-4)
    assert np.sqrt(((mean - bought) ** 2).mean()) == pytest.approx(1.607, abs=5e-4)


def test_customer_1516_next_year() -> None:
    p = fit(cdnow.calibration()).parameters
    assert goodness.expected_purchases(p, CUSTOMER_1516, 52.0)[0] == pytest.approx(24.000, abs=5e-4)
    assert goodness.p_alive(p, CUSTOMER_1516)[0] == pytest.approx(0.96555, abs=5e-6)


def test_sister_models_predict_the_holdout_as_published_comparisons_do() -> None:
    known, bought = cdnow.calibration(), cdnow.held_out()
    triples = list(zip(known.x.tolist(), known.t_x.tolist(), known.age.tolist(), strict=True))
    bg = np.array([btyd.bg_expected_purchases(btyd.BG_FITTED, *one, HOLDOUT) for one in triples])
    pareto = np.array([btyd.pareto_expected_purchases(btyd.PARETO_FITTED, *one, HOLDOUT) for one in triples])
    assert (bg.sum(), pareto.sum()) == pytest.approx((1653, 1666), abs=1.0)
    assert np.corrcoef(bg, bought)[0, 1] == pytest.approx(0.6256, abs=2e-4)
    assert np.corrcoef(pareto, bought)[0, 1] == pytest.approx(0.6302, abs=2e-4)
    alive = np.array([btyd.pareto_p_alive(btyd.PARETO_FITTED, *one) for one in triples]) > 0.5
    assert np.mean(alive == (bought > 0)) == pytest.approx(0.774, abs=2e-3)
    hiatus = known.age - known.t_x < 26.0
    assert np.mean(hiatus == (bought > 0)) == pytest.approx(0.771, abs=2e-3)
    # P(alive) of BG/NBD ranks customers worse than chance: never alert on it.
    bg_alive = np.array([btyd.bg_p_alive(btyd.BG_FITTED, *one) for one in triples])
    assert goodness.auc(bg_alive, bought > 0) == pytest.approx(0.316, abs=2e-3)


# --- arrays and single customers agree ------------------------------------------------------------------------------

PARAMETERS = st.builds(
    mbg.Parameters,
    r=st.floats(0.05, 20.0),
    alpha=st.floats(0.05, 50.0),
    a=st.floats(0.05, 20.0),
    b=st.floats(0.05, 20.0),
)


@st.composite
def some_histories(draw: st.DrawFn) -> Histories:
    rows = draw(st.lists(st.tuples(st.integers(0, 40), st.floats(0.01, 80.0), st.floats(0.0, 80.0)), min_size=1))
    x = np.array([n for n, _, _ in rows], np.int64)
    t_x = np.array([since if n else 0.0 for n, since, _ in rows])
    return Histories(x, t_x, t_x + np.array([silent for _, _, silent in rows]))


@given(p=PARAMETERS, known=some_histories(), horizon=st.floats(0.1, 60.0))
@settings(max_examples=60, deadline=None)
def test_arrays_say_what_the_hot_path_says(p: mbg.Parameters, known: Histories, horizon: float) -> None:
    said = goodness.p_buy(p, known, horizon)
    for i in range(len(known)):
        one = int(known.x[i]), float(known.t_x[i]), float(known.age[i])
        assert said[i] == pytest.approx(mbg.p_buy(p, *one, horizon), rel=1e-9, abs=1e-300)
    assert (goodness.expected_purchases(p, known, horizon) >= said * (1 - 1e-6) - 1e-12).all()


@given(p=PARAMETERS, known=some_histories())
@settings(max_examples=60, deadline=None)
def test_the_slope_is_that_of_the_likelihood(p: mbg.Parameters, known: Histories) -> None:
    logs = np.log([p.r, p.alpha, p.a, p.b])
    height, slope = fitting._likelihood(logs, known)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-5
        up, down = (fitting._likelihood(logs + s, known)[0] for s in (step, -step))
        assert slope[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-4 * max(1.0, abs(height)))


def test_likelihood_of_a_one_time_buyer_by_its_own_integral() -> None:
    """Never seen again: (1 - E[p]) of no exit and no purchase, plus E[p] of an exit at once."""
    p = mbg.CDNOW
    leave = p.a / (p.a + p.b)
    none_by = (p.alpha / (p.alpha + 20.0)) ** p.r
    known = Histories(np.array([0]), np.array([0.0]), np.array([20.0]))
    assert fitting.log_likelihood(p, known) == pytest.approx(math.log(leave + (1 - leave) * none_by), abs=1e-12)


def test_likelihood_is_finite_for_the_busiest_and_the_longest_gone() -> None:
    known = Histories(np.array([5_000]), np.array([500.0]), np.array([5_000.0]))
    assert -1e5 < fitting.log_likelihood(mbg.CDNOW, known) < 1e6


@given(p=PARAMETERS, ages=st.lists(st.floats(0.1, 200.0), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_counts_of_customers_add_up(p: mbg.Parameters, ages: list[float]) -> None:
    counts = goodness.repeat_counts(p, np.array(ages), 7)
    assert counts.sum() == pytest.approx(len(ages))
    assert (counts >= -1e-9).all()


# --- recovery, refusals, and the new version ------------------------------------------------------------------------


def test_a_simulated_shops_own_parameters_are_found() -> None:
    true = mbg.Parameters(0.8, 6.0, 0.9, 2.5)
    known = histories_at(a_shop(8_000, true), 78 * cdnow.WEEK_MS, cdnow.WEEK_MS)
    found = fit(known)
    assert found.log_likelihood >= fitting.log_likelihood(true, known)
    assert found.parameters.r / found.parameters.alpha == pytest.approx(true.r / true.alpha, rel=0.1)
    near = goodness.p_buy(found.parameters, known, 13.0) - goodness.p_buy(true, known, 13.0)
    assert np.abs(near).mean() < 0.01


@pytest.mark.parametrize("unit_ms", [1.0, 1_000.0, float(DAY_MS)])
def test_the_unit_of_time_does_not_matter(unit_ms: float) -> None:
    weeks = fit(cdnow.calibration()).parameters
    other = fit(histories_at(cdnow.ledger(), cdnow.CALIBRATION_END, unit_ms)).parameters
    assert (other.r, other.a, other.b) == pytest.approx((weeks.r, weeks.a, weeks.b), rel=1e-3)
    assert other.alpha == pytest.approx(weeks.alpha * cdnow.WEEK_MS / unit_ms, rel=1e-3)


def test_a_shop_where_nobody_leaves_is_fitted_and_says_so() -> None:
    found = fit(histories_at(a_shop(2_000, mbg.Parameters(1.0, 2.0, 1e-4, 1e3)), 78 * cdnow.WEEK_MS, cdnow.WEEK_MS))
    assert goodness.p_alive(found.parameters, CUSTOMER_1516)[0] > 0.99
    assert all(isinstance(line, str) for line in found.limits)


@pytest.mark.parametrize(
    ("ledger", "why"),
    [
        (a_shop(150, mbg.CDNOW), "too few: 150 customers"),
        (ledger_of([[n] for n in range(1_000)], list(range(1_000))), "0 of them bought again"),
        (ledger_of([[0, 10 * DAY_MS], [20 * DAY_MS]] * 500, [10 * DAY_MS, 20 * DAY_MS] * 500), "too early"),
        (ledger_of([[0, 70 * DAY_MS]] * 500, [70 * DAY_MS] * 500), "nobody was ever silent"),
        (ledger_of([[0]] * 0, []), "too few: 0 customers"),
    ],
)
def test_what_says_too_little_is_refused_with_its_reason(ledger: Ledger, why: str) -> None:
    at = int(ledger.times.max(initial=0))
    with pytest.raises(Unfitted, match=why):
        refit(ledger, at, dict(DEFAULT_MODEL), 0.01)


def test_customers_that_are_all_alike_say_so() -> None:
    same = ledger_of([[0, 7 * DAY_MS, 14 * DAY_MS]] * 500, [14 * DAY_MS] * 500)
    found = refit(same, 200 * DAY_MS, dict(DEFAULT_MODEL), 0.01)
    assert found.figures.limits
    assert model_of(found.model)


def test_a_refit_carries_its_figures_and_compiles() -> None:
    found = refit(cdnow.ledger(), cdnow.CALIBRATION_END, dict(DEFAULT_MODEL), 0.01)
    model = model_of(found.model)
    assert model.parameters.r == pytest.approx(0.525, abs=6e-4)
    assert model.horizon_ms == 90 * DAY_MS
    figures: dict[str, Any] = found.model["fit"]
    assert figures["customers"] == 2357
    assert figures["holdout"]["days"] == 90
    assert figures["log_likelihood"] >= figures["log_likelihood_before"]
    assert sum(row["customers"] for row in figures["counts"]) == 2357
    assert not found.differs or figures["change"] >= 0.01 or abs(model.shop_gap_ms / (45 * DAY_MS) - 1) >= 0.1


def test_the_same_orders_again_differ_too_little_to_be_published() -> None:
    first = refit(cdnow.ledger(), cdnow.CALIBRATION_END, dict(DEFAULT_MODEL), 0.01)
    again = refit(cdnow.ledger(), cdnow.CALIBRATION_END, first.model, 0.01)
    assert not again.differs
    assert again.figures.change < 1e-4


def test_parameters_that_predict_the_holdout_worse_than_those_in_force_are_refused() -> None:
    """The shop was closed all through the holdout: whoever says nobody buys is right, and stays."""
    shop = a_shop(3_000, mbg.Parameters(2.0, 3.0, 0.3, 6.0), weeks=40.0)
    nobody = dict(DEFAULT_MODEL) | {"r": 0.01, "alpha": 100.0, "a": 50.0, "b": 1.0}
    with pytest.raises(Unfitted, match="in force predict the last 90 days better"):
        refit(shop, 53 * cdnow.WEEK_MS, nobody, 0.01)


def test_a_service_that_only_scores_does_not_load_numpy() -> None:
    """Fitting is for a process of its own: an idle service must not carry its weight."""
    script = "import sys, services.scoring.app; sys.exit(bool({'numpy', 'scipy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
