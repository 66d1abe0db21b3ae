"""How good fitted parameters are: what they say of a holdout period beside what happened in it."""

from typing import NamedTuple

import msgspec
import numpy as np
from scipy.special import betaln, gammaln, hyp2f1

from services.scoring.domain.fitting import Floats, Histories, Ints
from services.scoring.domain.mbg import Parameters

DECILES = 10
X_MAX = 7
"""Customers with at least so many repeat purchases stand in one row."""
SINGULAR = 1e-6
"""How near a = 1, where the formula for the mean is 0/0, is not gone."""


class Expected(NamedTuple):
    """What is expected of each customer in the next horizon: P(a purchase), and the mean number of purchases."""

    p_buy: Floats
    purchases: Floats


class Row(msgspec.Struct, frozen=True):
    """One group of customers: how many, the mean that was predicted, the mean that was observed."""

    group: str
    customers: int
    predicted: float
    observed: float


class Goodness(msgspec.Struct, frozen=True):
    """A holdout: predicted at its start from what was known then, compared with what happened in it.

    `days`: its length · `purchases_*`: totals · `correlation`: of single customers' purchases · `brier`, `ece`, `auc`:
    of P(a purchase in it), with `brier_before` by the parameters in force until then · `by_x`: mean purchases by
    repeat purchases so far · `calibration`: P(a purchase) by tenths of customers, least likely first.
    """

    days: float
    customers: int
    purchases_predicted: float
    purchases_observed: int
    correlation: float
    brier: float
    brier_before: float
    ece: float
    auc: float
    by_x: tuple[Row, ...]
    calibration: tuple[Row, ...]


def p_alive(p: Parameters, known: Histories) -> Floats:
    """P(alive) of each customer, as `mbg.p_alive`."""
    odds = (p.r + known.x) * (np.log(p.alpha + known.age) - np.log(p.alpha + known.t_x))
    return np.asarray(1.0 / (1.0 + p.a / (p.b + known.x) * np.exp(np.minimum(odds, 700.0))))


def p_buy(p: Parameters, known: Histories, horizon: float) -> Floats:
    """P(at least one purchase in the next `horizon`) of each customer, as `mbg.p_buy`."""
    fading = (p.r + known.x) * (np.log(p.alpha + known.age) - np.log(p.alpha + known.age + horizon))
    return np.asarray(p_alive(p, known) * -np.expm1(fading))


def expected_purchases(p: Parameters, known: Histories, horizon: float) -> Floats:
    """Mean number of purchases of each customer in the next `horizon`. CDNOW customer 1516, 52 weeks: 24.000.

    Batislam et al. 2007 after Euler's transformation of the hypergeometric function, which keeps every factor small.
    """
    a = p.a if abs(p.a - 1.0) > SINGULAR else 1.0 + SINGULAR
    z = horizon / (p.alpha + known.age + horizon)
    series = hyp2f1(a - 1.0, a + p.b - p.r, a + p.b + known.x, z)
    mean_if_alive = (a + p.b + known.x) / (a - 1.0) * (1.0 - (1.0 - z) ** (a - 1.0) * series)
    return np.asarray(mean_if_alive * p_alive(p, known))


def repeat_counts(p: Parameters, ages: Floats, x_max: int) -> Floats:
    """The expected number of customers of these ages with 0, 1 … `x_max` - 1, and at least `x_max` repeat purchases.

    P(X = n) = P(n purchases while alive, alive) + P(left at the n-th of at least n purchases).
    """
    n = np.arange(x_max)[:, None]
    weight = np.exp(gammaln(p.r + n) - gammaln(p.r) - gammaln(n + 1.0))
    share = ages / (p.alpha + ages)
    exactly = weight * (p.alpha / (p.alpha + ages)) ** p.r * share**n
    at_least = 1.0 - np.vstack([np.zeros_like(ages), np.cumsum(exactly, axis=0)[:-1]])
    whole = float(betaln(p.a, p.b))
    stayed, left = np.exp(betaln(p.a, p.b + n + 1.0) - whole), np.exp(betaln(p.a + 1.0, p.b + n) - whole)
    found = (stayed * exactly + left * at_least).sum(axis=1)
    return np.append(found, len(ages) - found.sum())


def usual_gap(known: Histories) -> float:
    """The shop's mean gap between orders, in the histories' unit; there is at least one repeat purchase."""
    return float(known.t_x.sum() / known.x.sum())


def goodness(
    known: Histories, bought: Ints, horizon: float, days: float, p: Parameters, before: Parameters
) -> Goodness:
    """Compare predictions of `p` for the `horizon` after `known` with `bought`, each customer's orders in it.

    `before`: the parameters in force so far, for comparison · `days`: the horizon's length, to be shown.
    """
    said, mean, did = p_buy(p, known, horizon), expected_purchases(p, known, horizon), bought > 0
    return Goodness(
        days=days,
        customers=len(known),
        purchases_predicted=float(mean.sum()),
        purchases_observed=int(bought.sum()),
        correlation=_correlation(mean, bought),
        brier=brier(said, did),
        brier_before=brier(p_buy(before, known, horizon), did),
        ece=_ece(said, did),
        auc=auc(said, did),
        by_x=_by_x(known, mean, bought),
        calibration=_calibration(said, did),
    )


def brier(said: Floats, did: np.ndarray) -> float:
    """Mean squared difference of probability and outcome; 0 is perfect."""
    return float(np.mean((said - did) ** 2))


def auc(said: Floats, did: np.ndarray) -> float:
    """The probability that of a buyer and a non-buyer the buyer had the higher prediction; ties count half."""
    buyers = int(did.sum())
    if not 0 < buyers < len(did):
        return 0.5
    _, which, counts = np.unique(said, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    return float((ranks[which][did].sum() - buyers * (buyers + 1) / 2.0) / (buyers * (len(did) - buyers)))


def _correlation(mean: Floats, bought: Ints) -> float:
    if mean.std() == 0.0 or bought.std() == 0.0:
        return 0.0
    return float(np.corrcoef(mean, bought)[0, 1])


def _ece(said: Floats, did: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.minimum((said * DECILES).astype(np.int64), DECILES - 1)
    gaps = np.bincount(bins, said - did, DECILES)
    return float(np.abs(gaps).sum() / len(said))


def _by_x(known: Histories, mean: Floats, bought: Ints) -> tuple[Row, ...]:
    group = np.minimum(known.x, X_MAX)
    names = [str(x) for x in range(X_MAX)] + [f"{X_MAX}+"]
    return tuple(_row(names[x], mean[group == x], bought[group == x]) for x in np.unique(group))


def _calibration(said: Floats, did: np.ndarray) -> tuple[Row, ...]:
    tenths = np.array_split(np.argsort(said, kind="stable"), DECILES)
    return tuple(_row(str(n), said[tenth], did[tenth]) for n, tenth in enumerate(tenths, 1) if len(tenth))


def _row(group: str, predicted: np.ndarray, observed: np.ndarray) -> Row:
    return Row(group, len(predicted), float(predicted.mean()), float(observed.mean()))
