"""The judge is judged: each check of a chaos run finds the fault it is there for, planted by hand."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import verdict
from tests.chaos.load import Item, Ledger
from tests.chaos.verdict import Bought
from tests.e2e.evidence import Event

FIRST, SECOND = (f"0190163d-8694-739b-aea5-966c26f8ad9{n}" for n in (1, 2))
SILENCE_MS = 4_000


def ledger(*ids: str) -> Ledger:
    """One person with an order for each acknowledged id."""
    made = Ledger()
    for n, identity in enumerate(ids):
        body = {"kind": "purchased", "occurred_at": 1_000 * n, "properties": {"order_id": f"o-{n}"}}
        made.acknowledge(Item(f"i-{n}", 0, "key", body), identity)
    return made


def raw(identity: str) -> bytes:
    return bytes.fromhex(identity.replace("-", ""))


def alert(revision: int = 1, crossed_at: int = 9_000, **more: Any) -> Event:
    data = {"alert_id": "A", "revision": revision, "policy": "silence", "key": "order:o-1", "state": "open"}
    body = {"id": f"e-{revision}", "subject": "c", "sequence": revision, "type": "raftar.alert.raised"}
    body["data"] = data | {"crossed_at": crossed_at, "raised_at": crossed_at, "emitted_at": crossed_at + 10} | more
    return Event("churn-alerts", (0, revision), body, json.dumps(body).encode())


def listed(event: Event) -> dict[str, Any]:
    data = event.data
    return {"alert_id": "A", "revision": data["revision"], "state": data["state"], "event": event.body}


REPORTS = [Bought("order:o-0", 1_000, 1_010), Bought("order:o-1", 5_000, 5_010)]
"""Bought at 1 s and at 5 s: silent from 9 s on."""


def test_a_house_without_fault_is_found_without_fault() -> None:
    told = ledger(FIRST, SECOND)
    events = [alert()]
    view = {0: {"profile": {"counts": {}, "orders": {"count": 2}}}}
    assert verdict.in_the_log(told, {raw(FIRST), raw(SECOND)}) == []
    assert verdict.folded_once(told, [raw(FIRST), raw(SECOND)]) == []
    assert verdict.counted_once(told, {0: [0]}, view) == []
    assert verdict.consistent(events, [listed(events[0])]) == []
    assert verdict.no_false_alert(events, {"order:o-1": REPORTS}, SILENCE_MS) == []
    assert verdict.final_silences({0: REPORTS}, [listed(events[0])], SILENCE_MS, 20_000) == []


FAULTS: dict[str, Callable[[], list[str]]] = {
    "an acknowledged touchpoint is not in the log": lambda: verdict.in_the_log(ledger(FIRST, SECOND), {raw(FIRST)}),
    "one is not folded": lambda: verdict.folded_once(ledger(FIRST, SECOND), [raw(FIRST)]),
    "one is folded twice": lambda: verdict.folded_once(ledger(FIRST), [raw(FIRST), raw(FIRST)]),
    "one nobody acknowledged is folded": lambda: verdict.folded_once(ledger(FIRST), [raw(FIRST), raw(SECOND)]),
    "an order counts twice": lambda: verdict.counted_once(
        ledger(FIRST), {0: [0]}, {0: {"profile": {"counts": {}, "orders": {"count": 2}}}}
    ),
    "a revision is left out": lambda: verdict.consistent([alert(1), alert(3)], [listed(alert(3))]),
    "REST is behind the topic": lambda: verdict.consistent([alert(1), alert(2)], [listed(alert(1))]),
    "an alert is only in REST": lambda: verdict.consistent([], [listed(alert())]),
    "one id says two things": lambda: verdict.consistent([alert(1), alert(1, state="recovered")], [listed(alert(1))]),
    "sequences run back": lambda: verdict.consistent([alert(2), alert(1)], [listed(alert(2))]),
    "an alert for somebody who bought": lambda: verdict.no_false_alert(
        [alert(crossed_at=8_999)], {"order:o-1": REPORTS}, SILENCE_MS
    ),
    "an alert before its crossing": lambda: verdict.no_false_alert(
        [alert(emitted_at=8_999)], {"order:o-1": REPORTS}, SILENCE_MS
    ),
    "an alert raised late without what was read till then": lambda: verdict.no_false_alert(
        [alert(crossed_at=5_000, raised_at=5_500, key="order:o-0")], {"order:o-0": REPORTS}, SILENCE_MS
    ),
    "an alert said before it was raised, by the log's clock": lambda: verdict.no_false_alert(
        [alert(raised_at=9_500)], {"order:o-1": REPORTS}, SILENCE_MS, verdict.said_by_the_log
    ),
    "a silence nobody was told of": lambda: verdict.final_silences({0: REPORTS}, [], SILENCE_MS, 20_000),
    "one silence, two open alerts": lambda: verdict.final_silences(
        {0: REPORTS}, [listed(alert()), listed(alert())], SILENCE_MS, 20_000
    ),
    "a crossing a millisecond off": lambda: verdict.final_silences(
        {0: REPORTS}, [listed(alert(crossed_at=9_001))], SILENCE_MS, 20_000
    ),
    "an open alert for somebody who came back": lambda: verdict.final_silences(
        {0: REPORTS}, [listed(alert())], SILENCE_MS, 8_000
    ),
    "a buyer nobody heard of": lambda: verdict.nobody_stranded([], {b"c"}),
    "a buyer who is not armed": lambda: verdict.nobody_stranded(
        [SimpleNamespace(customer=b"c", parked="", due_at=None, absorbed_into=b"")], {b"c"}
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    assert FAULTS[fault]()
