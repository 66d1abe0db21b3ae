"""Who is one customer: a pure function of the set of ties, decided rank by rank (design §5).

The rule, precisely. A *class* is a set of leaves of one rank that explicit aliases join (one leaf alone, mostly); it
moves as one. Ranks are decided from users down. A class looks at the higher-ranked leaves its members are tied to,
as far as those tie anybody:

- they belong to no customer, because there are none: the class is a customer of its own (`ALONE`), others may join it;
- they all belong to one customer: the class joins it (`JOINED`);
- they belong to two or more: the class is a customer of its own and ties nobody (`SHARED`);
- they belong to one customer that has no room for *all* classes of this rank that would join it: none of them does,
  and no lower rank joins it either; each of those classes is a customer of its own and ties nobody (`CROWDED`);
- the class itself is larger than a customer may be: each of its leaves stands alone and ties nobody (`CROWDED`).

An erased leaf is in no class, its ties are void and it stands alone (`ERASED`). What ties nobody is not seen by
lower ranks: a cookie whose only tie is a shared inbox stands alone and may be joined. A tie inside one rank counts
only as an alias. The root of a customer is its smallest leaf, which is always in its highest-ranked class.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from shared.ids import leaf_rank

LEAVES_MAX = 1000
"""A customer of more leaves is a bot or a kiosk."""

RANK_COUNT = 5
NOT_FULL = RANK_COUNT
"""`Place.full` of a customer that has room for every leaf that would join it."""

ALONE, JOINED, SHARED, CROWDED, ERASED = range(5)
"""Standings, as stored. Only ALONE and JOINED tie lower-ranked leaves."""

Pair = tuple[bytes, bytes]
Ties = Callable[[bytes], Mapping[bytes, bool]]
"""leaf → the leaves it is tied to, and whether by an alias."""


# --- facts --------------------------------------------------------------------------------------------------


class Assertion(NamedTuple):
    """Somebody said that `a` and `b` (a < b) are tied, or (`tie` False) are not. Make it with `assertion`.

    `alias`: explicit, may join leaves of one rank · `operator`: said by a person, beats whatever machines say ·
    `occurred_at`: epoch milliseconds · `id`: 16 bytes.
    """

    a: bytes
    b: bytes
    tie: bool
    alias: bool
    operator: bool
    occurred_at: int
    id: bytes

    @property
    def pair(self) -> Pair:
        """The two leaves, smaller first."""
        return self.a, self.b

    @property
    def ties(self) -> bool:
        """Whether the pair is tied while this assertion holds."""
        return self.tie and (self.alias or leaf_rank(self.a) != leaf_rank(self.b))


def assertion(
    one: bytes,
    other: bytes,
    *,
    tie: bool,
    alias: bool,
    operator: bool,
    occurred_at: int,
    id: bytes,  # noqa: A002
) -> Assertion:
    """An assertion about two leaves given in any order. Raises ValueError when they are the same leaf."""
    if one == other:
        raise ValueError("a leaf cannot be tied to itself")
    return Assertion(min(one, other), max(one, other), tie, alias, operator, occurred_at, id)


def says_something(said: Assertion) -> bool:
    """False for a tie inside one rank that is no alias: it ties nobody, and must not outlive an alias said before."""
    return not said.tie or said.ties


def newest(one: Assertion, other: Assertion) -> Assertion:
    """The one that holds: operator over automatic, then the later `occurred_at`, then the greater id."""
    return max(one, other, key=_weight)


def _weight(said: Assertion) -> tuple[bool, int, bytes, bool, bool]:
    return said.operator, said.occurred_at, said.id, said.tie, said.alias


def holding(assertions: Iterable[Assertion]) -> dict[Pair, Assertion]:
    """For each pair the assertion that holds, whatever the order or the repetitions of `assertions`."""
    held: dict[Pair, Assertion] = {}
    for said in filter(says_something, assertions):
        before = held.get(said.pair)
        held[said.pair] = said if before is None else newest(before, said)
    return held


# --- state --------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a leaf stands: the `root` of its customer, its `standing`, and on a root the rank at which it is `full`.

    `full`: from this rank down nobody joins the customer any more; NOT_FULL, and always so on leaves that are no root.
    """

    root: bytes
    standing: int
    full: int = NOT_FULL

    @property
    def ties(self) -> bool:
        """Whether lower-ranked leaves see this one."""
        return self.standing <= JOINED


def unseen(leaf: bytes) -> Place:
    """The place of a leaf nothing was ever said about."""
    return Place(leaf, ALONE)


def places(
    leaves: Iterable[bytes],
    held: Iterable[Assertion],
    erased: Iterable[bytes] = (),
    leaves_max: int = LEAVES_MAX,
) -> dict[bytes, Place]:
    """The place of every leaf in `leaves` or in an assertion of `held` (the holding ones, see `holding`)."""
    gone = frozenset(erased)
    ties = _ties(held)
    decided = {leaf: Place(leaf, ERASED) for leaf in gone}
    living: defaultdict[int, set[bytes]] = defaultdict(set)
    for leaf in chain(leaves, ties, (other for seen in ties.values() for other in seen)):
        if leaf not in gone:
            living[leaf_rank(leaf)].add(leaf)
    sizes: dict[bytes, int] = defaultdict(int)
    full: dict[bytes, int] = {}
    for rank in range(RANK_COUNT):
        _decide_rank(rank, living[rank], ties, decided, sizes, full, leaves_max)
    return {leaf: place._replace(full=full.get(leaf, NOT_FULL)) for leaf, place in decided.items()}


def _ties(held: Iterable[Assertion]) -> dict[bytes, dict[bytes, bool]]:
    """Both directions of what is tied: leaf → leaf → whether by an alias."""
    ties: dict[bytes, dict[bytes, bool]] = {}
    for said in held:
        if said.ties:
            ties.setdefault(said.a, {})[said.b] = said.alias
            ties.setdefault(said.b, {})[said.a] = said.alias
    return ties


def _decide_rank(
    rank: int,
    leaves: set[bytes],
    ties: Mapping[bytes, Mapping[bytes, bool]],
    decided: dict[bytes, Place],
    sizes: dict[bytes, int],
    full: dict[bytes, int],
    leaves_max: int,
) -> None:
    joining: defaultdict[bytes, list[frozenset[bytes]]] = defaultdict(list)
    for members in classes(leaves, lambda leaf: ties.get(leaf, {})):
        if len(members) > leaves_max:
            decided.update({leaf: Place(leaf, CROWDED) for leaf in members})
            continue
        seen = customers_seen(members, lambda leaf: ties.get(leaf, {}), decided.__getitem__)
        if len(seen) == 1:
            joining[next(iter(seen))].append(members)
        else:
            own = min(members)
            decided.update({leaf: Place(own, SHARED if seen else ALONE) for leaf in members})
            sizes[own] = len(members)
    for customer, joiners in joining.items():
        count = sum(map(len, joiners))
        if customer in full or sizes[customer] + count > leaves_max:
            full.setdefault(customer, rank)
            decided.update({leaf: Place(min(members), CROWDED) for members in joiners for leaf in members})
        else:
            sizes[customer] += count
            decided.update({leaf: Place(customer, JOINED) for members in joiners for leaf in members})


def classes(leaves: Iterable[bytes], ties: Ties) -> list[frozenset[bytes]]:
    """What aliases join among `leaves` (all of one rank), each class once."""
    left = set(leaves)
    found = []
    while left:
        members = {left.pop()}
        edge = list(members)
        while edge:
            near = {other for other, alias in ties(edge.pop()).items() if alias and other in left}
            left -= near
            members |= near
            edge.extend(near)
        found.append(frozenset(members))
    return found


def customers_seen(members: Iterable[bytes], ties: Ties, place: Callable[[bytes], Place]) -> frozenset[bytes]:
    """Roots of the customers that the higher-ranked ties of a class belong to, as far as those tie anybody."""
    standing = (place(other) for leaf in members for other in ties(leaf) if leaf_rank(other) < leaf_rank(leaf))
    return frozenset(found.root for found in standing if found.ties)
