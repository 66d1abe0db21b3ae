"""Customers, facts and definitions made by hand for the tests of scoring."""

from typing import Any

from services.scoring.defaults import default_rules
from services.scoring.domain.alerts import Alert, AlertTransition, AnyTransition
from services.scoring.domain.conditions import buys_again
from services.scoring.domain.decision import INITIAL, Decision, Outcome, advance, on_change
from services.scoring.domain.definitions import Definition, model_of
from services.scoring.domain.pack import pack_of
from services.scoring.domain.snapshot import Purchase, Snapshot, buying
from shared.events import SECRET, FactRef
from shared.ids import DAY_MS

LEAF = bytes(16)
START = 20_000 * DAY_MS  # a midnight, so that day arithmetic reads off the page
DEFINITION = Definition(1, 0, pack_of(default_rules()), model_of({}))


def a_definition(
    version: int = 1, effective_at: int = 0, *, silence: list[str] | None = None, **rules: Any
) -> Definition:
    """The default definition, with another silence rule or other top-level rules."""
    merged = default_rules() | rules
    if silence is not None:
        merged["alerts"] = merged["alerts"] | {"silence": {"when": silence, "expires": "365d"}}
    return Definition(version, effective_at, pack_of(merged), model_of({}))


def bought(*days: float, workspace: str = "w", contract: int | None = None, trust: int = SECRET) -> Snapshot:
    """A customer who bought on these days after START; the key of each purchase is its time."""
    times = sorted(START + round(day * DAY_MS) for day in days)
    purchases = tuple(Purchase(at, f"order:{at}", LEAF, trust, at // DAY_MS) for at in times)
    return Snapshot(workspace, purchases, contract)


def a_fact(kind: str = "complained", at: int = START, **fields: Any) -> FactRef:
    """A fact by its kind, its id made of its time unless given."""
    defaults: dict[str, Any] = {"id": at.to_bytes(16, "big"), "leaf": LEAF, "trust": SECRET}
    return FactRef(kind=kind, occurred_at=at, **(defaults | fields))


def day(number: float) -> int:
    """Epoch milliseconds of a day after START."""
    return START + round(number * DAY_MS)


def live(snapshot: Snapshot, definition: Definition = DEFINITION) -> Decision:
    """A customer whose purchases each came when they were made, silence decided up to the last one."""
    decision, seen = INITIAL, Snapshot(snapshot.workspace)
    for i, purchase in enumerate(snapshot.purchases):
        new = Snapshot(snapshot.workspace, snapshot.purchases[: i + 1], snapshot.contract_ended_at)
        decision = on_change(decision, seen, new, (), purchase.at, purchase.at, definition).decision
        seen = new
    return decision


def names(outcome: Outcome) -> list[str]:
    """What was emitted, by name."""
    return [transition_name(transition) for transition in outcome.transitions]


def transition_name(transition: AnyTransition) -> str:
    """The name a transition carries on the log."""
    return str(transition.__struct_config__.tag)


def alerts_of(outcome: Outcome) -> list[Alert]:
    """The alerts of the alert transitions, in order."""
    return [t.alert for t in outcome.transitions if isinstance(t, AlertTransition)]


def silence_after(snapshot: Snapshot, decision: Decision, until: int, definition: Definition = DEFINITION) -> Outcome:
    """Advance to `until`."""
    return advance(decision, snapshot, until, definition)


def churn_risk(snapshot: Snapshot, at: int, definition: Definition) -> float | None:
    """1 - P(a purchase within the horizon from `at`), in 0..1; None for a customer without a purchase that counts."""
    bought_so_far = buying(snapshot, definition.pack.purchase_trust_min, definition.pack.day_ms)
    return None if bought_so_far is None else 1.0 - buys_again(bought_so_far, definition.model, at)
