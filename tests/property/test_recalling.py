"""Decisions made again from what was said, with every profile told again: the rows that were, and not a word more."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.decide import ChangesProjection
from services.scoring.domain.alerts import OPEN
from services.scoring.domain.definitions import Definition
from services.scoring.domain.rows import DecisionRow
from services.scoring.domain.step import Rules
from services.scoring.domain.watermark import Heard
from shared import profile as profiles
from shared.checkpoint import Claim
from shared.clock import FrozenClock
from shared.codec import encode
from shared.events import REPUBLISHING, SECRET, Fact, ProfileChanged, Statement, Touchpoint, WatermarkStated
from shared.log.port import Batch, Record
from shared.topics import PROFILE_CHANGES
from shared.vocabulary import fact_ref
from tests.builders import NOON_MS, a_leaf, a_touchpoint
from tests.simulation.driving import run
from tests.simulation.memory_scoring import MemoryScoring
from tests.simulation.rules import BY_MODEL, FIXED, UTC, definition
from tests.support.recalling import recalled

WHO = a_leaf("ana")
KINDS = ("purchased", "purchased", "page_viewed", "complained", "praised")
steps = st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=10)


class Worker:
    """One scoring worker of one partition, in memory."""

    def __init__(self, rules: list[str]) -> None:
        self.database, self.clock = MemoryScoring(1), FrozenClock(NOON_MS)
        self._definitions: list[Definition] = [definition(1, 0, rules)]
        self.heard = Heard(1)
        self.projection = ChangesProjection(
            self.database, self.clock, 1, lambda _: Rules(self._definitions, UTC), lambda: 0.0, self.heard
        )
        self.claim: Claim = run(self.database.acquire(PROFILE_CHANGES, 0, "memory"))

    def fold(self, fact: Fact) -> None:
        """Read one change."""
        record = Record(self.claim.position, self.clock.now_ms(), encode(fact))
        self.claim = run(self.projection.fold(self.claim, Batch((record,), record.position + 1)))

    def reach(self, watermark: int) -> None:
        """Everything recorded up to `watermark` is read: take what fell due."""
        self.clock.advance(max(1_001, watermark - self.clock.now_ms()))
        self.claim = run(self.projection.turn(self.claim))  # acquired anew, it hears anew
        self.heard.hear(WatermarkStated((Statement(0, self.claim.position),), (watermark,)))
        self.claim = run(self.projection.turn(self.claim))

    @property
    def said(self) -> list[bytes]:
        """Every CloudEvent, in order."""
        return [row.value for _, row in sorted(self.database.tables["journal"].items())]

    @property
    def row(self) -> DecisionRow:
        """The customer's row."""
        found: DecisionRow = self.database.tables["decision"][WHO]
        return found


def touched(kind: str, at: int, number: int) -> Touchpoint:
    """One touchpoint of the customer."""
    if kind == "purchased":
        return a_touchpoint(kind, at=at, leaf=WHO, order_id=f"o{number}", amount=5, currency="EUR")
    if kind == "praised":
        return a_touchpoint("survey_answered", at=at, leaf=WHO, metric="nps", score=10)
    return a_touchpoint(kind, at=at, leaf=WHO, id=f"{kind}{number}")


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1_000, 200_000), st.sampled_from([FIXED, BY_MODEL]))
def test_what_was_said_and_profiles_told_again_give_the_rows_that_were(
    lived: list[tuple[int, str, bool]], rest: int, rules: list[str]
) -> None:
    live, state, now, change = Worker(rules), profiles.new(), NOON_MS, None
    live.reach(now)
    for number, (pause, kind, is_late) in enumerate(lived):
        now += pause
        live.reach(now)
        touchpoint = touched(kind, now - (pause // 2 if is_late else 0), number)
        profiles.fold(state, touchpoint, "shop", SECRET)
        refs = (fact_ref(touchpoint, SECRET),)
        change = ProfileChanged("main", WHO, number + 1, now, profiles.encode(state), refs)
        live.fold(change)
    assert change is not None
    live.reach(now + rest)

    made = Worker(rules)
    rows, alerts = recalled([*live.said, *live.said[::-1]], 1)
    made.database.tables |= {"decision": rows, "alert": alerts}
    made.reach(now + rest)
    again = ProfileChanged("main", WHO, change.version, now, change.state, import_id=REPUBLISHING + "r")
    made.fold(again)
    assert made.said == []
    made.reach(now + rest)
    assert made.said == []
    was, is_now = live.row, made.row
    assert (is_now.decision.stage, is_now.decision.sequence) == (was.decision.stage, was.decision.sequence)
    assert (is_now.decision.alerts, is_now.due_at) == (was.decision.alerts, was.due_at)
    assert [alert for alert in is_now.decision.alerts if alert.state == OPEN] == [
        alert for alert in was.decision.alerts if alert.state == OPEN
    ]
    assert made.database.tables["alert"] == live.database.tables["alert"]
