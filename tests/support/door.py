"""Short ways to knock at the door's domain: senders, one arrival, and both admissions with their usual arguments."""

from typing import Any

import msgspec

from services.ingest.domain.admission import (
    Admitted,
    Arrival,
    Limits,
    Refused,
    Result,
    Sender,
    admit_native,
    admit_segment,
)
from shared.clock import FrozenClock
from shared.events import PUBLIC, SECRET

CLOCK = FrozenClock(1_774_085_400_000)
"""2026-03-21T09:30:00Z."""
NOW = CLOCK.now_ms()
PUBLIC_SENDER = Sender("main", "site", PUBLIC, bytes(range(32)))
SECRET_SENDER = Sender("main", "backend", SECRET, bytes(range(32)), region="IR", history_allowed=True)
ARRIVAL = Arrival(NOW, None, "192.0.2.7")


def raw(item: Any) -> bytes:
    """The bytes an item would have had; for values JSON cannot hold, their text."""
    try:
        return msgspec.json.encode(item)
    except (TypeError, ValueError):
        return repr(item).encode("utf-8", "replace")


def native(
    item: Any, sender: Sender = SECRET_SENDER, arrival: Arrival = ARRIVAL, limits: Limits | None = None
) -> Result:
    """`item` at the native door."""
    return admit_native(item, raw(item), sender, arrival, CLOCK.new_id, limits or Limits())


def segment(
    call: str | None,
    item: Any,
    sender: Sender = PUBLIC_SENDER,
    arrival: Arrival = ARRIVAL,
    context: dict[str, Any] | None = None,
) -> Result:
    """`item` at Segment's door; `context` is the batch's."""
    return admit_segment(call, item, raw(item), sender, arrival, context or {}, CLOCK.new_id, Limits())


def taken(result: Result) -> Admitted:
    """The result, when it is one admitted touchpoint."""
    assert isinstance(result, Admitted), result
    return result


def refused(result: Result) -> Refused:
    """The result, when it is a refusal."""
    assert isinstance(result, Refused), result
    return result
