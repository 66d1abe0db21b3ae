"""Lifecycle stages: which one holds at an instant, and the exact instant at which time alone makes it another."""

from collections.abc import Iterator
from typing import NamedTuple

from services.scoring.domain.conditions import Condition, Reading, all_hold, flip_of, is_defined
from services.scoring.domain.pack import Pack, StageRule, Way


class Matched(NamedTuple):
    """The stage that holds, the conditions that made it so, and whether it was entered rather than only kept."""

    stage: str
    conditions: tuple[Condition, ...]
    entered: bool


class Open(NamedTuple):
    """What is left to be asked of a rule, since only time moves it: conditions; None where that way is closed."""

    rule: StageRule
    enter: tuple[Condition, ...] | None
    stay: tuple[Condition, ...] | None


def stage_at(pack: Pack, reading: Reading, at: int, stage: str) -> Matched:
    """The stage at `at` of a customer who is in `stage` ("" = in none yet): the first rule that holds.

    The stage a customer is in holds by its `enter` or its `stay` conditions, every other one by `enter`.
    """
    for rule, enter, stay in _open(pack, reading):
        if enter is not None and all_hold(enter, reading, at):
            return Matched(rule.stage, rule.enter, entered=True)
        if stay is not None and rule.stage == stage and all_hold(stay, reading, at):
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
    for rule, enter, stay in _open(pack, reading):
        for timed in (enter, stay if rule.stage == stage else None):
            if timed == ():
                return flips
            for condition in timed or ():
                flip = flip_of(condition, reading)
                if flip is not None and flip > at:
                    flips.add(flip)
    return flips


def _open(pack: Pack, reading: Reading) -> tuple[Open, ...]:
    """The rules that can hold at some time, in their order, up to one that always does.

    Remembered with the reading: stages are asked many times for each decision.
    """
    memory = reading.ways
    if not memory or memory[0] is not pack:
        memory[:] = pack, tuple(_found_open(pack, reading))
    found: tuple[Open, ...] = memory[1]
    return found


def _found_open(pack: Pack, reading: Reading) -> Iterator[Open]:
    for rule in pack.stages:
        enter = rule.entering.timed if _is_open(rule.entering, reading) else None
        stay = rule.staying.timed if rule.staying is not None and _is_open(rule.staying, reading) else None
        if enter is not None or stay is not None:
            yield Open(rule, enter, stay)
        if enter == ():
            return


def _is_open(way: Way, reading: Reading) -> bool:
    """Whether time alone can make it hold: what it cannot move holds, and every feature is defined."""
    return all_hold(way.timeless, reading, 0) and all(is_defined(condition, reading) for condition in way.timed)
