"""What an alert or a change of stage says, read from its CloudEvent in one place, and its reasons in words."""

from typing import Any

DAY_MS = 86_400_000
SILENCE = "silence"

Data = dict[str, Any]


def data_of(event: Data) -> Data:
    """The event's own part."""
    return dict(event.get("data") or {})


def opening_key(event: Data) -> str:
    """Business key of the fact that opened an alert; for a silence that of the last purchase."""
    return str(data_of(event).get("key", ""))


def crossed_at_ms(event: Data) -> int:
    """The exact crossing, epoch milliseconds."""
    return int(data_of(event)["crossed_at"])


def reasons(event: Data) -> Data:
    """Why, with the figures behind it."""
    return dict(data_of(event).get("reasons") or {})


def why(data: Data) -> str:
    """The reasons of an alert's or a stage's data in one line, with what would clear an alert."""
    given = data.get("reasons") or {}
    words = [*_facts(given), *_silence(given)] if data.get("policy") != SILENCE else _silence(given)
    if clears := data.get("clears"):
        words.append(f"cleared by {' or '.join(clears)}")
    return ", ".join(words)


def days(duration_ms: float | None) -> str:
    """A duration in days with one decimal; "" for none."""
    return "" if duration_ms is None else f"{duration_ms / DAY_MS:.1f} d"


def _facts(given: Data) -> list[str]:
    facts = given.get("facts") or []
    return [f"because of {fact['kind']}{_score(fact)}" for fact in facts]


def _score(fact: Data) -> str:
    return "" if fact.get("score") is None else f" {fact['score']}"


def _silence(given: Data) -> list[str]:
    if given.get("silence_ms") is None:
        return []
    return [f"silent for {days(given['silence_ms'])}", f"usual gap {days(given.get('usual_gap_ms'))}"]
