"""Fitting MBG/NBD: maximum likelihood over all customers of a shop, from order times alone.

Arrays instead of single customers (`mbg.py`), the same formulas. Nothing is decided here; whoever asks runs it in a
process of its own, since numpy and scipy would weigh on a service that only scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, digamma, gammaln

from services.scoring.domain.mbg import Parameters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CUSTOMERS_MIN, REPEATERS_MIN = 200, 50
"""Below these the four parameters are guesses: the ones in force stay."""
BOUND_MIN, BOUND_MAX = 1e-4, 1e4
"""Of each parameter, times in mean ages: beyond them nothing changes any more that could be seen."""
SKETCH_MAX = 2_000
"""Customers on which every start is tried; the best is then refined on all."""
AGREE_NATS = 0.05
SLOPE_MAX = 1e-5
"""Of the mean log-likelihood by the logarithm of a parameter, where the fit counts as converged."""

NEAR_BOUND = 1.02
STARTS = ((0.5, 1.0, 1.5), (0.25, 0.8, 2.5), (1.5, 0.3, 3.0), (0.8, 3.0, 3.0))
"""(r, a, b); alpha follows from the shop's rate of purchases."""


class Unfitted(Exception):
    """No parameters can be had from these customers; the message says why, in words for people."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Orders of many customers: `times` in epoch ms, ascending for each customer, one customer after the other.

    `starts`: where each customer's times begin (every customer has one) · `last_at`: last purchase of each, which may
    be later on the day of the last order.
    """

    times: Ints
    starts: Ints
    last_at: Ints


@dataclass(frozen=True, slots=True)
class Histories:
    """x, t_x and age of `mbg.py`, one entry a customer, times in one unit.

    `values`: the values of x that occur, ascending · `which`: the place of each customer's x among them.
    """

    x: Ints
    t_x: Floats
    age: Floats
    values: Floats = field(init=False)
    which: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Find the values of x once: what depends on x alone is computed for each of them, not for each customer."""
        values, which = np.unique(self.x, return_inverse=True)
        object.__setattr__(self, "values", values.astype(np.float64))
        object.__setattr__(self, "which", which)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Fit:
    """The maximum and how it was found.

    `starts_agreeing`: of `len(STARTS)`, those that led to the same maximum · `limits`: in words, where the maximum lies
    at the edge of what the model can say; it is one all the same.
    """

    parameters: Parameters
    log_likelihood: float
    customers: int
    starts_agreeing: int
    limits: tuple[str, ...] = ()


def ledger_of(orders: Sequence[Sequence[int]], last_at: Sequence[int]) -> Ledger:
    """The ledger of customers' order times (each at least one) and last purchases, epoch ms."""
    counts = np.fromiter((len(times) for times in orders), np.int64, len(orders))
    times = np.fromiter((at for times in orders for at in times), np.int64, int(counts.sum()))
    return Ledger(times, np.cumsum(counts) - counts, np.asarray(last_at, np.int64))


def ordered_until(ledger: Ledger, at: int) -> Ints:
    """Number of orders of each customer up to and including `at` (epoch ms)."""
    if not len(ledger.starts):
        return np.zeros(0, np.int64)
    return np.add.reduceat((ledger.times <= at).astype(np.int64), ledger.starts)


def histories_at(ledger: Ledger, at: int, unit_ms: float) -> Histories:
    """What was known of each customer at `at` (epoch ms), times in units; those who first bought later are left out."""
    orders = ordered_until(ledger, at)
    known = orders > 0
    x = orders[known] - 1
    starts, last_at = ledger.starts[known], ledger.last_at[known]
    first = ledger.times[starts]
    last = np.where(last_at <= at, last_at, ledger.times[starts + x])
    return Histories(x, (last - first) / unit_ms, (at - first) / unit_ms)


def log_likelihood(p: Parameters, histories: Histories) -> float:
    """The sum over all customers, one-time buyers included. CDNOW sample at its maximum: -9582.136."""
    return _likelihood(np.log([p.r, p.alpha, p.a, p.b]), histories)[0]


def fit(histories: Histories) -> Fit:
    """The parameters of greatest likelihood, in the histories' unit. Raises Unfitted.

    L-BFGS-B on the parameters' logarithms with the exact gradient, times scaled to a mean age of 1, so that the unit
    does not matter. CDNOW sample, weeks: 0.5248, 6.1831, 0.8914, 1.6140.
    """
    check_enough(histories)
    scale = float(histories.age.mean())
    scaled = Histories(histories.x, histories.t_x / scale, histories.age / scale)
    sketch = _every_nth(scaled, -(-len(scaled) // SKETCH_MAX))
    tried = sorted((_climbed(start, sketch) for start in _first_guesses(scaled)), key=_height, reverse=True)
    found = max((_climbed(logs, scaled) for _, logs in tried[:2]), key=_height)[1]
    _check_slope(found, scaled)
    limits = _limits(found)
    r, alpha, a, b = (float(value) for value in np.exp(found))
    parameters = Parameters(r, alpha * scale, a, b)
    agreeing = sum(1 for height, _ in tried if height > tried[0][0] - AGREE_NATS)
    return Fit(parameters, log_likelihood(parameters, histories), len(histories), agreeing, limits)


def check_enough(histories: Histories) -> None:
    """Raises Unfitted for fewer customers, or fewer of them who bought again, than a fit needs."""
    repeaters = int((histories.x > 0).sum())
    if len(histories) < CUSTOMERS_MIN or repeaters < REPEATERS_MIN:
        raise Unfitted(
            f"too few: {len(histories)} customers with a purchase, {repeaters} of them bought again; "
            f"a fit needs {CUSTOMERS_MIN} and {REPEATERS_MIN}"
        )
    if not (histories.age > histories.t_x).any():
        raise Unfitted("nobody was ever silent: every customer's last purchase is the newest thing known")


def _first_guesses(histories: Histories) -> list[Floats]:
    rate = float(histories.x.sum() / histories.age.sum())
    return [np.log([r, r / rate, a, b]) for r, a, b in STARTS]


def _every_nth(histories: Histories, n: int) -> Histories:
    return Histories(histories.x[::n], histories.t_x[::n], histories.age[::n])


def _climbed(start: Floats, histories: Histories) -> tuple[float, Floats]:
    """(log-likelihood, logarithms of the parameters) where the climb from `start` ended."""
    size = len(histories)

    def downhill(logs: Floats) -> tuple[float, Floats]:
        height, slope = _likelihood(logs, histories)
        return -height / size, -slope / size

    bounds = [(log(BOUND_MIN), log(BOUND_MAX))] * 4
    ended = minimize(
        downhill,
        np.clip(start, *bounds[0]),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 500, "ftol": 1e-14, "gtol": SLOPE_MAX / 10},
    )
    return -float(ended.fun) * size, np.asarray(ended.x, np.float64)


def _height(climbed: tuple[float, Floats]) -> float:
    return climbed[0]


def _check_slope(logs: Floats, histories: Histories) -> None:
    """Flat, or rising only where a bound holds it."""
    slope = _likelihood(logs, histories)[1] / len(histories)
    held = ((logs <= np.log(BOUND_MIN)) & (slope < 0)) | ((logs >= np.log(BOUND_MAX)) & (slope > 0))
    steepest = float(np.abs(np.where(held, 0.0, slope)).max())
    if not steepest <= SLOPE_MAX:
        raise Unfitted(f"the search did not come to an end: the likelihood still rises by {steepest:.1e} a customer")


def _limits(logs: Floats) -> tuple[str, ...]:
    """What the maximum says where it lies at the edge. Raises Unfitted for edges at which the model says nothing."""
    low, high = logs < np.log(BOUND_MIN * NEAR_BOUND), logs > np.log(BOUND_MAX / NEAR_BOUND)
    if low[0] or low[1] or low[3] or (high[2] and not high[3]):
        raise Unfitted("these customers do not tell buying slowly from having left: the likelihood has no maximum")
    found = []
    if low[2]:
        found.append("nobody is seen to leave for good: risk comes from buying ever more rarely alone")
    elif high[2]:
        found.append("all customers leave alike after a purchase")
    if high[0] or high[1]:
        found.append("all customers buy at one rate")
    return tuple(found)


def _likelihood(logs: Floats, histories: Histories) -> tuple[float, Floats]:
    """The log-likelihood, in a form without hypergeometric functions, and its slope by each parameter's logarithm."""
    r, alpha, a, b = (float(value) for value in np.exp(logs))
    which, x, power = histories.which, histories.values, r + histories.x
    late, early = alpha + histories.age, alpha + histories.t_x
    log_late, log_early = np.log(late), np.log(early)
    steady = gammaln(r + x) - gammaln(r) + r * np.log(alpha) - betaln(a, b)
    alive = betaln(a, b + x + 1)[which] - power * log_late
    gone = betaln(a + 1, b + x)[which] - power * log_early
    either = np.logaddexp(alive, gone)
    left = np.exp(gone - either)  # the share of `gone`
    stayed = 1.0 - left
    both = digamma(a + b + x + 1)
    slopes = (
        (digamma(r + x) - digamma(r) + np.log(alpha))[which] - stayed * log_late - left * log_early,
        r / alpha - power * (stayed / late + left / early),
        (digamma(a + b) - both)[which] + left / a,
        (digamma(a + b) - digamma(b) - both + digamma(b + x))[which] + stayed * (1.0 / (b + x))[which],
    )
    slope = np.array([float(one.sum()) for one in slopes])
    return float((steady[which] + either).sum()), slope * np.exp(logs)
