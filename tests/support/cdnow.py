"""The published 1/10 sample of the CDNOW log (Fader & Hardie): 2,357 customers, days and amounts as published."""

import csv
import gzip
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np

from services.scoring.domain.fitting import Floats, Histories, Ledger, histories_at, ledger_of, ordered_until
from shared.ids import DAY_MS

FILE = Path(__file__).parents[1] / "golden" / "cdnow" / "sample.csv.gz"
EPOCH = date(1970, 1, 1).toordinal()
WEEK_MS = 7 * DAY_MS


def ms(day: date) -> int:
    """Epoch milliseconds of a day's start."""
    return (day.toordinal() - EPOCH) * DAY_MS


CALIBRATION_END = ms(date(1997, 9, 30))
HOLDOUT_WEEKS = 39
END = CALIBRATION_END + HOLDOUT_WEEKS * WEEK_MS


@cache
def amounts() -> dict[str, dict[int, float]]:
    """Customer → day (epoch ms) → what was spent on it, several baskets of a day together."""
    found: dict[str, dict[int, float]] = {}
    with gzip.open(FILE, "rt", encoding="ascii") as file:
        for row in csv.DictReader(file):
            days = found.setdefault(row["sample_id"], {})
            at = ms(date.fromisoformat(row["date"]))
            days[at] = days.get(at, 0.0) + float(row["amount_usd"])
    return found


@cache
def ledger() -> Ledger:
    """The sample's orders."""
    orders = [sorted(days) for days in amounts().values()]
    return ledger_of(orders, [times[-1] for times in orders])


@cache
def calibration() -> Histories:
    """What was known at the end of calibration, in weeks."""
    return histories_at(ledger(), CALIBRATION_END, WEEK_MS)


@cache
def held_out() -> np.ndarray:
    """Repeat purchases of each customer in the 39 weeks after it."""
    return ordered_until(ledger(), END) - ordered_until(ledger(), CALIBRATION_END)


def repeat_buyers() -> tuple[Floats, Floats]:
    """(x, mean value of the repeat purchases) of the calibration's repeat buyers."""
    pairs = list(_repeats())
    return np.array([float(len(values)) for values in pairs]), np.array([float(np.mean(values)) for values in pairs])


def _repeats() -> Iterator[list[float]]:
    for days in amounts().values():
        values = [days[at] for at in sorted(days) if at <= CALIBRATION_END][1:]
        if values:
            yield values
