"""Another number of partitions: nothing is lost, doubled or reordered within a leaf; fields stay with their own."""

from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from services.repartition.placing import ImportEnds, everywhere, place
from shared.codec import decode, encode
from shared.events import Fact, IdentityLinked, ImportFinished, LeafErased, Sealed, Touchpoint, TouchpointsRecorded
from shared.ids import dedup_scope, partition_of
from shared.sealing import Opener, PersonalFields, Sealer
from tests.builders import a_leaf, a_record, a_touchpoint

KEY = PrivateKey(bytes(range(32)))
SEALER = Sealer("0001-k", bytes(KEY.public_key))
OPENER = Opener({"0001-k": bytes(KEY)})
PEOPLE = [a_leaf(f"p{n}") for n in range(12)]


def divide(_workspace: str, sealed: Sealed, groups: Any) -> Any:
    return OPENER.divide(sealed, groups)


def told(number: int, leaf: bytes) -> Touchpoint:
    return a_touchpoint(id=f"t{number}", leaf=leaf)


@st.composite
def requests(draw: st.DrawFn) -> list[TouchpointsRecorded]:
    """Records of one old partition, some of their touchpoints with personal fields that name them."""
    made, number = [], 0
    for leaves in draw(st.lists(st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=8), max_size=6)):
        touchpoints = [told(number + n, leaf) for n, leaf in enumerate(leaves)]
        personal: PersonalFields = {
            n: {"name": one.id.hex()} for n, one in enumerate(touchpoints) if draw(st.booleans())
        }
        number += len(touchpoints)
        record = a_record(*touchpoints)
        made.append(TouchpointsRecorded(*_fields(record), personal=SEALER.seal(personal, 1) if personal else None))
    return made


def _fields(record: TouchpointsRecorded) -> tuple[Any, ...]:
    names = ("workspace", "source", "trust", "received_at", "sent_at", "import_id", "touchpoints")
    return tuple(getattr(record, name) for name in names)


def seen(records: list[tuple[int, bytes]]) -> dict[bytes, list[tuple[Any, ...]]]:
    """Leaf → its touchpoints in order, with dedup key, envelope and opened fields."""
    found: dict[bytes, list[tuple[Any, ...]]] = defaultdict(list)
    for _, value in records:
        fact = decode(value)
        assert isinstance(fact, TouchpointsRecorded)
        fields = OPENER.open(fact.personal) if fact.personal else {}
        for index, one in enumerate(fact.touchpoints):
            scope = dedup_scope(fact.workspace, fact.source, one.leaves[0])
            found[one.leaves[0]].append((one, scope, fact.trust, fact.received_at, fields.get(index)))
    return found


@given(records=requests(), partitions=st.integers(1, 40))
def test_each_leaf_keeps_its_touchpoints_their_order_their_keys_and_their_fields(
    records: list[TouchpointsRecorded], partitions: int
) -> None:
    old = [(0, encode(record)) for record in records]
    new = [(placed.partition, placed.value) for _, value in old for placed in place(value, b"", 0, partitions, divide)]
    assert seen(new) == seen(old)
    for partition, value in new:
        fact = decode(value)
        assert isinstance(fact, TouchpointsRecorded)
        assert {partition_of(one.leaves[0], partitions) for one in fact.touchpoints} == {partition}
        assert len(value) <= max(len(whole) for _, whole in old)


@given(partitions=st.integers(1, 64))
def test_what_is_not_cut_keeps_its_very_bytes(partitions: int) -> None:
    a, b = sorted((a_leaf("a"), a_leaf("b")))
    facts: list[tuple[Fact, bytes]] = [
        (a_record(told(1, a), told(2, a)), a),
        (IdentityLinked("main", bytes(16), b, a, True, True, 5), a),
        (LeafErased("main", bytes(16), b, 5), b),
    ]
    for fact, leaf in facts:
        [placed] = place(encode(fact), b"", 3, partitions, divide)
        assert (placed.partition, placed.value) == (partition_of(leaf, partitions), encode(fact))


def test_a_destroyed_key_leaves_pieces_without_fields() -> None:
    record = TouchpointsRecorded(*_fields(a_record(*[told(n, leaf) for n, leaf in enumerate(PEOPLE)])))
    sealed = TouchpointsRecorded(*_fields(record), personal=SEALER.seal({0: {"name": "Sara"}}, 1))
    pieces = place(encode(sealed), b"", 0, 8, lambda _w, field, groups: Opener({}).divide(field, groups))
    facts = [decode(piece.value) for piece in pieces]
    assert len(facts) > 1
    assert all(isinstance(fact, TouchpointsRecorded) and fact.personal is None for fact in facts)


@given(key=st.binary(max_size=20), partition=st.integers(0, 15), partitions=st.integers(1, 32))
def test_what_is_not_known_is_carried_along(key: bytes, partition: int, partitions: int) -> None:
    for value in (b"\x93\xa8new.kind\x01\x90", b"no fact at all"):
        [placed] = place(value, key, partition, partitions, divide)
        assert placed.value == value
        assert 0 <= placed.partition < partitions
        assert len(key) != 16 or placed.partition == partition_of(key, partitions)


@given(order=st.permutations([(name, partition) for name in "ab" for partition in range(4)]), again=st.booleans())
def test_an_import_ends_when_it_has_on_every_old_partition_and_only_once(
    order: list[tuple[str, int]], again: bool
) -> None:
    ends, done = ImportEnds(4), []
    for at, (name, partition) in enumerate(order + (order if again else [])):
        if ends.met(ImportFinished("main", name, 1), partition):
            done.append((name, at))
    last = {name: max(at for at, one in enumerate(order) if one[0] == name) for name in "ab"}
    assert dict(done) == last
    assert len(done) == 2


def test_an_import_that_did_not_pass_everywhere_is_said_of_nowhere() -> None:
    whole = {(q, p) for q in range(2) for p in range(2)}
    rows = everywhere({("main", "whole"): whole, ("main", "open"): whole - {(1, 1)}}, 2, 3)
    assert rows == [("main", "whole", q, p) for q in range(3) for p in range(3)]
