"""Rows of the timeline, made the short way, are what the words for them say; so is what customers are listed by."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.profiles.domain.rows import Body, TouchpointKey, TouchpointRow
from services.profiles.domain.terms import Fresh
from services.profiles.domain.timeline import add_rows
from shared import profile as profiles
from shared.events import Touchpoint, TouchpointsRecorded
from shared.ids import dedup_scope
from tests.builders import a_record
from tests.property.strategies import touchpoints

_canonical = msgspec.msgpack.Encoder(order="deterministic").encode

records = st.lists(
    st.builds(
        lambda told, source, import_id: a_record(*(one for one, _ in told), source=source, import_id=import_id),
        st.lists(touchpoints(), max_size=4),
        st.sampled_from(["shop", "web"]),
        st.sampled_from(["", "import"]),
    ),
    max_size=4,
)


def key_of(fact: TouchpointsRecorded, touchpoint: Touchpoint) -> TouchpointKey:
    return touchpoint.day, touchpoint.id, dedup_scope(fact.workspace, fact.source, touchpoint.leaves[0])


def row_of(fact: TouchpointsRecorded, position: int, place: int, touchpoint: Touchpoint) -> TouchpointRow:
    """The row, field by field."""
    day, identity, scope = key_of(fact, touchpoint)
    body = Body(
        name=touchpoint.name,
        properties=touchpoint.properties,
        context=touchpoint.context,
        client_at=touchpoint.client_at,
        source=fact.source,
        trust=fact.trust,
        received_at=fact.received_at,
        import_id=fact.import_id,
        leaves=touchpoint.leaves,
    )
    return TouchpointRow(
        day=day,
        id=identity,
        scope=scope,
        workspace=fact.workspace,
        leaf=touchpoint.leaves[0],
        partition=3,
        position=position,
        place=place,
        kind=touchpoint.kind,
        channel=touchpoint.channel,
        occurred_at=touchpoint.occurred_at,
        recorded_at=position + 7,
        body=_canonical(body),
    )


@given(records, st.frozensets(st.integers(0, 3), max_size=2))
def test_each_touchpoint_has_the_row_of_its_first_saying(
    facts: list[TouchpointsRecorded], left_out: frozenset[int]
) -> None:
    rows: dict[TouchpointKey, TouchpointRow] = {}
    expected: dict[TouchpointKey, TouchpointRow] = {}
    for position, fact in enumerate(facts):
        first = []
        for place, touchpoint in enumerate(fact.touchpoints):
            key = key_of(fact, touchpoint)
            if place not in left_out and key not in expected:
                expected[key] = row_of(fact, position, place, touchpoint)
                first.append(Fresh(place, key, touchpoint))
        assert add_rows(rows, fact, (3, position), position + 7, left_out) == first
    assert rows == expected
    assert all(isinstance(row, TouchpointRow) for row in rows.values())


@given(st.lists(touchpoints(("purchased", "refunded", "page_viewed")), max_size=8))
def test_spending_is_counted_as_orders_and_money_are(history: list[tuple[Touchpoint, int]]) -> None:
    profile = profiles.new()
    for touchpoint, trust in history:
        profiles.fold(profile, touchpoint, "shop", trust)
    most = max(profiles.money(profile).items(), key=lambda item: (item[1], item[0]), default=("", 0))
    assert profiles.spending(profile) == (len(profiles.purchases(profile)), most[1], most[0])
