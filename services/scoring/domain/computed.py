"""What the rules say of a customer as of an instant, computed anew from the purchases alone: no decision is read.

The purchases are lived through in their order, as if each had been known when it was made, so that a stage that is
left by other conditions than it is entered by is right too. All of it under the one version in force at the instant.
"""

from dataclasses import replace
from typing import NamedTuple

from services.scoring.domain.deciding import INITIAL, Deciding, Decision
from services.scoring.domain.decision import advance, on_change
from services.scoring.domain.definitions import Definition
from services.scoring.domain.lifecycle import stage_at
from services.scoring.domain.reasons import Reasons, reasons_of
from services.scoring.domain.silence import crossing, silent
from services.scoring.domain.snapshot import Snapshot

PURCHASES_LIVED_MAX = 200
"""Of more, the last ones are lived through: what lies further back decides no stage any more, but costs time."""


class Computed(NamedTuple):
    """`at`: epoch ms · `silent_since`: the exact crossing of a silence that holds at `at`, None without one."""

    at: int
    version: int
    stage: str
    silent_since: int | None
    reasons: Reasons


def computed(snapshot: Snapshot, first_at: int, at: int, definition: Definition) -> Computed:
    """Stage, risk with its reasons, and silence at `at`.

    `snapshot`: of everything that counts, under `definition` · `first_at`: when the customer first did anything (epoch
    ms, at most `at`). Purchases after `at` are not lived through, but the risk takes them as just made.
    """
    decision, lived = _lived(snapshot, first_at, at, definition)
    decision = advance(decision, lived, at + 1, definition).decision
    reading = Deciding(decision, snapshot, definition).reading()
    matched = stage_at(definition.pack, reading, at, decision.stage)
    silent_since = crossing(definition, reading) if silent(definition, reading, at) else None
    reasons = reasons_of(reading, at, matched.conditions)
    return Computed(at, definition.version, decision.stage, silent_since, reasons)


def _lived(snapshot: Snapshot, first_at: int, at: int, definition: Definition) -> tuple[Decision, Snapshot]:
    """The decision after the last purchase up to `at`, and the customer as known then."""
    count = sum(purchase.at <= at for purchase in snapshot.purchases)
    before = _until(snapshot, 0)
    decision = on_change(INITIAL, before, before, (), min(first_at, at), None, definition).decision
    for number in range(max(0, count - PURCHASES_LIVED_MAX), count):
        now = _until(snapshot, number + 1)
        made_at = now.purchases[-1].at
        decision = on_change(decision, before, now, (), made_at, made_at, definition).decision
        before = now
    return decision, before


def _until(snapshot: Snapshot, count: int) -> Snapshot:
    """The same customer with their first `count` purchases only."""
    return replace(snapshot, purchases=snapshot.purchases[:count], memory=[])
