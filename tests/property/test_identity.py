"""Identity under any order of facts: places depend on the set of ties alone, and never merge two people by accident."""

from collections.abc import Iterable
from itertools import combinations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from services.profiles.domain.explanation import explain, sentence
from services.profiles.domain.identity import (
    ALONE,
    CROWDED,
    ERASED,
    JOINED,
    SHARED,
    Assertion,
    Pair,
    Place,
    assertion,
    holding,
    places,
    unseen,
)
from services.profiles.domain.neighbourhood import Neighbourhood, Row
from shared.ids import leaf_rank

CROWDS = st.sampled_from([1, 2, 3, 4, 5, 1000])


def a_leaf(rank: int, number: int) -> bytes:
    return bytes([rank]) + number.to_bytes(15, "big")


@st.composite
def universes(draw: st.DrawFn) -> list[bytes]:
    """8 to 14 leaves, of ranks that make sharing, chains and crowds likely."""
    ranks = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 4, 4]), min_size=8, max_size=14))
    return [a_leaf(rank, number) for number, rank in enumerate(ranks)]


MOSTLY = st.sampled_from([True, True, True, False])


def assertions(leaves: list[bytes], ties: st.SearchStrategy[bool] = MOSTLY) -> st.SearchStrategy[Assertion]:
    pairs = st.sampled_from(list(combinations(leaves, 2)))
    return st.builds(
        lambda pair, tie, alias, operator, at, number: assertion(
            *pair, tie=tie, alias=alias, operator=operator, occurred_at=at, id=bytes([number]) * 16
        ),
        pairs,
        ties,
        st.sampled_from([False, False, True]),
        st.sampled_from([False] * 8 + [True]),
        st.integers(0, 40),
        st.integers(0, 255),
    )


class Stored:
    """What a database would hold: every row as the step before left it."""

    def __init__(self, leaves: list[bytes], leaves_max: int) -> None:
        self.leaves, self.leaves_max = leaves, leaves_max
        self.said: list[Assertion] = []
        self.held: dict[Pair, Assertion] = {}
        self.erased: frozenset[bytes] = frozenset()
        self.places = {leaf: unseen(leaf) for leaf in leaves}

    def row(self, leaf: bytes) -> Row:
        return Row(leaf, self.places[leaf], tuple(said for pair, said in self.held.items() if leaf in pair))

    def members(self, root: bytes) -> tuple[bytes, ...]:
        return tuple(sorted(leaf for leaf, place in self.places.items() if place.root == root))

    def oracle(self) -> dict[bytes, Place]:
        return places(self.leaves, holding(self.said).values(), self.erased, self.leaves_max)

    def step(
        self, said: Iterable[Assertion] = (), erased: Iterable[bytes] = (), reinstated: Iterable[bytes] = ()
    ) -> Neighbourhood:
        """One step by the incremental form, checked against the full function."""
        said, erased, reinstated = list(said), frozenset(erased), frozenset(reinstated)
        found = Neighbourhood(said, erased=erased, reinstated=reinstated, leaves_max=self.leaves_max)
        asked: set[bytes] = set()
        while found.wanted() or found.wanted_customers():
            assert not asked & found.wanted(), "asked twice"
            asked |= found.wanted()
            found.add(map(self.row, found.wanted()), {root: self.members(root) for root in found.wanted_customers()})
        before = dict(self.places)
        self.said += said
        self.erased = (self.erased | erased) - reinstated
        self.held |= {holds.pair: holds for holds in found.held()}
        self.places |= found.places()
        self._check(found, before)
        return found

    def _check(self, found: Neighbourhood, before: dict[bytes, Place]) -> None:
        expected = self.oracle()
        assert self.held == holding(self.said)
        assert self.places == expected
        assert found.places() == {leaf: place for leaf, place in expected.items() if place != before[leaf]}
        moves = {leaf: place.root for leaf, place in expected.items() if place.root != before[leaf].root}
        assert found.moves() == moves
        touched = {*moves.values(), *(before[leaf].root for leaf in moves)}
        assert found.customers() == {root: self.members(root) for root in touched}


@settings(max_examples=3000, deadline=None)
@given(st.data(), universes(), CROWDS)
def test_deciding_only_what_a_change_touches_equals_deciding_everything(
    data: st.DataObject, leaves: list[bytes], leaves_max: int
) -> None:
    stored = Stored(leaves, leaves_max)
    some_leaves = st.sets(st.sampled_from(leaves), min_size=1, max_size=2)
    batches = st.one_of(st.lists(assertions(leaves), min_size=1, max_size=4), some_leaves)
    for batch in data.draw(st.lists(batches, min_size=1, max_size=12)):
        if isinstance(batch, list):
            stored.step(batch)
        elif batch <= stored.erased:
            stored.step(reinstated=batch)
        else:
            stored.step(erased=batch)
    for standing in {place.standing for place in stored.places.values()}:
        event(f"ends with standing {standing}")


@settings(max_examples=400, deadline=None)
@given(st.data(), CROWDS)
def test_a_crowd_that_fills_and_empties_is_decided_as_a_whole(data: st.DataObject, leaves_max: int) -> None:
    """Two users, few emails, many cookies: crowds flip often here, in both directions."""
    users, emails = [a_leaf(0, n) for n in range(2)], [a_leaf(1, n) for n in range(3)]
    cookies = [a_leaf(4, n) for n in range(6)]
    stored = Stored([*users, *emails, *cookies], leaves_max)
    upwards = [(high, low) for high in users for low in emails] + [
        (high, low) for high in users + emails for low in cookies
    ]
    tied: set[tuple[bytes, bytes]] = set()
    for at, pair in enumerate(data.draw(st.lists(st.sampled_from(upwards), max_size=30))):
        tied ^= {pair}
        stored.step([assertion(*pair, tie=pair in tied, alias=False, operator=False, occurred_at=at, id=bytes(16))])


@settings(max_examples=500, deadline=None)
@given(st.data(), universes(), CROWDS)
def test_places_depend_on_no_order_and_no_repetition(data: st.DataObject, leaves: list[bytes], leaves_max: int) -> None:
    said = data.draw(st.lists(assertions(leaves), max_size=25))
    erased = data.draw(st.sets(st.sampled_from(leaves), max_size=2))
    other_way = data.draw(st.permutations([*said, *said[: len(said) // 2]]))
    assert holding(said) == holding(other_way)
    shuffled = list(data.draw(st.permutations(list(holding(said).values()))))
    one = places(leaves, holding(said).values(), erased, leaves_max)
    assert one == places(reversed(leaves), shuffled, erased, leaves_max)


@settings(max_examples=300, deadline=None)
@given(st.data(), universes())
def test_merging_what_two_workers_hold_is_holding_what_both_heard(data: st.DataObject, leaves: list[bytes]) -> None:
    said = data.draw(st.lists(assertions(leaves), max_size=25))
    cut = data.draw(st.integers(0, len(said)))
    apart = [*holding(said[cut:]).values(), *holding(said[:cut]).values()]
    assert holding(apart) == holding(said)


@settings(max_examples=500, deadline=None)
@given(st.data(), universes(), CROWDS)
def test_no_chain_below_users_merges_two_users(data: st.DataObject, leaves: list[bytes], leaves_max: int) -> None:
    """Whatever cookies, inboxes and phones are tied or aliased: without an alias of users, users stay apart."""
    said = data.draw(st.lists(assertions(leaves, st.just(True)), max_size=40))
    quiet = [one for one in said if leaf_rank(one.b) > 0]
    found = places(leaves, holding(quiet).values(), (), leaves_max)
    for leaf in leaves:
        assert found[leaf].root == leaf or leaf_rank(leaf) > 0


@settings(max_examples=500, deadline=None)
@given(st.data(), universes(), CROWDS)
def test_the_shape_of_every_answer(data: st.DataObject, leaves: list[bytes], leaves_max: int) -> None:
    """Root is the smallest member and its own root, no customer is over the limit, who ties nobody has no joiners."""
    held = holding(data.draw(st.lists(assertions(leaves), max_size=40)))
    erased = data.draw(st.sets(st.sampled_from(leaves), max_size=2))
    found = places(leaves, held.values(), erased, leaves_max)
    for root in {place.root for place in found.values()}:
        members = [leaf for leaf, place in found.items() if place.root == root]
        assert root == min(members)
        assert len(members) <= leaves_max
        if found[root].standing in (SHARED, CROWDED, ERASED):
            assert {leaf_rank(leaf) for leaf in members} == {leaf_rank(root)}
    assert {leaf for leaf, place in found.items() if place.standing == ERASED} == erased


@settings(max_examples=500, deadline=None)
@given(st.data(), universes(), CROWDS)
def test_every_place_is_explained_by_the_ties_that_decided_it(
    data: st.DataObject, leaves: list[bytes], leaves_max: int
) -> None:
    held = holding(data.draw(st.lists(assertions(leaves), max_size=40)))
    erased = data.draw(st.sets(st.sampled_from(leaves), max_size=2))
    found = places(leaves, held.values(), erased, leaves_max)
    ties: dict[bytes, dict[bytes, bool]] = {}
    for said in filter(lambda said: said.ties, held.values()):
        ties.setdefault(said.a, {})[said.b] = said.alias
        ties.setdefault(said.b, {})[said.a] = said.alias
    counts = {"joined": 1, "crowded": 1, "alone": 0, "hidden": 0, "erased": 0}
    standings = {"joined": JOINED, "shared": SHARED, "crowded": CROWDED, "crowded_aliases": CROWDED, "erased": ERASED}
    for leaf in leaves:
        why = explain(leaf, lambda one: ties.get(one, {}), found)
        event(why.code)
        assert found[leaf].standing == standings.get(why.code, ALONE)
        assert len(why.customers) == counts.get(why.code, len(why.customers))
        assert why.code != "shared" or len(why.customers) > 1
        assert why.code != "joined" or why.customers == (why.customer,)
        assert sentence(why, leaves_max).startswith("This ")


@settings(max_examples=300, deadline=None)
@given(st.data(), universes())
def test_an_operators_unlink_stays_against_later_automatic_ties(data: st.DataObject, leaves: list[bytes]) -> None:
    said = [one._replace(operator=False) for one in data.draw(st.lists(assertions(leaves), max_size=25))]
    low, high = data.draw(st.sampled_from(list(combinations(sorted(leaves), 2))))
    unlink = assertion(low, high, tie=False, alias=False, operator=True, occurred_at=-1, id=bytes(16))
    held = holding([unlink, *said])
    assert held[unlink.pair] == unlink
    relink = unlink._replace(tie=True, alias=True, occurred_at=0)
    assert holding([relink, unlink, *said])[unlink.pair] == relink
