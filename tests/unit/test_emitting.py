"""What leaves scoring is CloudEvents 1.0 in JSON; the bytes of one event of each type are kept for ever.

`python -m tests.unit.test_emitting` writes the file of an event that has none yet; a file that is there is never
rewritten.
"""

import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from services.scoring.domain.alerts import (
    Alert,
    AlertAcknowledged,
    AlertAmended,
    AlertExpired,
    AlertJudged,
    AlertRaised,
    AlertRecovered,
    AlertRetracted,
    AnyTransition,
    Cause,
    CustomerForgotten,
    StageChanged,
    alert_id,
)
from services.scoring.domain.decision import Decision
from services.scoring.domain.emitting import carried_of, cloud_event, topic_of
from services.scoring.domain.reasons import Met, Part, Reasons
from services.scoring.domain.rows import DecisionRow
from shared.events import SECRET, FactRef, Place
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES

GOLDEN = Path(__file__).parent.parent / "golden" / "events"

AT, CUSTOMER, FACT = 1_700_000_000_123, bytes(range(16)), b"f" * 16
REASONS = Reasons(
    risk=0.625,
    parts=(Part("base", 0.25), Part("silence", 0.5), Part("rate", -0.125)),
    conditions=(Met("p_buy < 0.5", 0.375), Met("rhythm >= 0.8", None)),
    orders=3,
    silence_ms=86_400_000,
    usual_gap_ms=43_200_000,
    rhythm=0.875,
    facts=(FactRef(FACT, CUSTOMER, "survey_answered", AT - 5, SECRET, "response:9", 2, "survey", "csat"),),
    clears=("purchased",),
)
ALERT = Alert(
    alert_id("main", "silence", "order:1001", "purchased"), "silence", "purchased", "order:1001", CUSTOMER,
    AT - 86_400_000, AT - 7, AT, AT + 86_400_000, 2, 0.625, "order:1001",
)  # fmt: skip
SEEN = msgspec.structs.replace(ALERT, revision=2, acknowledged_at=AT)
CLOSED = msgspec.structs.replace(ALERT, revision=2, state="recovered", closed_at=AT)


def _alert(kind: type, alert: Alert, **more: str) -> AnyTransition:
    made: AnyTransition = kind(AT, 7, Cause("facts", (FACT,)), 2, 0.625, REASONS, alert=alert, **more)
    return made


TRANSITIONS: dict[str, AnyTransition] = {
    "segment.changed": StageChanged(AT, 7, Cause("time"), 2, 0.625, REASONS, stage="at_risk", previous="active"),
    "alert.raised": _alert(AlertRaised, ALERT),
    "alert.amended": _alert(AlertAmended, msgspec.structs.replace(ALERT, revision=2)),
    "alert.retracted": _alert(AlertRetracted, msgspec.structs.replace(CLOSED, state="retracted", risk=None)),
    "alert.recovered": _alert(AlertRecovered, CLOSED),
    "alert.expired": _alert(AlertExpired, msgspec.structs.replace(CLOSED, state="expired")),
    "alert.judged": _alert(AlertJudged, msgspec.structs.replace(CLOSED, state="judged"), verdict="false_alarm"),
    "alert.acknowledged": _alert(AlertAcknowledged, SEEN),
    "customer.erased": CustomerForgotten(AT, 7, Cause("erased"), 2, None, Reasons(), topic=SEGMENT_CHANGES),
}


def event_of(name: str) -> bytes:
    """The event of the example of this name."""
    return cloud_event("main", CUSTOMER, TRANSITIONS[name], AT + 9)


DECIDED = DecisionRow(CUSTOMER, "main", 5, 12, decision=Decision(
    "at_risk", AT, "order:1001", (ALERT,), ("order:7",), AT - 1, AT, 7, ("import-1",), 2, (Place(CUSTOMER, 3),)
))  # fmt: skip
CARRYING = ("segment.changed", "alert.raised")


def carrying(name: str) -> bytes:
    """The event with what a rebuild needs."""
    carried = carried_of(DECIDED, TRANSITIONS[name], moves=3, read=(5, 42))
    return cloud_event("main", CUSTOMER, TRANSITIONS[name], AT + 9, carried)


@pytest.mark.parametrize("name", CARRYING)
def test_bytes_with_what_a_rebuild_needs_are_golden(name: str) -> None:
    assert carrying(name) == (GOLDEN / f"{name}.carried.json").read_bytes().rstrip(b"\n")


@pytest.mark.parametrize("name", TRANSITIONS)
def test_bytes_are_golden(name: str) -> None:
    assert event_of(name) == (GOLDEN / f"{name}.json").read_bytes().rstrip(b"\n")


@pytest.mark.parametrize("name", TRANSITIONS)
def test_it_is_a_cloud_event(name: str) -> None:
    """The required attributes of CloudEvents 1.0, in the forms its JSON format asks for."""
    event = json.loads(event_of(name))
    assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
    assert event["type"] == f"raftar.{name}"
    assert (event["source"], event["subject"], event["workspace"]) == ("raftar/scoring/main", CUSTOMER.hex(), "main")
    assert all(key.isalnum() and key.islower() and len(key) <= 20 for key in event if key != "data")
    assert round(datetime.fromisoformat(event["time"]).timestamp() * 1000) == event["data"]["at"] == AT
    assert event["data"]["emitted_at"] == AT + 9
    on_segments = name in ("segment.changed", "customer.erased")
    assert topic_of(TRANSITIONS[name]) == (SEGMENT_CHANGES if on_segments else CHURN_ALERTS)


@pytest.mark.parametrize("name", sorted(TRANSITIONS.keys() - {"customer.erased"}))
def test_its_reasons_add_up(name: str) -> None:
    event = json.loads(event_of(name))
    assert sum(part["amount"] for part in event["data"]["reasons"]["parts"]) == event["data"]["risk"]


def test_an_id_is_stable_and_each_decision_has_its_own() -> None:
    """When it is said changes nothing about the id; what is said does."""
    ids = {json.loads(event_of(name))["id"] for name in TRANSITIONS}
    assert len(ids) == len(TRANSITIONS)
    raised = TRANSITIONS["alert.raised"]
    again = cloud_event("main", CUSTOMER, msgspec.structs.replace(raised, sequence=9), AT + 77)
    assert json.loads(again)["id"] == json.loads(event_of("alert.raised"))["id"]
    assert json.loads(cloud_event("other", CUSTOMER, raised, AT))["id"] not in ids
    stage = msgspec.structs.replace(TRANSITIONS["segment.changed"], sequence=8)
    assert json.loads(cloud_event("main", CUSTOMER, stage, AT))["id"] not in ids


@pytest.mark.parametrize("at", [0, 1, 999, 1_700_000_000_001, 1_700_000_000_999, 4_102_444_800_007])
def test_times_are_exact_to_the_millisecond(at: int) -> None:
    event = json.loads(cloud_event("main", CUSTOMER, msgspec.structs.replace(TRANSITIONS["segment.changed"], at=at), 0))
    assert event["time"].endswith(f".{at % 1000:03}Z")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    wanted = {known: event_of(known) for known in TRANSITIONS} | {
        f"{known}.carried": carrying(known) for known in CARRYING
    }
    for known, body in wanted.items():
        path = GOLDEN / f"{known}.json"
        if not path.exists():
            path.write_bytes(body + b"\n")
