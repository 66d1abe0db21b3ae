"""What an alert's CloudEvent says, read in one place."""

from datetime import datetime
from typing import Any


def policy(event: dict[str, Any]) -> str:
    """Which rule raised it: `silence` or `bad_experience`."""
    return str(event["data"]["policy"])


def opening_key(event: dict[str, Any]) -> str:
    """Business key of the fact that opened it; for a silence that of the last purchase."""
    return str(event["data"]["key"])


def crossed_at_ms(event: dict[str, Any]) -> int:
    """The exact crossing, epoch milliseconds."""
    return moment_ms(event["data"]["crossed_at"])


def reasons(event: dict[str, Any]) -> dict[str, Any]:
    """Why, with the figures behind it."""
    return dict(event["data"]["reasons"])


def why(event: dict[str, Any]) -> str:
    """The reasons in one line."""
    given = reasons(event)
    facts = ", ".join(fact["kind"] for fact in given.get("facts", []))
    clears = " or ".join(given.get("clears", []))
    return f"because of {facts}; cleared by {clears}" if clears else f"because of {facts}"


def moment_ms(value: int | str) -> int:
    """Epoch milliseconds of a time in either form."""
    return value if isinstance(value, int) else round(datetime.fromisoformat(value).timestamp() * 1000)
