"""The timeline: each touchpoint as the row that keeps it, which is also the proof that it was seen."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec

from services.profiles.domain.rows import TouchpointKey, TouchpointRow
from services.profiles.domain.terms import Fresh
from shared.events import TouchpointsRecorded
from shared.ids import dedup_scope

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_row: Callable[[tuple[Any, ...]], TouchpointRow] = partial(tuple.__new__, TouchpointRow)


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
    workspace, source, trust, received_at, import_id = (
        fact.workspace, fact.source, fact.trust, fact.received_at, fact.import_id,
    )  # fmt: skip
    partition, position = at
    added = []
    for place, touchpoint in enumerate(fact.touchpoints):
        leaves = touchpoint.leaves
        leaf = leaves[0]
        key = day, identity, scope = touchpoint.day, touchpoint.id, dedup_scope(workspace, source, leaf)
        if key in rows or place in left_out:
            continue
        # What a `Body` and a `TouchpointRow` of these values are, without the calls, which cost half as much again.
        body = _encode((
            touchpoint.name, touchpoint.properties, touchpoint.context, touchpoint.client_at,
            source, trust, received_at, import_id, leaves,
        ))  # fmt: skip
        rows[key] = _row((
            day, identity, scope, workspace, leaf, partition, position, place,
            touchpoint.kind, touchpoint.channel, touchpoint.occurred_at, recorded_at, body,
        ))  # fmt: skip
        added.append(Fresh(place, key, touchpoint))
    return added
