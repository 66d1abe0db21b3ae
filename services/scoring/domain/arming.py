"""What a row itself says about its due time, so that neither its evidence nor its crossings need be looked at."""

from collections.abc import Sequence

from services.scoring.domain.definitions import Definition
from services.scoring.domain.rows import DecisionRow
from services.scoring.domain.succession import armed_definition, newer_in_force


def is_resting(row: DecisionRow) -> bool:
    """Whether time decides nothing about the row now: part of another customer, parked, or its state not known."""
    return bool(row.absorbed_into or row.parked or not row.state)


def is_quiet(row: DecisionRow, definitions: Sequence[Definition], until: int) -> bool:
    """Whether advancing the row to `until` (epoch ms) only settles it: nothing is due before, no version takes over."""
    decision = row.decision
    if decision.held or newer_in_force(definitions, armed_definition(decision, definitions), until):
        return False
    if is_resting(row):
        return not decision.stage and not decision.alerts
    return row.due_at is None or row.due_at >= until


def is_armed_alike(before: DecisionRow, row: DecisionRow) -> bool:
    """Whether the due time a row came with still holds, if its evidence is the same as `before`.

    `settled` may have moved on, but not past the due time: what lies ahead does not move with it.
    """
    if is_resting(before) or is_resting(row) or before.due_at != row.due_at:
        return False
    if row.due_at is not None and row.due_at <= row.decision.settled:
        return False
    return before.decision.arming == row.decision.arming
