"""Events as scoring writes them become lines that say who, when, how likely and why."""

import msgspec

from services.cli import said
from services.cli.printing import moment, percent
from services.cli.tail import line
from services.scoring.domain.alerts import BAD_EXPERIENCE, SILENCE, TIME, Alert, AlertRaised, Cause, StageChanged
from services.scoring.domain.emitting import cloud_event
from services.scoring.domain.reasons import Reasons
from shared.events import SECRET, FactRef

AT_MS = 1_700_000_000_123
CUSTOMER = bytes(16)
DAY_MS = 86_400_000


def an_alert(policy: str, reasons: Reasons, cause: Cause) -> said.Data:
    alert = Alert(
        id=bytes(16),
        policy=policy,
        kind="purchased",
        key="order:7",
        leaf=CUSTOMER,
        opened_at=AT_MS - 90 * DAY_MS,
        crossed_at=AT_MS,
        raised_at=AT_MS,
        expires_at=AT_MS + DAY_MS,
        version=1,
        risk=0.583,
    )
    raised = AlertRaised(AT_MS, 1, cause, 1, 0.583, reasons, alert)
    return dict(msgspec.json.decode(cloud_event("main", CUSTOMER, raised, AT_MS + 5)))


def test_a_silence_says_how_long_and_against_what() -> None:
    reasons = Reasons(
        risk=0.583, orders=7, silence_ms=100 * DAY_MS, usual_gap_ms=33 * DAY_MS, rhythm=0.8, clears=("purchased",)
    )
    event = an_alert(SILENCE, reasons, TIME)
    assert said.opening_key(event) == "order:7"
    assert said.crossed_at_ms(event) == AT_MS
    words = line(event).plain
    assert "alert.raised" in words
    assert "risk 58 %" in words
    assert words.endswith("silent for 100.0 d, usual gap 33.0 d, cleared by purchased")


def test_a_bad_experience_says_which_fact() -> None:
    fact = FactRef(bytes(16), CUSTOMER, "survey_answered", AT_MS, SECRET, score=2)
    event = an_alert(BAD_EXPERIENCE, Reasons(facts=(fact,)), Cause("facts", (fact.id,)))
    assert said.why(said.data_of(event)) == "because of survey_answered 2"


def test_a_change_of_stage_says_from_where_to_where() -> None:
    changed = StageChanged(AT_MS, 2, TIME, 1, None, Reasons(), "new", "")
    event = msgspec.json.decode(cloud_event("main", CUSTOMER, changed, AT_MS))
    assert "nobody → new" in line(event).plain


def test_times_and_shares_for_people() -> None:
    assert moment(0) == "1970-01-01 00:00:00"
    assert moment("2026-01-01T03:30:00+03:30") == "2026-01-01 00:00:00"
    assert moment(None) == moment("") == percent(None) == ""
