"""The decision state of one customer, and the pen that writes transitions over one snapshot in order."""

from typing import Any, NamedTuple

import msgspec

from services.scoring.domain.alerts import (
    ERASED,
    Alert,
    AlertTransition,
    AnyTransition,
    Cause,
    CustomerForgotten,
    StageChanged,
    kept,
)
from services.scoring.domain.conditions import Reading, buys_again
from services.scoring.domain.definitions import Definition
from services.scoring.domain.evidence import evidence_of
from services.scoring.domain.lifecycle import stage_at
from services.scoring.domain.reasons import Reasons, reasons_of
from services.scoring.domain.snapshot import Snapshot, buying
from shared.events import Place
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

UNSETTLED = -1
PASSED_KEPT = 8


class Decision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was decided about one customer. Small, msgpack-able; equal decisions have equal bytes.

    `stage`, `stage_since`: "" before the first one · `stage_spell`: key of the last purchase when the stage was last
    entered · `alerts`: open ones, and the closed ones that may still be corrected · `passed`: silences (keys of their
    last purchases) that raise nothing, since they had begun before anything was decided · `settled`: the last instant
    up to which silence is decided, -1 at first; never goes back · `decided_at`: the latest `at` of a transition ·
    `held`: history imports that are not finished; while there is one only bad experience is decided · `version`: of
    the definition the customer is armed with · `places`: leaves that ever changed their customer, as last told.
    """

    stage: str = ""
    stage_since: int = UNSETTLED
    stage_spell: str = ""
    alerts: tuple[Alert, ...] = ()
    passed: tuple[str, ...] = ()
    settled: int = UNSETTLED
    decided_at: int = UNSETTLED
    sequence: int = 0
    held: tuple[str, ...] = ()
    version: int = 0
    places: tuple[Place, ...] = ()

    @property
    def arming(self) -> tuple[Any, ...]:
        """What a due time follows from, beside the evidence and `settled`."""
        return self.version, self.stage, self.stage_spell, self.alerts, self.passed, self.held


INITIAL = Decision()


class Outcome(NamedTuple):
    """The decision from now on, what it emitted in order, and how many silences ended before they were settled."""

    decision: Decision
    transitions: tuple[AnyTransition, ...] = ()
    unsettled_silences: int = 0


class Deciding:
    """One customer under decision: the state so far, what is known, and the transitions written."""

    __slots__ = ("_bought", "decision", "definition", "evidence", "snapshot", "transitions", "unsettled_silences")

    def __init__(self, decision: Decision, snapshot: Snapshot, definition: Definition) -> None:
        self.decision, self.snapshot, self.definition = decision, snapshot, definition
        self.transitions: list[AnyTransition] = []
        self.unsettled_silences = 0
        self.evidence = evidence_of(snapshot, definition)
        self._bought = self.evidence.bought

    @property
    def last_key(self) -> str:
        """Key of the last purchase that counts, which names the present silence; "" without one."""
        return self._bought.last_key if self._bought else ""

    def reading(self) -> Reading:
        """What conditions are asked about: all purchases known, those newer than the instant asked as just made."""
        return self.evidence.reading(self._bought is not None and self._bought.last_key == self.decision.stage_spell)

    def reading_of(self, until: int) -> Reading:
        """The same with the purchases up to `until` only: what was true then, had everything been known."""
        pack = self.definition.pack
        bought = buying(self.snapshot, pack.purchase_trust_min, pack.day_ms, until)
        return Reading(bought, self.snapshot.contract_ended_at, self.definition.model)

    def risk(self, at: int) -> float | None:
        """P(no purchase within the horizon from `at`); None without a purchase."""
        return None if self._bought is None else 1.0 - buys_again(self._bought, self.definition.model, at)

    def change(self, **fields: Any) -> None:
        """Replace fields of the decision."""
        self.decision = msgspec.structs.replace(self.decision, **fields)

    def write_alert(
        self, kind: type[AlertTransition], alert: Alert, at: int, cause: Cause, reasons: Reasons, **more: Any
    ) -> None:
        """Keep `alert` as it is from now on and write its transition."""
        self.change(alerts=kept(self.decision.alerts, alert))
        self._write(kind, at, cause, reasons, alert=alert, **more)

    def restage(self, clock: int, at: int, cause: Cause) -> None:
        """Set the stage that holds at `clock`, stamped `at`; silent when it is the present one."""
        reading = self.reading()
        matched = stage_at(self.definition.pack, reading, clock, self.decision.stage)
        if matched.stage == self.decision.stage:
            if matched.entered and self.decision.stage_spell != self.last_key:
                self.change(stage_spell=self.last_key)
            return
        previous = self.decision.stage
        self.change(stage=matched.stage, stage_since=at, stage_spell=self.last_key)
        reasons = reasons_of(reading, clock, matched.conditions)
        self._write(StageChanged, at, cause, reasons, stage=matched.stage, previous=previous)

    def write_forgotten(self, at: int) -> None:
        """Say that nothing is known of the customer any more, wherever anything was said of them."""
        for topic in (SEGMENT_CHANGES, CHURN_ALERTS):
            self._write(CustomerForgotten, at, ERASED, Reasons(), topic=topic)

    def settle(self, at: int) -> None:
        """Silence is decided up to and including `at`; never goes back."""
        if at > self.decision.settled:
            self.change(settled=at)

    def outcome(self) -> Outcome:
        """What came of it."""
        return Outcome(self.decision, tuple(self.transitions), self.unsettled_silences)

    def _write(self, kind: Any, at: int, cause: Cause, reasons: Reasons, **fields: Any) -> None:
        sequence = self.decision.sequence + 1
        self.change(sequence=sequence, decided_at=max(self.decision.decided_at, at))
        version = self.definition.version
        self.transitions.append(kind(at, sequence, cause, version, reasons.risk, reasons, **fields))
