"""What must hold when all is quiet: each check names every contradiction between ledger, log, rows and REST."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from shared.ids import uuid_text
from tests.chaos.load import Ledger
from tests.e2e.evidence import Event

SILENCE, BAD_EXPERIENCE = "silence", "bad_experience"
SHOWN_MAX = 12
LOST, DOUBLED = "lost:", "doubled:"
"""How a contradiction begins that is a loss, or a repetition that counted."""


@dataclass(frozen=True, slots=True)
class Bought:
    """One report of an order: its key, when it happened, when it counts as recorded (ms)."""

    key: str
    occurred_at: int
    recorded_at: int


def in_the_log(ledger: Ledger, logged: Set[bytes]) -> list[str]:
    """acknowledged ⊆ log: what the door took lies in the log, under the id it gave. `logged`: every id in it."""
    there = {uuid_text(identity) for identity in logged}
    lost = [f"{LOST} {item} ({identity})" for item, identity in ledger.ids.items() if identity not in there]
    return [*lost, *(f"another id at a retry: {text}" for text in ledger.contradictions)]


def folded_once(ledger: Ledger, folded: Iterable[bytes]) -> list[str]:
    """Rows of touchpoints = distinct acknowledged ones. `folded`: one id for each row."""
    counted = Counter(uuid_text(identity) for identity in folded)
    expected = Counter(ledger.ids.values())
    lost = [f"{LOST} acknowledged, not folded: {identity}" for identity in expected - counted]
    doubled = [f"{DOUBLED} folded more often than acknowledged: {identity}" for identity in counted - expected]
    return lost + doubled


def counted_once(ledger: Ledger, people: Mapping[int, Sequence[int]], views: Mapping[int, dict[str, Any]]) -> list[str]:
    """REST counts of each customer = the ledger's. `people`: customer's first person → all persons who are they."""
    wrong: list[str] = []
    for person, persons in people.items():
        profile = views[person]["profile"]
        shown = {kind: sum(channels.values()) for kind, channels in profile["counts"].items()}
        told = {"page_viewed": shown.get("page_viewed", 0), "orders": profile["orders"]["count"]}
        expected = {
            "page_viewed": sum(ledger.counts[one, "page_viewed"] for one in persons),
            "orders": sum(len(ledger.orders(one)) for one in persons),
        }
        wrong += [
            f"{LOST if told[name] < count else DOUBLED} person {person}: {told[name]} {name}, the ledger has {count}"
            for name, count in expected.items()
            if told[name] != count
        ]
    return wrong


# --- decisions ----------------------------------------------------------------------------------------------


def consistent(events: Sequence[Event], listed: Sequence[dict[str, Any]]) -> list[str]:
    """The topics by themselves, and REST beside them: one id has one body, nothing is left out, REST shows the last.

    Revisions of an alert run 1, 2, 3 …; a stage follows the one before it. `listed`: alerts as REST lists them.
    """
    wrong = _bodies(events)
    latest: dict[str, Event] = {}
    revisions: dict[str, set[int]] = defaultdict(set)
    for event in events:
        if "alert_id" not in event.data:
            continue
        identity, revision = event.data["alert_id"], event.data["revision"]
        revisions[identity].add(revision)
        if identity not in latest or revision > latest[identity].data["revision"]:
            latest[identity] = event
    wrong += [
        f"alert {identity} has revisions {sorted(seen)}"
        for identity, seen in revisions.items()
        if seen != set(range(1, len(seen) + 1))
    ]
    shown = {one["alert_id"]: one for one in listed}
    wrong += [f"alert {identity} is on the topic, not in REST" for identity in latest.keys() - shown.keys()]
    wrong += [f"alert {identity} is in REST, not on the topic" for identity in shown.keys() - latest.keys()]
    for identity in latest.keys() & shown.keys():
        told, rest = latest[identity].data, shown[identity]
        if (told["revision"], told["state"]) != (rest["revision"], rest["state"]):
            wrong.append(
                f"alert {identity}: topic {told['revision']} {told['state']}, REST {rest['revision']} {rest['state']}"
            )
    return wrong


def _bodies(events: Sequence[Event]) -> list[str]:
    wrong: list[str] = []
    bodies: dict[str, bytes] = {}
    sequences: dict[tuple[str, str], int] = defaultdict(int)
    stages: dict[str, str] = defaultdict(str)
    for event in events:
        identity, subject = event.body["id"], event.body["subject"]
        if identity in bodies:
            if bodies[identity] != event.value:
                wrong.append(f"event {identity} was said twice, differently")
            continue
        bodies[identity] = event.value
        sequence = int(event.body["sequence"])
        if sequence <= sequences[event.topic, subject]:
            wrong.append(f"{subject}: sequence {sequence} after {sequences[event.topic, subject]}")
        sequences[event.topic, subject] = sequence
        if "stage" in event.data:
            if event.data["previous"] not in (stages[subject], ""):
                wrong.append(f"{subject}: {event.data['previous']} → {event.data['stage']} after {stages[subject]!r}")
            stages[subject] = event.data["stage"]
    return wrong


SaidAt = Callable[[Event], int]


def said_by_the_log(event: Event) -> int:
    """When the log took it, by the log's own clock."""
    return event.recorded_at


def said_by_its_own_clock(event: Event) -> int:
    """When scoring says that it said it."""
    at: int = event.data["emitted_at"]
    return at


def no_false_alert(
    events: Sequence[Event],
    bought: Mapping[str, Sequence[Bought]],
    silence_ms: int,
    said_at: SaidAt | None = said_by_its_own_clock,
) -> list[str]:
    """A silence is raised at R only where all that was recorded up to R shows no purchase in (crossing − silence, R].

    The opening purchase itself may have been recorded later: facts are judged at once, and one that reached the log
    after its own silence had crossed (a retry through a long outage) opens one in the past. `bought`: opening key →
    every report of the same person · `said_at`: a clock to be believed (None: there is none), which shows that nothing
    was said too early.
    """
    wrong: list[str] = []
    for event in events:
        data = event.data
        if event.body["type"] != "raftar.alert.raised" or data["policy"] != SILENCE:
            continue
        crossed_at, raised_at = data["crossed_at"], data["raised_at"]
        reports = bought.get(data["key"], ())
        opening = [one for one in reports if one.key == data["key"]]
        known = [*(one for one in reports if one.recorded_at <= raised_at), *opening]
        times = _order_times(known)
        active = [f"{key} at {at}" for key, at in times.items() if crossed_at - silence_ms < at <= raised_at]
        if active or not opening:
            wrong.append(f"false: {data['key']} crossed at {crossed_at}, but {active or 'nobody bought it'}")
        if raised_at < crossed_at or (said_at is not None and said_at(event) < raised_at):
            wrong.append(f"early: {data['key']} crossed at {crossed_at}, raised at {raised_at}")
    return wrong


def final_silences(
    customers: Mapping[int, Sequence[Bought]], listed: Sequence[dict[str, Any]], silence_ms: int, now_ms: int
) -> list[str]:
    """At the end each customer has exactly one open silence alert if the last purchase is that long ago, else none.

    The alert may have opened with an earlier purchase: late evidence moves its crossing, it stays the same alert.
    """
    wrong: list[str] = []
    opened = _open(listed, SILENCE)
    for person, reports in customers.items():
        keys = {one.key for one in reports}
        mine = [data["crossed_at"] for data in opened if data["key"] in keys]
        last_at = max(_order_times(reports).values(), default=None)
        expected = [] if last_at is None or last_at + silence_ms > now_ms else [last_at + silence_ms]
        if mine != expected:
            wrong.append(f"person {person}: open silences crossed at {mine}, the truth is {expected}")
    known = {one.key for reports in customers.values() for one in reports}
    wrong += [f"nobody's silence: {data['key']}" for data in opened if data["key"] not in known]
    return wrong


def _order_times(reports: Iterable[Bought]) -> dict[str, int]:
    """When each order was: the earliest of its reports."""
    first: dict[str, int] = {}
    for one in reports:
        first[one.key] = min(one.occurred_at, first.get(one.key, one.occurred_at))
    return first


def complaints_told(ledger: Ledger, listed: Sequence[dict[str, Any]]) -> list[str]:
    """Each complaint has its alert, once."""
    complained = {
        "id:" + ledger.ids[name].replace("-", "") for name, one in ledger.told.items() if one.kind == "complained"
    }
    alerted = Counter(one["event"]["data"]["key"] for one in listed if one["event"]["data"]["policy"] == BAD_EXPERIENCE)
    missing = [f"no alert for complaint {key}" for key in complained - alerted.keys()]
    more = [f"{count} alerts for {key}" for key, count in alerted.items() if count > 1 or key not in complained]
    return missing + more


def nobody_stranded(decisions: Iterable[Any], silent: Set[bytes]) -> list[str]:
    """Every customer who bought is known and armed, none is parked. `decisions`: rows of scoring."""
    wrong: list[str] = []
    known: set[bytes] = set()
    for row in decisions:
        customer = row.customer.hex()
        known.add(row.customer)
        if row.parked:
            wrong.append(f"{customer} is parked: {row.parked}")
        if row.customer in silent and row.due_at is None and not row.absorbed_into:
            wrong.append(f"{customer} bought, and nothing is due")
    return wrong + [f"{customer.hex()} bought, and scoring never heard of it" for customer in sorted(silent - known)]


def _open(listed: Sequence[dict[str, Any]], policy: str) -> list[dict[str, Any]]:
    found = [one["event"]["data"] for one in listed]
    return [data for data in found if data["policy"] == policy and data["state"] == "open"]


def shown(wrong: Mapping[str, Sequence[str]]) -> str:
    """Every check that failed with its first contradictions; "" when none did."""
    lines: list[str] = []
    for check, found in wrong.items():
        if found:
            lines += [f"{check}: {len(found)} contradictions", *(f"   {text}" for text in found[:SHOWN_MAX])]
    return "\n".join(lines)
