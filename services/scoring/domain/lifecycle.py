"""Lifecycle stages: which one holds at an instant, and the exact instant at which time alone makes it another."""

from typing import NamedTuple

from services.scoring.domain.conditions import Condition, Reading, all_hold, flip_of
from services.scoring.domain.pack import Pack, StageRule, Way


class Matched(NamedTuple):
    """The stage that holds, the conditions that made it so, and whether it was entered rather than only kept."""

    stage: str
    conditions: tuple[Condition, ...]
    entered: bool


def stage_at(pack: Pack, reading: Reading, at: int, stage: str) -> Matched:
    """The stage at `at` of a customer who is in `stage` ("" = in none yet): the first rule that holds.

    The stage a customer is in holds by its `enter` or its `stay` conditions, every other one by `enter`.
    """
    for rule in pack.stages:
        if all_hold(rule.enter, reading, at):
            return Matched(rule.stage, rule.enter, entered=True)
        if rule.staying and rule.stage == stage and all_hold(rule.stay, reading, at):
            return Matched(rule.stage, rule.stay, entered=False)
    raise AssertionError("the last stage of a pack takes everybody")


def next_stage_flip(pack: Pack, reading: Reading, after: int, stage: str) -> int | None:
    """The first instant after `after` at which the stage is not `stage`; None when time alone never changes it.

    Between two flips of single conditions no stage can change, so only those instants are asked.
    """
    first = after + 1
    if stage_at(pack, reading, first, stage).stage != stage:
        return first
    for instant in sorted(_flips(pack, reading, first, stage)):
        if stage_at(pack, reading, instant, stage).stage != stage:
            return instant
    return None


def _flips(pack: Pack, reading: Reading, at: int, stage: str) -> set[int]:
    """When, after `at`, conditions that matter flip: those of rules that what time cannot move does not rule out."""
    flips: set[int] = set()
    for rule in pack.stages:
        for timeless, timed in _ways_in(rule, stage):
            if not all_hold(timeless, reading, at):
                continue
            if not timed:
                return flips
            found = (flip_of(condition, reading) for condition in timed)
            flips.update(flip for flip in found if flip is not None and flip > at)
    return flips


def _ways_in(rule: StageRule, stage: str) -> tuple[Way, ...]:
    return (rule.entering, rule.staying) if rule.staying is not None and rule.stage == stage else (rule.entering,)
