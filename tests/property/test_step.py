"""The profiles step: batches change nothing, one bad touchpoint spoils nothing, commands may stand anywhere.

Random record sequences are folded by the real step over the simulation's database in memory.
"""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.profiles.domain.rows import LeafRow
from services.profiles.domain.terms import House
from services.profiles.fold import TouchpointsProjection
from shared.codec import encode
from shared.events import (
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    LeafErased,
    LeafReinstated,
    TouchpointsRecorded,
)
from shared.ids import derived_id
from shared.log.port import RECORD_BYTES_MAX, Batch, Record
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.simulation.driving import run
from tests.simulation.memory_profiles import MemoryProfiles

LEAVES = tuple(a_leaf(name, rank) for rank, name in enumerate("abcd"))
_leaf = st.sampled_from(LEAVES)
_pair = st.tuples(_leaf, _leaf).filter(lambda pair: pair[0] != pair[1])
_moment = st.integers(0, 3).map(lambda n: NOON_MS + n * 1000)


@st.composite
def touches(draw: st.DrawFn) -> Fact:
    """A record of one to three touchpoints, some of which tie leaves."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        leaves = tuple(sorted(draw(st.sets(_leaf, min_size=1, max_size=2))))
        at, order = draw(_moment), draw(st.sampled_from(["", "1", "2"]))
        found.append(
            a_touchpoint("purchased", at=at, leaves=leaves, order_id=order, amount=3, currency="EUR")
            if order
            else a_touchpoint("page_viewed", at=at, leaves=leaves)
        )
    return a_record(*found, source=draw(st.sampled_from(["shop", "web"])))


@st.composite
def commands(draw: st.DrawFn) -> Fact:
    """One command."""
    (a, b), at, word = draw(_pair), draw(_moment), draw(st.integers(0, 4))
    own_id = derived_id(str(draw(st.integers(0, 99))))
    if word == 0:
        return IdentityLinked("main", own_id, a, b, True, draw(st.booleans()), at)
    if word == 1:
        return IdentityUnlinked("main", own_id, a, b, True, at)
    of_leaf = (ErasureRequested, LeafErased, LeafReinstated)[word - 2]
    return of_leaf("main", own_id, a, at)


sequences = st.lists(st.one_of(touches(), touches(), commands()), min_size=1, max_size=10)
cuts = st.lists(st.integers(1, 4), min_size=20, max_size=20)


def folded(facts: Sequence[Fact], sizes: Sequence[int]) -> MemoryProfiles:
    """The database after these facts of one partition, in batches of these sizes."""
    database = MemoryProfiles(1)
    projection = TouchpointsProjection(database, House(1, RECORD_BYTES_MAX), lambda workspace, sealed: {})
    claim = run(database.acquire(TOUCHPOINTS, 0, "memory"))
    records = [Record(n, NOON_MS + n, encode(fact)) for n, fact in enumerate(facts)]
    for size in sizes:
        batch = tuple(records[claim.position : claim.position + size])
        if batch:
            claim = run(projection.fold(claim, Batch(batch, batch[-1].position + 1)))
    assert claim.position == len(facts)
    return database


def parcels(database: MemoryProfiles) -> dict[bytes, list[tuple[str, bytes]]]:
    """What leaves, by customer, in order."""
    found: dict[bytes, list[tuple[str, bytes]]] = {}
    for _, row in sorted(database.tables["journal"].items()):
        found.setdefault(row.key, []).append((row.topic, row.value))
    return found


@given(sequences, cuts)
def test_any_cut_into_batches_gives_the_same_rows_and_parcels(facts: list[Fact], sizes: list[int]) -> None:
    whole, cut = folded(facts, [len(facts)]), folded(facts, sizes)
    for table in ("leaf", "edge", "touchpoint", "customer", "parked"):
        assert cut.tables[table] == whole.tables[table], table
    assert parcels(cut) == parcels(whole)


@given(sequences, st.integers(0, 9), cuts)
def test_a_touchpoint_that_cannot_be_folded_is_parked_alone(facts: list[Fact], place: int, sizes: list[int]) -> None:
    touchpoint = a_touchpoint("purchased", leaf=LEAVES[0], order_id="1")
    touchpoint.properties["amount_minor"] = "many"
    at = min(place, len(facts))
    without, spoilt = (
        folded([*facts[:at], record, *facts[at:]], sizes_of_it)
        for record, sizes_of_it in ((a_record(), [11]), (a_record(touchpoint, source="broken"), [*sizes, 11]))
    )
    more = spoilt.tables["touchpoint"].keys() - without.tables["touchpoint"].keys()
    assert len(spoilt.tables["parked"]) + len(more) == 1  # parked; or dropped, where its leaf was erased before
    assert not more or LEAVES[0] in {fact.leaf for fact in facts if isinstance(fact, LeafErased)}
    plain = {LEAVES[0]: LeafRow(LEAVES[0], "main", LEAVES[0])}
    assert spoilt.tables["leaf"] == plain | without.tables["leaf"]
    assert parcels(spoilt) == parcels(without)


@given(sequences, cuts)
def test_folding_again_what_was_folded_changes_no_state(facts: list[Fact], sizes: list[int]) -> None:
    told = [fact for fact in facts if isinstance(fact, TouchpointsRecorded)]
    once, twice = folded(told, [*sizes, 20]), folded([*told, *told], [*sizes, 20])
    assert once.tables["leaf"] == twice.tables["leaf"]
    assert parcels(once) == parcels(twice)
