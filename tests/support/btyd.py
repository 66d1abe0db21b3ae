"""The sister models of MBG/NBD, as yardsticks: nothing is decided by them.

Published figures exist for these, on the same data and with the same meaning of `x`, `t_x` and `age` as in `mbg`; they
are what a fit is compared with. P(alive) of BG/NBD is 1 for every one-time buyer: never alert on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, hyp2f1

from services.scoring.domain.fitting import Floats, Histories
from services.scoring.domain.mbg import Parameters

BG_CDNOW = Parameters(0.243, 4.414, 0.793, 2.426)
"""Fader, Hardie & Lee 2005, table 2."""
BG_FITTED = Parameters(0.2426, 4.4136, 0.7929, 2.4259)
"""The same fit with more digits."""


@dataclass(frozen=True, slots=True)
class ParetoParameters:
    """r, alpha: the purchase rate's gamma; s, beta: the gamma of the rate of leaving."""

    r: float
    alpha: float
    s: float
    beta: float


PARETO_CDNOW = ParetoParameters(0.553, 10.578, 0.606, 11.669)
"""Fader, Hardie & Lee 2005."""
PARETO_FITTED = ParetoParameters(0.5533, 10.5777, 0.6062, 11.6682)
"""The same fit with more digits."""


def bg_p_alive(p: Parameters, x: int, t_x: float, age: float) -> float:
    """P(alive) in 0..1; 1 with x = 0. (2, 30.43, 38.86): 0.7266."""
    if x == 0:
        return 1.0
    odds = (p.r + x) * (log(p.alpha + age) - log(p.alpha + t_x))
    return 1.0 / (1.0 + p.a / (p.b + x - 1.0) * exp(min(odds, 700.0)))


def bg_expected_purchases(p: Parameters, x: int, t_x: float, age: float, horizon: float) -> float:
    """Mean number of purchases in the next `horizon` (eq. 10; a ≠ 1). (2, 30.43, 38.86), 39 weeks: 1.226."""
    z = horizon / (p.alpha + age + horizon)
    fading = exp((p.r + x) * log((p.alpha + age) / (p.alpha + age + horizon)))
    series = float(hyp2f1(p.r + x, p.b + x, p.a + p.b + x - 1.0, z))
    mean = (p.a + p.b + x - 1.0) / (p.a - 1.0) * (1.0 - fading * series)
    return mean * bg_p_alive(p, x, t_x, age)


def bg_mean_purchases(p: Parameters, time: float) -> float:
    """Mean number of repeat purchases of a new customer up to `time` (eq. 9; a ≠ 1). 78 weeks: 1.858."""
    series = float(hyp2f1(p.r, p.b, p.a + p.b - 1.0, time / (p.alpha + time)))
    never = exp(p.r * log(p.alpha / (p.alpha + time)))
    return (p.a + p.b - 1.0) / (p.a - 1.0) * (1.0 - never * series)


def bg_pmf(p: Parameters, n: int, time: float) -> float:
    """P(exactly `n` ≥ 0 repeat purchases of a new customer up to `time`) (eq. 8). P(X(39) = 0): 0.5737864."""
    z = time / (p.alpha + time)
    none = exp(p.r * log(p.alpha / (p.alpha + time)))

    def weight(j: int) -> float:
        return exp(lgamma(p.r + j) - lgamma(p.r) - lgamma(j + 1)) * float(z**j)

    stayed = exp(_log_beta(p.a, p.b + n) - _log_beta(p.a, p.b)) * weight(n) * none
    if n == 0:
        return stayed
    left = exp(_log_beta(p.a + 1.0, p.b + n - 1.0) - _log_beta(p.a, p.b))
    return stayed + left * (1.0 - none * sum(weight(j) for j in range(n)))


def pareto_p_alive(p: ParetoParameters, x: int, t_x: float, age: float) -> float:
    """P(alive) in 0..1, for alpha ≤ beta (ValueError otherwise). CDNOW customer 1516: 0.99792."""
    if p.alpha > p.beta:
        raise ValueError("this form needs alpha <= beta")
    power = p.r + p.s + x

    def term(time: float) -> float:
        series = float(hyp2f1(power, p.r + x, power + 1.0, (p.beta - p.alpha) / (p.beta + time)))
        # Scaled by (alpha+T)^(r+x) (beta+T)^s before the power is taken: neither over- nor underflows.
        scale = (p.r + x) * log(p.alpha + age) + p.s * log(p.beta + age) - power * log(p.beta + time)
        return series * exp(scale)

    return 1.0 / (1.0 + p.s / power * (term(t_x) - term(age)))


def pareto_expected_purchases(p: ParetoParameters, x: int, t_x: float, age: float, horizon: float) -> float:
    """Mean number of purchases in the next `horizon` (s ≠ 1). CDNOW customer 1516, 52 weeks: 25.4564."""
    rate = (p.r + x) * (p.beta + age) / ((p.alpha + age) * (p.s - 1.0))
    leaving = exp((p.s - 1.0) * log((p.beta + age) / (p.beta + age + horizon)))
    return rate * (1.0 - leaving) * pareto_p_alive(p, x, t_x, age)


def pareto_mean_purchases(p: ParetoParameters, time: float) -> float:
    """Mean number of repeat purchases of a new customer up to `time` (s ≠ 1). 9 weeks: 0.38909."""
    leaving = exp((p.s - 1.0) * log(p.beta / (p.beta + time)))
    return p.r * p.beta / (p.alpha * (p.s - 1.0)) * (1.0 - leaving)


def gamma_gamma_mean(p: float, q: float, v: float, x: int, mean_value: float) -> float:
    """Expected mean value of a customer's purchases after `x` repeats of `mean_value` (Fader & Hardie 2013, eq. 5).

    With x = 0 it is the shop's: p·v / (q - 1), for q > 1.
    """
    return p * (v + x * mean_value) / (p * x + q - 1.0)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def mbg_age_at_p_alive(p: Parameters, x: int, t_x: float, threshold: float) -> float:
    """MBG/NBD: the age at which P(alive) falls to `threshold` (0..1, both excluded). (1, 4, .5): 14.44.

    May lie before `t_x`: then P(alive) was below the threshold from the last purchase on.
    """
    odds = (1.0 - threshold) / threshold * (p.b + x) / p.a
    return float((p.alpha + t_x) * odds ** (1.0 / (p.r + x)) - p.alpha)


# --- likelihoods over all customers: parameters as a sequence ---------------------------------------------------------


def bg_log_likelihood(p: Sequence[float], h: Histories) -> float:
    """BG/NBD (eq. 7). CDNOW sample at its maximum: -9582.429."""
    r, alpha, a, b = p
    x = h.x
    steady = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
    stayed = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + h.age)
    with np.errstate(divide="ignore"):
        left = np.log(x > 0) + betaln(a + 1, np.maximum(b + x - 1, 1e-300)) - betaln(a, b)
    left = left - (r + x) * np.log(alpha + h.t_x)
    return float((steady + np.logaddexp(stayed, left)).sum())


def pareto_log_likelihood(p: Sequence[float], h: Histories) -> float:
    """Pareto/NBD for alpha <= beta. CDNOW sample at its maximum: -9594.976."""
    r, alpha, s, beta = p
    power = r + s + h.x

    def term(time: Floats) -> Floats:
        series = hyp2f1(power, r + h.x, power + 1.0, (beta - alpha) / (beta + time))
        return np.asarray(np.log(series) - power * np.log(beta + time))

    steady = gammaln(r + h.x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta)
    early, late = term(h.t_x), term(h.age)
    with np.errstate(divide="ignore"):
        gone = np.log(s / power) + early + np.log(-np.expm1(np.minimum(late - early, 0.0)))
    alive = -(r + h.x) * np.log(alpha + h.age) - s * np.log(beta + h.age)
    return float((steady + np.logaddexp(alive, gone)).sum())


def gompertz_log_likelihood(p: Sequence[float], h: Histories, points: int = 200) -> float:
    """GGom/NBD (Bemmaor & Glady 2012), its integral by Gauss and Legendre. CDNOW sample: -9594.98."""
    r, alpha, b, s, beta = p
    nodes, weights = np.polynomial.legendre.leggauss(points)
    half = (h.age - h.t_x) / 2.0
    times = h.t_x[:, None] + half[:, None] * (nodes + 1.0)
    power = (r + h.x)[:, None]
    density = np.exp(b * times - power * np.log(alpha + times) - (s + 1.0) * np.log(beta + np.expm1(b * times)))
    gone = b * s * beta**s * half * (density * weights).sum(axis=1)
    alive = np.exp(-(r + h.x) * np.log(alpha + h.age) + s * (log(beta) - np.log(beta + np.expm1(b * h.age))))
    return float((gammaln(r + h.x) - gammaln(r) + r * log(alpha) + np.log(alive + gone)).sum())


def gamma_gamma_log_likelihood(p: Sequence[float], x: Floats, mean_value: Floats) -> float:
    """Gamma-gamma over customers with `x` >= 1 repeats of `mean_value`. CDNOW sample: -4055.9177."""
    shape, q, v = p
    steady = gammaln(shape * x + q) - gammaln(shape * x) - gammaln(q) + q * np.log(v)
    values = (shape * x - 1.0) * np.log(mean_value) + shape * x * np.log(x)
    return float((steady + values - (shape * x + q) * np.log(v + mean_value * x)).sum())


def maximum(likelihood: Callable[[Sequence[float]], float], start: Sequence[float]) -> tuple[list[float], float]:
    """The parameters of greatest likelihood, each above 0, and it."""

    def downhill(logs: Floats) -> float:
        return -likelihood(list(np.exp(logs)))

    ended = minimize(downhill, np.array([log(one) for one in start]), method="L-BFGS-B", options={"ftol": 1e-13})
    return [float(value) for value in np.exp(ended.x)], -float(ended.fun)


# --- BG/BB: chances to buy that come one a period -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BetaParameters:
    """alpha, beta: the beta of buying at a chance; gamma, delta: the beta of leaving before one."""

    alpha: float
    beta: float
    gamma: float
    delta: float


BGBB_DONATIONS = BetaParameters(1.204, 0.750, 0.657, 2.783)
"""Fader, Hardie & Shang 2010, 11,104 donors over six years."""


def bgbb_likelihood(p: BetaParameters, x: int, t_x: int, n: int) -> float:
    """P(this history): bought at `x` of `n` chances, the last time at `t_x`."""
    total = exp(_log_beta(p.alpha + x, p.beta + n - x) + _log_beta(p.gamma, p.delta + n))
    for i in range(n - t_x):
        total += exp(_log_beta(p.alpha + x, p.beta + t_x - x + i) + _log_beta(p.gamma + 1.0, p.delta + t_x + i))
    return total / exp(_log_beta(p.alpha, p.beta) + _log_beta(p.gamma, p.delta))


def bgbb_p_alive(p: BetaParameters, x: int, t_x: int, n: int) -> float:
    """P(alive at chance n + 1)."""
    buying = _log_beta(p.alpha + x, p.beta + n - x) - _log_beta(p.alpha, p.beta)
    staying = _log_beta(p.gamma, p.delta + n + 1.0) - _log_beta(p.gamma, p.delta)
    return exp(buying + staying) / bgbb_likelihood(p, x, t_x, n)


def bgbb_expected(p: BetaParameters, x: int, t_x: int, n: int, chances: int) -> float:
    """Mean number of purchases at the next `chances` (gamma != 1)."""
    buying = exp(_log_beta(p.alpha + x + 1.0, p.beta + n - x) - _log_beta(p.alpha, p.beta))
    whole = p.delta / (p.gamma - 1.0) * exp(lgamma(p.gamma + p.delta) - lgamma(1.0 + p.delta))

    def term(m: int) -> float:
        return exp(lgamma(1.0 + p.delta + m) - lgamma(p.gamma + p.delta + m))

    return buying * whole * (term(n) - term(n + chances)) / bgbb_likelihood(p, x, t_x, n)
