"""The sister models of MBG/NBD, as yardsticks: BG/NBD, Pareto/NBD and gamma-gamma. Nothing is decided by them.

Published figures exist for these, on the same data and with the same meaning of `x`, `t_x` and `age` as in `mbg`; they
are what a fit is compared with. P(alive) of BG/NBD is 1 for every one-time buyer: never alert on it.
"""

from dataclasses import dataclass
from math import exp, lgamma, log

from scipy.special import hyp2f1

from services.scoring.domain.mbg import Parameters

BG_CDNOW = Parameters(0.243, 4.414, 0.793, 2.426)
"""Fader, Hardie & Lee 2005, table 2."""


@dataclass(frozen=True, slots=True)
class ParetoParameters:
    """r, alpha: the purchase rate's gamma; s, beta: the gamma of the rate of leaving."""

    r: float
    alpha: float
    s: float
    beta: float


PARETO_CDNOW = ParetoParameters(0.553, 10.578, 0.606, 11.669)
"""Fader, Hardie & Lee 2005."""


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
