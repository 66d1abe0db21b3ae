"""The timeline: each touchpoint as the row that keeps it, which is also the proof that it was seen."""

from collections.abc import Collection

import msgspec

from services.profiles.domain.rows import Body, TouchpointKey, TouchpointRow
from services.profiles.domain.terms import Fresh
from shared.events import Touchpoint, TouchpointsRecorded
from shared.ids import dedup_scope

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def add_rows(
    rows: dict[TouchpointKey, TouchpointRow],
    fact: TouchpointsRecorded,
    at: tuple[int, int],
    recorded_at: int,
    left_out: Collection[int] = (),
) -> list[Fresh]:
    """Add the rows of a record's touchpoints that have none yet; returns these touchpoints.

    `rows`: of the run so far · `at`: partition and position of the record · `left_out`: indexes that do not count here.
    """
    added = []
    workspace, source, (partition, position) = fact.workspace, fact.source, at
    for place, touchpoint in enumerate(fact.touchpoints):
        leaf = touchpoint.leaves[0]
        key = touchpoint.day, touchpoint.id, dedup_scope(workspace, source, leaf)
        if key in rows or place in left_out:
            continue
        what = touchpoint.kind, touchpoint.channel, touchpoint.occurred_at
        body = _encode(_body(fact, touchpoint))
        rows[key] = TouchpointRow._make((*key, workspace, leaf, partition, position, place, *what, recorded_at, body))
        added.append(Fresh(place, key, touchpoint))
    return added


def _body(fact: TouchpointsRecorded, touchpoint: Touchpoint) -> Body:
    what = touchpoint.name, touchpoint.properties, touchpoint.context, touchpoint.client_at
    return Body(*what, fact.source, fact.trust, fact.received_at, fact.import_id, touchpoint.leaves)
