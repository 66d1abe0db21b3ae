"""What people and rules read of a profile as a whole: counts, activity, bad experience, and the summary for REST."""

from typing import Any

import msgspec

from shared.ids import DAY_MS
from shared.profile import histogram
from shared.profile.care import complaints, surveys, tickets
from shared.profile.component import Occurrence, Profile
from shared.profile.state import BEHAVIOUR, COMPONENTS
from shared.vocabulary import CSAT_LOW, NPS_LOW

_LOW = {"csat": CSAT_LOW, "nps": NPS_LOW}


class BadExperience(msgspec.Struct, frozen=True, order=True):
    """`reason`: complaint, csat, nps, ticket_reopened or cancellation_intended · `key`: business key or `id:<hex>`."""

    at: int
    reason: str
    key: str
    score: int | None = None


def is_low(metric: str, score: int) -> bool:
    """Whether a survey answer is a bad experience: CSAT up to 2, NPS up to 6. Effort (CES) never is."""
    return metric in _LOW and score <= _LOW[metric]


def bad_experience(profile: Profile) -> list[BadExperience]:
    """Every bad experience the state knows, by time.

    Complaints, low survey answers and the latest 16 reopenings of each ticket one by one; of intended cancellations,
    which are only counted, the latest of each channel.
    """
    found = [BadExperience(complaint.at, "complaint", key) for key, complaint in complaints(profile)]
    for key, survey in surveys(profile):
        if is_low(survey.metric, survey.score):
            found.append(BadExperience(survey.at, survey.metric, key, survey.score))
    for key, ticket in tickets(profile):
        found += [BadExperience(at, "ticket_reopened", key) for at in ticket.reopened_at]
    intended = BEHAVIOUR.of(profile).tallies.get("cancellation_intended", {})
    found += [BadExperience(tally.last_at, "cancellation_intended", "") for tally in intended.values()]
    return sorted(found, key=lambda bad: (bad.at, bad.reason, bad.key))


def occurrences(profile: Profile) -> list[Occurrence]:
    """What the keyed maps know to have happened once each, unordered."""
    return [seen for component in COMPONENTS for seen in component.occurrences(component.of(profile))]


def counts(profile: Profile) -> dict[str, dict[str, int]]:
    """Kind → channel → how often, keyed facts once each, by name."""
    found: dict[str, dict[str, int]] = {
        kind: {channel: tally.count for channel, tally in channels.items()}
        for kind, channels in BEHAVIOUR.of(profile).tallies.items()
    }
    for seen in occurrences(profile):
        channels = found.setdefault(seen.kind, {})
        channels[seen.channel] = channels.get(seen.channel, 0) + 1
    return {kind: dict(sorted(channels.items())) for kind, channels in sorted(found.items())}


def activity(profile: Profile) -> list[tuple[int, int, int]]:
    """What the customer did, as (first UTC day, days covered: 1, 8 or 64, how often), ascending."""
    behaviour = BEHAVIOUR.of(profile)
    starts, numbers = list(behaviour.starts), list(behaviour.counts)
    days = sorted(seen.at // DAY_MS for seen in occurrences(profile) if seen.active)
    for day in days:
        histogram.add(starts, numbers, day)
    return [
        (start, histogram.width_of(start, starts[-1]), number) for start, number in zip(starts, numbers, strict=True)
    ]


def active_days(profile: Profile, at_ms: int, days: int) -> int:
    """Days with activity among the last `days` (1..64, today included) at a time in epoch milliseconds.

    Exact while the newest activity is not after that day; activity older than 64 days before the newest is coarse
    and not counted.
    """
    today = at_ms // DAY_MS
    return sum(1 for start, width, _ in activity(profile) if width == 1 and today - days < start <= today)


def summary(profile: Profile, at_ms: int) -> dict[str, Any]:
    """All of a profile for REST, as of a time in epoch milliseconds: JSON values only, times in epoch milliseconds.

    `counts` (kind → channel → how often), `activity` (bins, `active_days_30`) and what each component shows:
    `first_at`, `last_at`, `orders`, `money`, `tickets`, `calls`, `complaints`, `surveys`, `messages`,
    `subscription`, `traits`.
    """
    shown: dict[str, Any] = {}
    for component in COMPONENTS:
        shown.update(component.summary(component.of(profile), at_ms))
    shown["counts"] = counts(profile)
    shown["active_days_30"] = active_days(profile, at_ms, 30)
    shown["activity"] = [{"day": start, "days": width, "count": number} for start, width, number in activity(profile)]
    return shown
