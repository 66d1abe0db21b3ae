"""MBG/NBD: the probability that a customer buys again, from how often and how lately they bought.

Batislam, Denizel & Filiztekin 2007; a customer buys at a gamma-distributed rate and may leave after any purchase, the
first one included. Times are floats in the model's unit (a week by default): `t_x` from first to last purchase, `age`
(T in the literature) from first purchase to now, `x` the number of repeat purchase days. Pure Python floats: this is
the hot path. Published values: the CDNOW figures of the `lifetimes` test-suite.
"""

from dataclasses import dataclass
from math import exp, expm1, log

_EXP_MAX = 700.0  # exp() overflows beyond 709; a customer that far gone is alive with probability 0 anyway


@dataclass(frozen=True, slots=True)
class Parameters:
    """r, alpha: the purchase rate's gamma shape and scale (in units); a, b: the beta of leaving after a purchase."""

    r: float
    alpha: float
    a: float
    b: float


CDNOW = Parameters(0.525, 6.183, 0.891, 1.614)
"""Published fit to the CDNOW sample, in weeks: version 1 of the model until a shop's own fit exists."""


def p_alive(p: Parameters, x: int, t_x: float, age: float) -> float:
    """P(alive) in 0..1 at `age` ≥ `t_x` ≥ 0. CDNOW customer 1516 (26, 30.86, 31): 0.96555."""
    odds = (p.r + x) * (log(p.alpha + age) - log(p.alpha + t_x))
    return 1.0 / (1.0 + p.a / (p.b + x) * exp(min(odds, _EXP_MAX)))


def p_purchase_if_alive(p: Parameters, x: int, age: float, horizon: float) -> float:
    """P(at least one purchase in the next `horizon` > 0, given alive and staying so until then), in 0..1."""
    return -expm1((p.r + x) * (log(p.alpha + age) - log(p.alpha + age + horizon)))


def p_buy(p: Parameters, x: int, t_x: float, age: float, horizon: float) -> float:
    """P(at least one purchase in the next `horizon`), in 0..1: falls as `age` grows. (0, 0, 0, 13): 0.2887."""
    return p_alive(p, x, t_x, age) * p_purchase_if_alive(p, x, age, horizon)


def age_at_p_buy(p: Parameters, x: int, t_x: float, horizon: float, threshold: float) -> float:
    """The age ≥ `t_x` at which P(buy) falls to `threshold` (0..1, both excluded), to about 1e-9; a hint for crossings.

    `t_x` where it is below from the last purchase on. Regula falsi with the Illinois rule. (1, 4, 13, .3): 12.36.
    """
    low, high = t_x, t_x + horizon
    f_low = p_buy(p, x, t_x, low, horizon) - threshold
    if f_low <= 0.0:
        return t_x
    while (f_high := p_buy(p, x, t_x, high, horizon) - threshold) > 0.0:
        low, f_low, high = high, f_high, 2.0 * high
    was_low: bool | None = None
    for _ in range(60):
        age = (low * f_high - high * f_low) / (f_high - f_low)
        f_age = p_buy(p, x, t_x, age, horizon) - threshold
        if abs(f_age) < 1e-13:
            return age
        is_low = f_age > 0.0
        weight = 0.5 if is_low is was_low else 1.0  # Illinois: the end that stays twice is made lighter
        if is_low:
            low, f_low, f_high = age, f_age, f_high * weight
        else:
            high, f_high, f_low = age, f_age, f_low * weight
        was_low = is_low
    return high
