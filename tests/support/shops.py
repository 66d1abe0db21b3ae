"""Simulated shops whose customers behave as MBG/NBD says."""

import numpy as np

from services.scoring.domain.fitting import Ledger, ledger_of
from services.scoring.domain.mbg import Parameters
from shared.ids import DAY_MS

WEEK_MS = 7 * DAY_MS


def orders_of(size: int, p: Parameters, weeks: float = 78.0, seed: int = 7) -> list[list[int]]:
    """Each customer's order times in ms from 0, ascending; first orders are spread over the first third of `weeks`."""
    random = np.random.default_rng(seed)
    rates, leaving = random.gamma(p.r, 1.0 / p.alpha, size), random.beta(p.a, p.b, size)
    orders = []
    for rate, leaves in zip(rates, leaving, strict=True):
        at = float(random.uniform(0, weeks / 3))
        times = [at]
        while random.random() >= leaves and (at := at + random.exponential(1.0 / rate)) < weeks:
            times.append(at)
        orders.append([round(one * WEEK_MS) for one in times])
    return orders


def a_shop(size: int, p: Parameters, weeks: float = 78.0, seed: int = 7) -> Ledger:
    """The ledger of such a shop."""
    orders = orders_of(size, p, weeks, seed)
    return ledger_of(orders, [times[-1] for times in orders])
