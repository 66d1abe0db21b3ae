"""What a new tie, unlink, erasure or reinstatement moves: `identity.places`, decided anew only where it can differ.

Sans I/O: a `Neighbourhood` says which rows it still needs, is given them as they were before the step, and when it
needs nothing more says what moves. It equals the full function as long as the rows it is given do.

Why it ends, and why it is right. Ranks are decided from users down, and the place of a class depends on ranks above
it and on how many classes of its own rank want the same customer. So one sweep over the five ranks is enough: a leaf
is looked at again when one of its ties changed, when a higher-ranked leaf it is tied to moved, was hidden or shown,
when its alias class is looked at, or when its customer gets full or gets room. Each of these only adds leaves of the
rank being decided or of lower ones. A customer that was full has to find everybody it turned away only when somebody
who counted at that rank or above it leaves; then, and only then, the rows of all its members are read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.profiles.domain.identity import (
    ALONE,
    CROWDED,
    ERASED,
    JOINED,
    LEAVES_MAX,
    NOT_FULL,
    RANK_COUNT,
    SHARED,
    Assertion,
    Place,
    classes,
    customers_seen,
    holding,
    newest,
    unseen,
)
from shared.ids import leaf_rank


class Row(NamedTuple):
    """A leaf as stored before this step: its place, and the holding assertions (ties and unties) that name it."""

    leaf: bytes
    place: Place
    held: tuple[Assertion, ...] = ()


class _MoreNeeded(Exception):
    """The decision cannot go on without more rows."""


class Neighbourhood:
    """One step's change of ties. Ask `wanted` and `wanted_customers`, answer with `add`, until both are empty.

    `assertions`: what the step's facts say, in any order, already known ones too · `erased`, `reinstated`: leaves ·
    `leaves_max`: must be the one the stored places were decided with. Raises ValueError for a leaf in both.
    """

    def __init__(
        self,
        assertions: Iterable[Assertion] = (),
        *,
        erased: Iterable[bytes] = (),
        reinstated: Iterable[bytes] = (),
        leaves_max: int = LEAVES_MAX,
    ) -> None:
        self._change = _Change(holding(assertions), frozenset(erased), frozenset(reinstated), leaves_max)
        if self._change.erased & self._change.reinstated:
            raise ValueError("one step cannot both erase and reinstate a leaf")
        self._rows: dict[bytes, Row] = {}
        self._members: dict[bytes, frozenset[bytes]] = {}
        self._decision: _Decision | None = None

    def wanted(self) -> frozenset[bytes]:
        """Leaves whose rows are needed next; empty when everything is decided."""
        return frozenset(self._decided().leaves_wanted)

    def wanted_customers(self) -> frozenset[bytes]:
        """Roots of the customers whose member leaves are needed next (all leaves with that root, itself included)."""
        return frozenset(self._decided().customers_wanted)

    def add(self, rows: Iterable[Row], members: Mapping[bytes, Iterable[bytes]] | None = None) -> None:
        """Rows of wanted leaves (`Row(leaf, unseen(leaf))` for one without a row), members by root. More is welcome."""
        self._rows.update((row.leaf, row) for row in rows)
        self._members.update((root, frozenset(leaves)) for root, leaves in (members or {}).items())
        self._decision = None

    def held(self) -> tuple[Assertion, ...]:
        """The assertions that hold from now on and did not before, by pair: to be written."""
        return tuple(sorted(self._complete().held))

    def places(self) -> dict[bytes, Place]:
        """New place of every leaf whose row changes: its root, its standing or, on a root, where it is full."""
        return self._complete().changed()

    def moves(self) -> dict[bytes, bytes]:
        """New root of every leaf that changes its customer."""
        return self._complete().moves()

    def customers(self) -> dict[bytes, tuple[bytes, ...]]:
        """Root → sorted leaves of every customer that gains or loses a leaf; () for one that is none any more."""
        return self._complete().customers()

    def _decided(self) -> "_Decision":
        if self._decision is None:
            self._decision = _Decision(self._change, self._rows, self._members)
            self._decision.run()
        return self._decision

    def _complete(self) -> "_Decision":
        if self.wanted() or self.wanted_customers():
            raise ValueError("more rows are wanted before anything can be said")
        return self._decided()


class _Change(NamedTuple):
    said: Mapping[tuple[bytes, bytes], Assertion]
    erased: frozenset[bytes]
    reinstated: frozenset[bytes]
    leaves_max: int


class _Then:
    """Ties and places as they were before this step."""

    def __init__(self, decision: "_Decision") -> None:
        self._decision = decision
        self._ties: dict[bytes, dict[bytes, bool]] = {}

    def place(self, leaf: bytes) -> Place:
        return self._decision.row(leaf).place

    def ties(self, leaf: bytes) -> dict[bytes, bool]:
        if leaf not in self._ties:
            held = self._decision.row(leaf).held
            self._ties[leaf] = {_other(said, leaf): said.alias for said in held if said.ties}
        return self._ties[leaf]

    def erased(self, leaf: bytes) -> bool:
        return self.place(leaf).standing == ERASED

    def classes(self, leaves: set[bytes]) -> list[frozenset[bytes]]:
        return classes((leaf for leaf in leaves if not self.erased(leaf)), self.ties)


class _Now(_Then):
    """Ties as they are from now on, and places as far as they are decided."""

    def place(self, leaf: bytes) -> Place:
        return self._decision.decided.get(leaf) or super().place(leaf)

    def ties(self, leaf: bytes) -> dict[bytes, bool]:
        fresh = self._decision.fresh.get(leaf)
        if not fresh:
            return super().ties(leaf)
        ties = {other: alias for other, alias in super().ties(leaf).items() if other not in fresh}
        return ties | {other: said.alias for other, said in fresh.items() if said.ties}

    def erased(self, leaf: bytes) -> bool:
        change = self._decision.change
        stays = self._decision.row(leaf).place.standing == ERASED and leaf not in change.reinstated
        return stays or leaf in change.erased


class _Decision:
    """One run over the rows known so far; it stops where rows are missing and is started anew with more."""

    def __init__(self, change: _Change, rows: Mapping[bytes, Row], members: Mapping[bytes, frozenset[bytes]]) -> None:
        self.change = change
        self._rows, self._members = rows, members
        self.leaves_wanted: set[bytes] = set()
        self.customers_wanted: set[bytes] = set()
        self.decided: dict[bytes, Place] = {}
        self.fresh: defaultdict[bytes, dict[bytes, Assertion]] = defaultdict(dict)
        self.held: list[Assertion] = []
        self._then, self._now = _Then(self), _Now(self)
        self._open: list[set[bytes]] = [set() for _ in range(RANK_COUNT)]  # leaves to decide, by rank
        self._inside: defaultdict[bytes, set[bytes]] = defaultdict(set)  # root → leaves decided to be its
        self._concerned: set[bytes] = set()  # customers that somebody joins, leaves, or stops asking for
        self._left: set[bytes] = set()  # those of them that somebody left
        self._full: dict[bytes, int] = {}  # customers found full in this run
        self._reopened: set[bytes] = set()  # customers that were full and are counted anew

    def run(self) -> None:
        try:
            self._take_change()
            for rank in range(RANK_COUNT):
                self._decide_rank(rank)
            self.customers()
            self._need_all()
        except _MoreNeeded:
            return

    # --- what is known ---

    def row(self, leaf: bytes) -> Row:
        """The row, or a stand-in and a wish."""
        found = self._rows.get(leaf)
        if found is None:
            self.leaves_wanted.add(leaf)
            return Row(leaf, unseen(leaf))
        return found

    def _members_before(self, root: bytes) -> frozenset[bytes]:
        if self._then.place(root).root != root:
            return frozenset()
        found = self._members.get(root)
        if found is None:
            self.customers_wanted.add(root)
            return frozenset()
        return found

    def _need_all(self) -> None:
        if self.leaves_wanted or self.customers_wanted:
            raise _MoreNeeded

    # --- what changes at first ---

    def _take_change(self) -> None:
        for leaf in {leaf for pair in self.change.said for leaf in pair} | self.change.erased | self.change.reinstated:
            self.row(leaf)
        self._need_all()
        for said in self.change.said.values():
            self._take_assertion(said)
        for leaf in self.change.erased | self.change.reinstated:
            if self._then.erased(leaf) != self._now.erased(leaf):
                self._look_at(leaf)

    def _take_assertion(self, said: Assertion) -> None:
        before = next((known for known in self.row(said.a).held if known.pair == said.pair), None)
        if before is not None and newest(before, said) == before:
            return
        self.held.append(said)
        self.fresh[said.a][said.b] = self.fresh[said.b][said.a] = said
        if said.ties == (before is not None and before.ties):
            return
        self._look_at(said.b)
        if leaf_rank(said.a) == leaf_rank(said.b):
            self._look_at(said.a)

    def _look_at(self, leaf: bytes) -> None:
        self._open[leaf_rank(leaf)].add(leaf)

    # --- one rank ---

    def _decide_rank(self, rank: int) -> None:
        """Look, count who fits, and look again at those whom the count concerns, until it concerns nobody else."""
        leaves = self._open[rank]
        while True:
            self._close_over_aliases(leaves)
            wishes = {members: self._wish(members, self._now) for members in self._now.classes(leaves)}
            self._note_gains_and_losses(leaves, wishes)
            again = self._count(rank, leaves, wishes)
            if again <= leaves:
                break
            leaves |= again
        self._settle(leaves, wishes, rank)
        self._look_below(leaves, rank)

    def _close_over_aliases(self, leaves: set[bytes]) -> None:
        """Add whoever is or was in a class with one of `leaves`; both leaves of a tie that ended are among them."""
        edge = list(leaves)
        while edge:
            leaf = edge.pop()
            aliases = (other for other, alias in self._now.ties(leaf).items() if alias)
            near = {other for other in aliases if leaf_rank(other) == leaf_rank(leaf)} - leaves
            leaves |= near
            edge.extend(near)
        self._need_all()

    def _wish(self, members: frozenset[bytes], view: _Then) -> bytes | None:
        """The customer this class counts for: the one it would join, itself, or None (shared, or itself too large)."""
        if len(members) > self.change.leaves_max:
            return None
        seen = customers_seen(members, view.ties, view.place)
        if len(seen) > 1:
            return None
        return next(iter(seen), min(members))

    def _note_gains_and_losses(self, leaves: set[bytes], wishes: Mapping[frozenset[bytes], bytes | None]) -> None:
        before = _by_leaf({members: self._wish(members, self._then) for members in self._then.classes(leaves)})
        after = _by_leaf(wishes)
        for leaf in leaves:
            left, gained = before.get(leaf), after.get(leaf)
            if left != gained:
                self._concerned.update(root for root in (left, gained) if root is not None)
                self._left.update(() if left is None else (left,))
        for root in {*before.values(), *after.values()}:
            if root is not None:
                self.row(root)
        self._need_all()

    # --- who fits ---

    def _count(self, rank: int, leaves: set[bytes], wishes: Mapping[frozenset[bytes], bytes | None]) -> set[bytes]:
        """Decide which concerned customers are full at this rank; the leaves that must be looked at because of it."""
        joiners = Counter[bytes | None]()
        for members, root in wishes.items():
            joiners[root] += len(members)
        again: set[bytes] = set()
        for root in self._concerned:
            if leaf_rank(root) < rank and self._now.place(root).root == root and self._now.place(root).ties:
                again |= self._count_customer(root, rank, leaves, joiners[root])
        self._need_all()
        return again

    def _count_customer(self, root: bytes, rank: int, leaves: set[bytes], joiners: int) -> set[bytes]:
        members = self._members_before(root)
        stayers = {leaf for leaf in members if leaf_rank(leaf) == rank and leaf not in leaves}
        if self._full_from(root) < rank:
            return stayers
        inside = self._inside[root] | {leaf for leaf in members if leaf_rank(leaf) < rank and leaf not in self.decided}
        was_full_from = self._then.place(root).full
        if rank >= was_full_from:
            if rank == was_full_from and root not in self._left:
                return set()
            self._reopened.add(root)
            turned_away = {other for leaf in inside for other in self._now.ties(leaf) if leaf_rank(other) == rank}
            if not turned_away <= leaves:
                return turned_away
        if len(inside) + len(stayers) + joiners <= self.change.leaves_max:
            return set()
        self._full[root] = rank
        return stayers

    def _full_from(self, root: bytes) -> int:
        """The rank from which on nobody joins `root`, as far as known."""
        before = NOT_FULL if root in self._reopened else self._then.place(root).full
        return self._full.get(root, before)

    # --- what follows ---

    def _settle(self, leaves: set[bytes], wishes: Mapping[frozenset[bytes], bytes | None], rank: int) -> None:
        for leaf in leaves:
            if self._now.erased(leaf):
                self._put(leaf, Place(leaf, ERASED))
        for members, wish in wishes.items():
            too_large = len(members) > self.change.leaves_max
            place = self._place(min(members), wish, rank)
            for leaf in members:
                self._put(leaf, Place(leaf, CROWDED) if too_large else place)

    def _place(self, own: bytes, wish: bytes | None, rank: int) -> Place:
        if wish is None:
            return Place(own, SHARED)
        if wish == own:
            return Place(own, ALONE)
        return Place(own, CROWDED) if self._full_from(wish) <= rank else Place(wish, JOINED)

    def _put(self, leaf: bytes, place: Place) -> None:
        self.decided[leaf] = place
        self._inside[place.root].add(leaf)

    def _look_below(self, leaves: set[bytes], rank: int) -> None:
        """Whoever is tied to a leaf that moved, was hidden or shown must be looked at."""
        for leaf in leaves:
            then, now = self._then.place(leaf), self._now.place(leaf)
            if (then.root, then.ties) != (now.root, now.ties):
                for other in self._now.ties(leaf):  # the lower leaf of a tie that ended is looked at anyway
                    if leaf_rank(other) > rank:
                        self._look_at(other)

    # --- answers ---

    def changed(self) -> dict[bytes, Place]:
        """Every place that differs from the stored one."""
        looked_at = {leaf: self._with_full(leaf) for leaf in {*self.decided, *self._concerned}}
        return {leaf: place for leaf, place in looked_at.items() if place != self._then.place(leaf)}

    def _with_full(self, leaf: bytes) -> Place:
        place = self._now.place(leaf)
        is_open_customer = place.root == leaf and place.ties
        return place._replace(full=self._full_from(leaf) if is_open_customer else NOT_FULL)

    def moves(self) -> dict[bytes, bytes]:
        """Leaf → new root, where it differs."""
        return {leaf: place.root for leaf, place in self.decided.items() if place.root != self._then.place(leaf).root}

    def customers(self) -> dict[bytes, tuple[bytes, ...]]:
        """Root → sorted leaves after the step, where membership differs."""
        moves = self.moves()
        roots = {*moves.values(), *(self._then.place(leaf).root for leaf in moves)}
        return {root: self._members_after(root) for root in sorted(roots)}

    def _members_after(self, root: bytes) -> tuple[bytes, ...]:
        if self._now.place(root).root != root:
            return ()
        stayed = {leaf for leaf in self._members_before(root) if leaf not in self.decided}
        return tuple(sorted(stayed | self._inside[root]))


def _by_leaf(wishes: Mapping[frozenset[bytes], bytes | None]) -> dict[bytes, bytes | None]:
    return {leaf: wish for members, wish in wishes.items() for leaf in members}


def _other(said: Assertion, leaf: bytes) -> bytes:
    return said.b if said.a == leaf else said.a
