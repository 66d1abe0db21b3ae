"""A new version of a model from a shop's own orders: parameters, usual gap, and figures that say how good they are.

Refused (`Unfitted`) when the customers are too few, say too little, or when the parameters in force predict the last
weeks better: then those stay.
"""

from typing import Any

import msgspec
import numpy as np

from services.scoring.domain.definitions import FIGURES, model_of
from services.scoring.domain.fitting import (
    Fit,
    Histories,
    Ledger,
    Unfitted,
    check_enough,
    fit,
    histories_at,
    log_likelihood,
    ordered_until,
)
from services.scoring.domain.goodness import X_MAX, Goodness, Row, goodness, p_buy, repeat_counts, usual_gap
from services.scoring.domain.mbg import Parameters
from shared.ids import DAY_MS

HOLDOUT_SHARE = 1 / 3
"""Of the time seen, at most; never longer than the model's horizon."""
SPAN_MIN_HORIZONS = 0.5
BRIER_WORSE_MAX = 0.005
"""By so much the holdout may be predicted worse than by the parameters in force: less is noise."""
GAPS_MIN, SHAPES_MIN = 5, 50
"""Customers with so many gaps say something about the shape of gaps, and so many of them are needed."""
SHAPE_MIN, SHAPE_MAX = 0.5, 6.0
GAP_CHANGE = 0.1
"""Relative change of usual gap or shape that counts as one."""
DIGITS = 6


class Figures(msgspec.Struct, frozen=True):
    """What a fitted version says about its fit; published with it.

    `at`: orders up to then (epoch ms) · `sampled`: share of the workspace's customers that were read in ·
    `log_likelihood` of the fitted and of the former parameters on the same customers · `change`: mean absolute
    difference of P(buy within the horizon) that the new parameters make · `counts`: customers by repeat purchases,
    as the model expects and as they are · `holdout`: None, and why in `no_holdout`.
    """

    at: int
    customers: int
    repeat_purchases: int
    sampled: float
    days: float
    log_likelihood: float
    log_likelihood_before: float
    starts_agreeing: int
    limits: tuple[str, ...]
    change: float
    counts: tuple[Row, ...]
    holdout: Goodness | None
    no_holdout: str = ""


class Refit(msgspec.Struct, frozen=True):
    """A model to publish, its figures, and whether it differs enough from the one in force to be worth it."""

    model: dict[str, Any]
    figures: Figures
    differs: bool


def refit(ledger: Ledger, at: int, before: dict[str, Any], change_min: float, sampled: float = 1.0) -> Refit:
    """Fit all orders up to `at` (epoch ms). `before`: the model in force, whose unit and horizon are kept.

    `change_min`: the `Figures.change` from which on it differs enough. Raises Unfitted.
    """
    model = model_of(before)
    known = histories_at(ledger, at, model.unit_ms)
    check_enough(known)
    _check_span(known, model.horizon_ms / model.unit_ms)
    found = fit(known)
    holdout, no_holdout = _holdout(ledger, at, before)
    _check_better(holdout)
    horizon = model.horizon_ms / model.unit_ms
    said, said_before = p_buy(found.parameters, known, horizon), p_buy(model.parameters, known, horizon)
    change = float(np.abs(said - said_before).mean())
    gap_ms, shape = usual_gap(known) * model.unit_ms, _gap_shape(ledger, at) or model.gap_shape
    figures = Figures(
        at=at,
        customers=found.customers,
        repeat_purchases=int(known.x.sum()),
        sampled=sampled,
        days=_rounded(float(known.age.max()) * model.unit_ms / DAY_MS),
        log_likelihood=found.log_likelihood,
        log_likelihood_before=log_likelihood(model.parameters, known),
        starts_agreeing=found.starts_agreeing,
        limits=found.limits,
        change=change,
        counts=_counts(found.parameters, known),
        holdout=holdout,
        no_holdout=no_holdout,
    )
    moved = any(
        abs(new / old - 1.0) >= GAP_CHANGE for new, old in ((gap_ms, model.shop_gap_ms), (shape, model.gap_shape))
    )
    return Refit(_model(before, found, gap_ms, shape, figures), figures, change >= change_min or moved)


def _model(before: dict[str, Any], found: Fit, gap_ms: float, shape: float, figures: Figures) -> dict[str, Any]:
    p = found.parameters
    return {
        **before,
        "r": _rounded(p.r),
        "alpha": _rounded(p.alpha),
        "a": _rounded(p.a),
        "b": _rounded(p.b),
        "shop_gap": f"{max(1, round(gap_ms))}ms",
        "gap_shape": _rounded(shape),
        FIGURES: _short(msgspec.to_builtins(figures)),
    }


def _check_span(known: Histories, horizon: float) -> None:
    if known.age.max() < SPAN_MIN_HORIZONS * horizon:
        raise Unfitted("too early: the orders known span less than half the model's horizon")


def _holdout(ledger: Ledger, at: int, before: dict[str, Any]) -> tuple[Goodness | None, str]:
    """Fit what was known before the last part of the time seen, and compare with what happened in it."""
    model = model_of(before)
    span_ms = at - int(ledger.times.min())
    length_ms = min(model.horizon_ms, round(span_ms * HOLDOUT_SHARE))
    known = histories_at(ledger, at - length_ms, model.unit_ms)
    then = ordered_until(ledger, at - length_ms)
    try:
        past = fit(known)
    except Unfitted as error:
        return None, f"before the last {length_ms / DAY_MS:.1f} days: {error}"
    bought = (ordered_until(ledger, at) - then)[then > 0]
    days = _rounded(length_ms / DAY_MS)
    return goodness(known, bought, length_ms / model.unit_ms, days, past.parameters, model.parameters), ""


def _check_better(holdout: Goodness | None) -> None:
    if holdout is not None and holdout.brier > holdout.brier_before + BRIER_WORSE_MAX:
        raise Unfitted(
            f"the parameters in force predict the last {holdout.days:g} days better "
            f"(Brier {holdout.brier_before:.4f} against {holdout.brier:.4f}): they stay"
        )


def _counts(p: Parameters, known: Histories) -> tuple[Row, ...]:
    expected = repeat_counts(p, known.age, X_MAX)
    actual = np.bincount(np.minimum(known.x, X_MAX), minlength=X_MAX + 1)
    names = [str(x) for x in range(X_MAX)] + [f"{X_MAX}+"]
    pairs = zip(names, expected, actual, strict=True)
    return tuple(Row(name, int(seen), float(said), float(seen)) for name, said, seen in pairs)


def _gap_shape(ledger: Ledger, at: int) -> float | None:
    """Median of mean² / variance over customers' own gaps; None when too few have enough of them."""
    orders = ordered_until(ledger, at)
    shapes = []
    for start, count in zip(ledger.starts[orders > GAPS_MIN], orders[orders > GAPS_MIN], strict=True):
        gaps = np.diff(ledger.times[start : start + count])
        if variance := float(gaps.var()):
            shapes.append(float(gaps.mean()) ** 2 / variance)
    return float(np.clip(np.median(shapes), SHAPE_MIN, SHAPE_MAX)) if len(shapes) >= SHAPES_MIN else None


def _short(value: Any) -> Any:
    """Plain figures with numbers as long as they mean something."""
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
