"""Why: an explanation that adds up to the risk shown, the conditions met with their values, and what would clear it."""

import msgspec

from services.scoring.domain import mbg
from services.scoring.domain.conditions import (
    Condition,
    Model,
    Reading,
    buys_again,
    rhythm_quantile,
    silence_ms,
    times_of,
    usual_gap_ms,
    value_of,
)
from services.scoring.domain.pack import Trigger
from services.scoring.domain.snapshot import Buying
from shared.events import SECRET, FactRef


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One summand of the risk, in probability. `name`: base, silence or rate."""

    name: str
    amount: float


class Met(msgspec.Struct, frozen=True, array_like=True):
    """A condition as the rule pack writes it and the value it met (durations in ms, probabilities in 0..1)."""

    condition: str
    value: float | None


class Reasons(msgspec.Struct, frozen=True, array_like=True):
    """Why a transition was taken, as known at its instant.

    `risk`: P(no purchase within the horizon), the sum of `parts` to 1e-9; None for someone who never bought.
    `silence_ms`, `usual_gap_ms`, `rhythm` (share of own gaps that were shorter), `orders`: the silence in the
    customer's own measure. `facts`: what was experienced. `clears`: what would close the alert.
    """

    risk: float | None = None
    parts: tuple[Part, ...] = ()
    conditions: tuple[Met, ...] = ()
    orders: int = 0
    silence_ms: int | None = None
    usual_gap_ms: int | None = None
    rhythm: float | None = None
    facts: tuple[FactRef, ...] = ()
    clears: tuple[str, ...] = ()


def parts_of(bought: Buying, model: Model, at: int) -> tuple[Part, ...]:
    """The risk at `at` as a sum: what it was at the last purchase, plus what the silence since added, in two steps.

    With A(t) = P(alive) and R(t) = P(purchase | alive): 1 - A·R = (1 - A₀R₀) + (A₀ - A)·R₀ + A·(R₀ - R), where ₀ is the
    last purchase. `silence`: they may have left; `rate`: if not, they buy more rarely than was thought.
    """
    x, t_x, age = times_of(bought, model, at)
    horizon = model.horizon_ms / model.unit_ms
    alive_then, alive = (mbg.p_alive(model.parameters, x, t_x, t) for t in (t_x, age))
    rate_then, rate = (mbg.p_purchase_if_alive(model.parameters, x, t, horizon) for t in (t_x, age))
    return (
        Part("base", 1.0 - alive_then * rate_then),
        Part("silence", (alive_then - alive) * rate_then),
        Part("rate", alive * (rate_then - rate)),
    )


def reasons_of(
    reading: Reading,
    at: int,
    conditions: tuple[Condition, ...] = (),
    facts: tuple[FactRef, ...] = (),
    clears: tuple[str, ...] = (),
) -> Reasons:
    """The reasons at `at` for a decision that rests on `conditions` or `facts`."""
    met = tuple(Met(c.text, value_of(c, reading, at)) for c in conditions)
    bought, model = reading.buying, reading.model
    if bought is None:
        return Reasons(conditions=met, facts=facts, clears=clears)
    return Reasons(
        risk=1.0 - buys_again(bought, model, at),
        parts=parts_of(bought, model, at),
        conditions=met,
        orders=bought.orders,
        silence_ms=silence_ms(bought, at),
        usual_gap_ms=round(usual_gap_ms(bought, model)),
        rhythm=rhythm_quantile(bought, model, at),
        facts=facts,
        clears=clears,
    )


def clears_silence(purchase_trust_min: int) -> tuple[str, ...]:
    """What closes a silence alert: a purchase, where asked for one that a trusted key brought."""
    if not purchase_trust_min:
        return ("purchased",)
    return (f"purchased, reported with {'a secret' if purchase_trust_min == SECRET else 'a provider or secret'} key",)


def clears_bad_experience(triggers: tuple[Trigger, ...]) -> tuple[str, ...]:
    """What closes a bad-experience alert before its time is over."""
    return tuple(trigger.text for trigger in triggers)
