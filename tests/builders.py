"""Builders of facts for tests: everything has a sensible default, a test names only what it is about."""

from typing import Any

from shared.events import SECRET, Touchpoint, TouchpointsRecorded
from shared.ids import day_of, derived_id
from shared.vocabulary import KINDS, normalise

NOON_MS = 1_700_049_600_000
"""2023-11-15 12:00 UTC: where tests begin unless they say otherwise."""
DAY_MS = 86_400_000


def a_leaf(name: str = "sara", rank: int = 0) -> bytes:
    """A leaf that depends on `name` and `rank` (0 user ... 4 anonymous) only."""
    return bytes((rank,)) + derived_id("leaf", name)[:15]


def a_touchpoint(
    kind: str = "page_viewed",
    *,
    at: int = NOON_MS,
    id: str | bytes = "",  # noqa: A002
    leaf: bytes = b"",
    leaves: tuple[bytes, ...] = (),
    channel: str = "",
    name: str = "",
    context: dict[str, Any] | None = None,
    **properties: Any,
) -> Touchpoint:
    """A touchpoint as the log keeps it, its `properties` normalised by the vocabulary.

    Without `id`, the id depends on all the rest, so that equal touchpoints are the same one.
    """
    kept = normalise(kind, properties)
    told = leaves or (leaf or a_leaf(),)
    key = id or f"{kind} {at} {told[0].hex()} {channel} {name} {sorted(kept.items())}"
    own_id = key if isinstance(key, bytes) else derived_id(key)
    where = channel or KINDS[kind].channel
    return Touchpoint(own_id, day_of(at), kind, where, told, at, None, kept, context or {}, name)


def a_record(
    *touchpoints: Touchpoint,
    workspace: str = "main",
    source: str = "shop",
    trust: int = SECRET,
    received_at: int = NOON_MS,
    import_id: str = "",
) -> TouchpointsRecorded:
    """A touchpoints record of one request."""
    return TouchpointsRecorded(workspace, source, trust, received_at, None, import_id, touchpoints)
