"""A rule pack: data that a business person may edit, compiled once into conditions and triggers.

What it promises about a pack that compiles: exactly one stage holds at any instant, a stage once entered holds at that
instant, and time can raise a silence but never end it.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import yaml

from services.scoring.domain.conditions import CONSTANT, Condition, condition_of, duration_ms
from shared.errors import InvalidField
from shared.events import PROVIDER, PUBLIC, SECRET, FactRef

TRUSTS = {"public": PUBLIC, "provider": PROVIDER, "secret": SECRET}


class Way(NamedTuple):
    """Conditions parted into those that time does not move and those that it does."""

    timeless: tuple[Condition, ...]
    timed: tuple[Condition, ...]


def _parted(conditions: tuple[Condition, ...]) -> Way:
    timed = tuple(condition for condition in conditions if condition.course != CONSTANT)
    return Way(tuple(condition for condition in conditions if condition.course == CONSTANT), timed)


@dataclass(frozen=True, slots=True)
class StageRule:
    """One lifecycle stage: `enter` decides for others, `stay` for a customer who is in it.

    `entering`, `staying`: the same as ways in, parted once; `staying` None where it is the same as `entering`.
    """

    stage: str
    enter: tuple[Condition, ...]
    stay: tuple[Condition, ...]
    entering: Way = field(init=False, compare=False, repr=False)
    staying: Way | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Part what time moves from what it does not."""
        object.__setattr__(self, "entering", _parted(self.enter))
        object.__setattr__(self, "staying", None if self.stay is self.enter else _parted(self.stay))


@dataclass(frozen=True, slots=True)
class SilenceRule:
    """The silence alert: raised when all of `when` hold, given up as lost `expires_ms` after that."""

    when: tuple[Condition, ...]
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """A fact of `kind`; with a `metric`, a survey answer whose score lies in `at_least`..`at_most`."""

    kind: str
    metric: str = ""
    at_least: int | None = None
    at_most: int | None = None

    def meets(self, fact: FactRef) -> bool:
        """Whether this fact is one of these. A survey answer without a score is none."""
        if fact.kind != self.kind or (self.metric and fact.metric != self.metric):
            return False
        if self.at_least is None and self.at_most is None:
            return True
        score = fact.score
        return (
            score is not None
            and (self.at_least is None or score >= self.at_least)
            and (self.at_most is None or score <= self.at_most)
        )

    @property
    def text(self) -> str:
        """In words for an explanation: `survey_answered csat >= 4`."""
        words = [self.kind, self.metric]
        words += [f">= {self.at_least}"] if self.at_least is not None else []
        words += [f"<= {self.at_most}"] if self.at_most is not None else []
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class BadExperienceRule:
    """The alert on a bad experience: one per fact that opens it, until a good one clears it or `expires_ms` passed."""

    opens: tuple[Trigger, ...]
    clears: tuple[Trigger, ...]
    expires_ms: int
    kinds: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Note the kinds of facts that say anything here: most say nothing."""
        object.__setattr__(self, "kinds", frozenset(trigger.kind for trigger in (*self.opens, *self.clears)))


@dataclass(frozen=True, slots=True)
class Pack:
    """All rules of one version. `day_ms` None: days are local calendar days."""

    name: str
    stages: tuple[StageRule, ...]
    silence: SilenceRule
    bad_experience: BadExperienceRule
    day_ms: int | None = None
    purchase_trust_min: int = PUBLIC


def rules_of(text: str) -> dict[str, Any]:
    """The plain rules of a pack in YAML, as `definition.published` carries them. Raises InvalidField for other text."""
    try:
        rules = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidField("rules", f"not YAML: {error}") from error
    if not isinstance(rules, dict):
        raise InvalidField("rules", "a pack is a map of name, stages and alerts")
    return rules


def pack_of(rules: dict[str, Any]) -> Pack:
    """The compiled pack of plain `rules`. Raises InvalidField with the path of what is wrong and why."""
    alerts = _map(rules, "alerts", "rules")
    return Pack(
        name=str(rules.get("name", "unnamed")),
        stages=_stages(rules.get("stages")),
        silence=_silence(_map(alerts, "silence", "rules.alerts")),
        bad_experience=_bad_experience(_map(alerts, "bad_experience", "rules.alerts")),
        day_ms=None if rules.get("days", "local") == "local" else _day(rules["days"]),
        purchase_trust_min=_trust(rules.get("purchase_trust_min", "public")),
    )


def _stages(listed: object) -> tuple[StageRule, ...]:
    if not isinstance(listed, list) or not listed:
        raise InvalidField("rules.stages", "a pack lists at least one stage")
    stages = tuple(_stage(rule, f"rules.stages[{i}]") for i, rule in enumerate(listed))
    if stages[-1].enter or stages[-1].stay:
        raise InvalidField(f"rules.stages[{len(stages) - 1}]", "the last stage takes everybody else: no conditions")
    if len({rule.stage for rule in stages}) != len(stages):
        raise InvalidField("rules.stages", "a stage is listed once")
    return stages


def _stage(rule: object, path: str) -> StageRule:
    if not isinstance(rule, dict) or not rule.get("stage"):
        raise InvalidField(path, "a stage has a name (`stage`) and conditions (`enter`)")
    enter = _conditions(rule.get("enter", []), f"{path}.enter")
    if "stay" not in rule:
        return StageRule(str(rule["stage"]), enter, enter)
    stay = _conditions(rule["stay"], f"{path}.stay")
    for i, condition in enumerate(stay):
        # A customer who entered and does not stay would change stage every millisecond.
        if condition.feature != "same_spell" and not any(_implies(entered, condition) for entered in enter):
            raise InvalidField(f"{path}.stay[{i}]", "`enter` must imply it: a stage is easier to stay in than to enter")
    return StageRule(str(rule["stage"]), enter, stay)


def _implies(entered: Condition, stayed: Condition) -> bool:
    alike = (entered.feature, entered.within_ms, entered.operator) == (
        stayed.feature,
        stayed.within_ms,
        stayed.operator,
    )
    if not alike or stayed.operator == "=":
        return alike and entered.threshold == stayed.threshold
    if stayed.operator == ">=":
        return entered.threshold >= stayed.threshold
    return entered.threshold <= stayed.threshold


def _silence(rule: dict[str, Any]) -> SilenceRule:
    path = "rules.alerts.silence"
    when = _conditions(rule.get("when"), f"{path}.when")
    for i, condition in enumerate(when):
        if not condition.time_can_only_make_it_true or condition.feature == "same_spell":
            raise InvalidField(
                f"{path}.when[{i}]", "time may only make it true, or one silence would have two crossings"
            )
    if all(condition.course == CONSTANT for condition in when):
        raise InvalidField(f"{path}.when", "names no silence: add one such as `silence >= 60d`")
    return SilenceRule(when, _duration(rule.get("expires", "365d"), f"{path}.expires"))


def _bad_experience(rule: dict[str, Any]) -> BadExperienceRule:
    path = "rules.alerts.bad_experience"
    return BadExperienceRule(
        opens=_triggers(rule.get("opens", []), f"{path}.opens"),
        clears=_triggers(rule.get("clears", []), f"{path}.clears"),
        expires_ms=_duration(rule.get("expires", "90d"), f"{path}.expires"),
    )


def _triggers(listed: object, path: str) -> tuple[Trigger, ...]:
    if not isinstance(listed, list):
        raise InvalidField(path, "a list of facts, such as {kind: complained}")
    return tuple(_trigger(trigger, f"{path}[{i}]") for i, trigger in enumerate(listed))


def _trigger(given: object, path: str) -> Trigger:
    known = {"kind", "metric", "at_least", "at_most"}
    try:
        if isinstance(given, dict) and given.keys() <= known:
            return msgspec.convert(given, Trigger)
    except msgspec.ValidationError as error:
        raise InvalidField(path, str(error)) from error
    raise InvalidField(path, f"a fact is named by {', '.join(sorted(known))}")


def _conditions(listed: object, path: str) -> tuple[Condition, ...]:
    if not isinstance(listed, list):
        raise InvalidField(path, "a list of conditions, such as `silence >= 30d`")
    return tuple(_condition(text, f"{path}[{i}]") for i, text in enumerate(listed))


def _condition(text: object, path: str) -> Condition:
    try:
        return condition_of(str(text))
    except ValueError as error:
        raise InvalidField(path, str(error)) from error


def _duration(text: object, path: str) -> int:
    try:
        return duration_ms(text)
    except ValueError as error:
        raise InvalidField(path, str(error)) from error


def _day(text: object) -> int:
    width_ms = _duration(text, "rules.days")
    if width_ms <= 0:
        raise InvalidField("rules.days", "`local`, or a duration above 0")
    return width_ms


def _trust(name: object) -> int:
    if not isinstance(name, str) or name not in TRUSTS:
        raise InvalidField("rules.purchase_trust_min", f"one of {', '.join(TRUSTS)}")
    return TRUSTS[name]


def _map(rules: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    value = rules.get(name)
    if not isinstance(value, dict):
        raise InvalidField(f"{path}.{name}", "a map is missing here")
    return value
