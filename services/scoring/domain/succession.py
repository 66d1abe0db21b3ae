"""What is decided without a fact and without a crossing: a new definition takes over, a held customer is released.

Both say what holds now without telling anybody of a past nobody watched: stages are set, silences that already hold
are passed over, and only crossings still to come raise alerts.
"""

from collections.abc import Callable, Sequence

import msgspec

from services.scoring.domain.alerts import BACKFILL, DEFINITION_CHANGED, Cause
from services.scoring.domain.deciding import Deciding, Decision, Outcome
from services.scoring.domain.decision import advance
from services.scoring.domain.definitions import Definition, in_force
from services.scoring.domain.silence import pass_over, review
from services.scoring.domain.snapshot import Snapshot


def armed_definition(decision: Decision, definitions: Sequence[Definition]) -> Definition:
    """What judges this customer's facts: the version they are armed with, else the one in force at `settled`.

    `definitions` in ascending order of version, at least one.
    """
    for definition in definitions:
        if definition.version == decision.version:
            return definition
    return in_force(definitions, decision.settled)


def newer_in_force(definitions: Sequence[Definition], current: Definition, until: int) -> list[Definition]:
    """The versions that take over from `current` before `until` (epoch ms), in their order."""
    return [newer for newer in definitions if newer.version > current.version and newer.effective_at < until]


def advance_through(
    decision: Decision,
    snapshot: Snapshot,
    until: int,
    definitions: Sequence[Definition],
    snapshot_under: Callable[[Definition], Snapshot] | None = None,
) -> Outcome:
    """`advance` to `until`, each stretch under the version in force: the old one up to `effective_at`, then the new.

    A version takes over as soon as `until` is past its `effective_at`. `definitions` in ascending order of version.
    `snapshot_under`: the same customer as another version sees them (which purchases count is up to it).
    """
    current = armed_definition(decision, definitions)
    outcome = Outcome(decision)
    for newer in newer_in_force(definitions, current, until):
        outcome = _then(outcome, advance(outcome.decision, snapshot, newer.effective_at, current))
        snapshot = snapshot_under(newer) if snapshot_under is not None else snapshot
        outcome = _then(outcome, redefine(outcome.decision, snapshot, newer))
        current = newer
    return _then(outcome, advance(outcome.decision, snapshot, until, current))


def redefine(decision: Decision, snapshot: Snapshot, definition: Definition) -> Outcome:
    """Arm a customer with a new `definition`, after silence was decided up to its `effective_at` under the old one.

    What the new version says about the past changes the stage, with cause `definition_changed`, and raises nothing.
    Open alerts stand: they were right under the version that raised them.
    """
    deciding = Deciding(decision, snapshot, definition)
    deciding.change(version=definition.version)
    if decision.stage and not decision.held:
        _restate(deciding, max(definition.effective_at, decision.decided_at), DEFINITION_CHANGED)
    return deciding.outcome()


def release_backfill(
    decision: Decision, snapshot: Snapshot, watermark: int, definition: Definition, import_id: str = ""
) -> Outcome:
    """Release a customer from history import `import_id` ("" = all), and decide them when none holds them any more.

    Silence is settled up to `watermark` - 1 at once, open silence alerts are reviewed, the stage is set with cause
    `backfill`. A silence that already holds raises nothing; a crossing still to come will.
    """
    held = tuple(i for i in decision.held if import_id not in ("", i))
    deciding = Deciding(msgspec.structs.replace(decision, held=held), snapshot, definition)
    if held:
        return deciding.outcome()
    deciding.change(version=definition.version)
    deciding.settle(watermark - 1)
    at = max(deciding.decision.settled, deciding.decision.decided_at)
    review(deciding, None, at, BACKFILL)
    _restate(deciding, at, BACKFILL)
    return deciding.outcome()


def _restate(deciding: Deciding, at: int, cause: Cause) -> None:
    clock = deciding.decision.settled
    deciding.restage(clock, at, cause)
    pass_over(deciding, clock)


def _then(first: Outcome, second: Outcome) -> Outcome:
    return Outcome(
        second.decision,
        first.transitions + second.transitions,
        first.unsettled_silences + second.unsettled_silences,
    )
