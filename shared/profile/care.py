"""Care: tickets, calls, complaints and survey answers, each counted once by its business key."""

from typing import Any

import msgspec

from shared.errors import Poison
from shared.events import Touchpoint
from shared.profile.component import (
    Component,
    Occurrence,
    Profile,
    Source,
    join_maps,
    keyed,
    later,
    text_of,
    whole_of,
)
from shared.vocabulary import SCALES

REOPENINGS_KEPT = 16


class Ticket(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`opened_at`, `channel`: earliest opening · `resolved_at`: latest · `reopened_at`: the latest 16, ascending."""

    opened_at: int | None = None
    channel: str = ""
    resolved_at: int | None = None
    reopened_at: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Opened or reopened after it was last resolved; a ticket whose opening was never seen is open if reopened."""
        opened = later(self.opened_at, self.reopened_at[-1] if self.reopened_at else None)
        return opened is not None and (self.resolved_at is None or opened > self.resolved_at)


Tickets = dict[str, Ticket]


def _join_tickets(a: Ticket, b: Ticket) -> Ticket:
    openings = [(side.opened_at, side.channel) for side in (a, b) if side.opened_at is not None]
    opened_at, channel = min(openings, default=(None, ""))
    reopened = tuple(sorted({*a.reopened_at, *b.reopened_at})[-REOPENINGS_KEPT:])
    return Ticket(opened_at, channel, later(a.resolved_at, b.resolved_at), reopened)


def _tickets_merge(a: Tickets, b: Tickets) -> Tickets:
    return join_maps(a, b, _join_tickets)


def _ticket_occurrences(state: Tickets) -> list[Occurrence]:
    found = []
    for ticket in state.values():
        if ticket.opened_at is not None:
            found.append(Occurrence("ticket_opened", ticket.channel, ticket.opened_at, True))
        if ticket.resolved_at is not None:
            found.append(Occurrence("ticket_resolved", "support", ticket.resolved_at, False))
        found += [Occurrence("ticket_reopened", "support", at, True) for at in ticket.reopened_at]
    return found


def _tickets_summary(state: Tickets, at_ms: int) -> dict[str, Any]:
    return {
        "tickets": {
            "count": len(state),
            "open": sum(1 for ticket in state.values() if ticket.is_open),
            "reopened": sum(1 for ticket in state.values() if ticket.reopened_at),
        }
    }


TICKETS: Component[Tickets] = Component(
    "tickets",
    Tickets,
    dict,
    {
        "ticket_opened": keyed(lambda t, trust: Ticket(t.occurred_at, t.channel), _join_tickets),
        "ticket_resolved": keyed(lambda t, trust: Ticket(resolved_at=t.occurred_at), _join_tickets),
        "ticket_reopened": keyed(lambda t, trust: Ticket(reopened_at=(t.occurred_at,)), _join_tickets),
    },
    _tickets_merge,
    _tickets_summary,
    {"ticket_opened": "", "ticket_resolved": "", "ticket_reopened": ""},
    _ticket_occurrences,
    {"tickets.*": Source.ADDS},
)


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`at`, `channel`: of the earliest report · `direction`: in, out or "" · `duration_seconds`: the longest."""

    at: int
    channel: str
    direction: str
    answered: bool
    duration_seconds: int


Calls = dict[str, Call]


def _call_of(touchpoint: Touchpoint, trust: int) -> Call:
    properties = touchpoint.properties
    return Call(
        touchpoint.occurred_at,
        touchpoint.channel,
        text_of(properties, "direction"),
        bool(properties.get("answered")),
        whole_of(properties, "duration_seconds") or 0,
    )


def _join_calls(a: Call, b: Call) -> Call:
    at, channel = min((a.at, a.channel), (b.at, b.channel))
    duration_seconds = max(a.duration_seconds, b.duration_seconds)
    return Call(at, channel, max(a.direction, b.direction), a.answered or b.answered, duration_seconds)


def _calls_merge(a: Calls, b: Calls) -> Calls:
    return join_maps(a, b, _join_calls)


def _call_occurrences(state: Calls) -> list[Occurrence]:
    return [Occurrence("call_made", c.channel, c.at, c.answered or c.direction == "in") for c in state.values()]


def _calls_summary(state: Calls, at_ms: int) -> dict[str, Any]:
    calls = state.values()
    return {
        "calls": {
            "count": len(calls),
            "in": sum(1 for call in calls if call.direction == "in"),
            "out": sum(1 for call in calls if call.direction == "out"),
            "answered": sum(1 for call in calls if call.answered),
            "duration_seconds": sum(call.duration_seconds for call in calls),
        }
    }


CALLS: Component[Calls] = Component(
    "calls",
    Calls,
    dict,
    {"call_made": keyed(_call_of, _join_calls)},
    _calls_merge,
    _calls_summary,
    {"call_made": ""},
    _call_occurrences,
    {"calls.*": Source.ADDS},
)


class Complaint(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """The earliest report of a complaint."""

    at: int
    channel: str


Complaints = dict[str, Complaint]


def _complaints_merge(a: Complaints, b: Complaints) -> Complaints:
    return join_maps(a, b, min)


def _complaint_occurrences(state: Complaints) -> list[Occurrence]:
    return [Occurrence("complained", complaint.channel, complaint.at, True) for complaint in state.values()]


def _complaints_summary(state: Complaints, at_ms: int) -> dict[str, Any]:
    last_at = max((complaint.at for complaint in state.values()), default=None)
    return {"complaints": {"count": len(state), "last_at": last_at}}


COMPLAINTS: Component[Complaints] = Component(
    "complaints",
    Complaints,
    dict,
    {"complained": keyed(lambda t, trust: Complaint(t.occurred_at, t.channel), min)},
    _complaints_merge,
    _complaints_summary,
    {"complained": ""},
    _complaint_occurrences,
    {"complaints.count": Source.ADDS, "complaints.last_at": Source.SAID},
)


class Survey(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """A survey answer by its last writer, the greatest (occurred_at, id, ...). `score` is on its metric's own scale."""

    at: int
    id: bytes
    metric: str
    score: int
    channel: str


Surveys = dict[str, Survey]


def _survey_of(touchpoint: Touchpoint, trust: int) -> Survey:
    metric, score = text_of(touchpoint.properties, "metric"), whole_of(touchpoint.properties, "score")
    if metric not in SCALES or score is None:
        raise Poison("a survey answer needs a known metric and a score")
    return Survey(touchpoint.occurred_at, touchpoint.id, metric, score, touchpoint.channel)


def _surveys_merge(a: Surveys, b: Surveys) -> Surveys:
    return join_maps(a, b, max)


def _survey_occurrences(state: Surveys) -> list[Occurrence]:
    return [Occurrence("survey_answered", survey.channel, survey.at, True) for survey in state.values()]


def _surveys_summary(state: Surveys, at_ms: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for metric in SCALES:
        answers = sorted(survey for survey in state.values() if survey.metric == metric)
        if answers:
            mean = round(sum(survey.score for survey in answers) / len(answers), 2)
            latest = answers[-1]
            shown[metric] = {"count": len(answers), "latest": latest.score, "latest_at": latest.at, "mean": mean}
    return {"surveys": shown}


SURVEYS: Component[Surveys] = Component(
    "surveys",
    Surveys,
    dict,
    {"survey_answered": keyed(_survey_of, max)},
    _surveys_merge,
    _surveys_summary,
    {"survey_answered": ""},
    _survey_occurrences,
    {
        "surveys.*.count": Source.ADDS,
        "surveys.*.mean": Source.MEAN,
        "surveys.*.latest": Source.SAID,
        "surveys.*.latest_at": Source.SAID,
    },
)


def tickets(profile: Profile) -> list[tuple[str, Ticket]]:
    """(business key, ticket), by first known time, then key."""
    found = TICKETS.of(profile).items()
    return sorted(found, key=lambda item: (_ticket_known_at(item[1]), item[0]))


def _ticket_known_at(ticket: Ticket) -> int:
    times = [ticket.opened_at, ticket.resolved_at, *ticket.reopened_at]
    return min(at for at in times if at is not None)


def calls(profile: Profile) -> list[tuple[str, Call]]:
    """(business key or `id:<hex>`, call), by time, then key."""
    return sorted(CALLS.of(profile).items(), key=lambda item: (item[1].at, item[0]))


def complaints(profile: Profile) -> list[tuple[str, Complaint]]:
    """(business key or `id:<hex>`, complaint), by time, then key."""
    return sorted(COMPLAINTS.of(profile).items(), key=lambda item: (item[1].at, item[0]))


def surveys(profile: Profile) -> list[tuple[str, Survey]]:
    """(business key or `id:<hex>`, answer), by time, then key."""
    return sorted(SURVEYS.of(profile).items(), key=lambda item: (item[1].at, item[0]))
