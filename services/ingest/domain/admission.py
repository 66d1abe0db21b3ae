"""Admission: one item as a client sent it becomes a touchpoint, a link, or a refusal with path and reason. Never raises.

Two doors lead in: Segment's shape (`admit_segment`) and Raftar's own (`admit_native`). Paths in refusals are relative
to the item, e.g. `properties.amount`; `ROOT_PATH` means the whole item.
"""

from collections.abc import Callable
from typing import Any

from services.ingest.domain.terms import (
    ROOT_PATH,
    Admitted,
    AdmittedLink,
    Arrival,
    Limits,
    Refused,
    Result,
    Sender,
)

__all__ = [
    "ROOT_PATH",
    "Admitted",
    "AdmittedLink",
    "Arrival",
    "Limits",
    "Refused",
    "Result",
    "Sender",
    "admit_native",
    "admit_segment",
]

NewId = Callable[[], bytes]


def admit_segment(
    kind: str | None,
    item: Any,
    raw: bytes,
    sender: Sender,
    arrival: Arrival,
    envelope_context: dict[str, Any],
    new_id: NewId,
    limits: Limits,
) -> Result:
    """One call of Segment's HTTP API.

    `kind`: identify, track, page, screen, group or alias as the path says; None in a batch (the item's own `type`
    decides) · `item`: the decoded JSON, of whatever type · `raw`: its bytes as received; only their length is judged
    and they come back in a refusal · `envelope_context`: the batch's `context`, which lies under the item's own ({}).
    """
    raise NotImplementedError


def admit_native(item: Any, raw: bytes, sender: Sender, arrival: Arrival, new_id: NewId, limits: Limits) -> Result:
    """One touchpoint of `POST /v1/touchpoints` (fields: `native.NativeTouchpoint`); arguments as `admit_segment`."""
    raise NotImplementedError
