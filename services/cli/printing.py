"""How the command line shows things: JSON for scripts, times and money for people."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console


def print_json(out: Console, value: Any) -> None:
    """One JSON document on one line, never wrapped or coloured."""
    out.print(msgspec.json.encode(value).decode(), soft_wrap=True, highlight=False, markup=False, emoji=False)


def moment(at_ms: int | str | None) -> str:
    """A time for people, UTC to the second; from epoch milliseconds or an ISO text; "" for none."""
    if at_ms is None or at_ms == "":
        return ""
    at = datetime.fromisoformat(at_ms) if isinstance(at_ms, str) else datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(share: float | None) -> str:
    """A probability as a whole percentage; "" for none."""
    return "" if share is None else f"{100 * share:.0f} %"
