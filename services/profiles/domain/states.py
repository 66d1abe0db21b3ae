"""Decoded states of the leaves and customers of one step: folded in place, merged, undone, and encoded once.

A leaf has a state of its own; a customer of several leaves has a merged one on its root beside it.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from services.profiles.domain.rows import LeafRow
from shared import profile as profiles
from shared.events import Touchpoint

SEVERAL = b"\xc0"
"""Stands for a merged state that is not encoded yet: it tells a root of several leaves from a leaf alone."""


class Unloaded(Exception):
    """Not an error: the state of this leaf was not loaded."""

    def __init__(self, leaf: bytes) -> None:
        super().__init__("a state is wanted")
        self.leaf = leaf


class Ledger(msgspec.Struct, gc=False):
    """Where a leaf's touchpoints go while nothing moves and none of them fails.

    `root`: of its customer · `whole`: the customer's merged state, None where the leaf is alone.
    """

    root: bytes
    own: profiles.Profile
    whole: profiles.Profile | None

    def fold(self, touchpoint: Touchpoint, source: str, trust: int) -> None:
        """Fold a touchpoint into its leaf and its customer, in place; after an error `undo` both."""
        profiles.fold(self.own, touchpoint, source, trust)
        if self.whole is not None:
            profiles.fold(self.whole, touchpoint, source, trust)


class States:
    """States as bytes when loaded (`rows`), decoded when first asked for."""

    def __init__(self, rows: Mapping[bytes, LeafRow]) -> None:
        self._rows = rows  # as loaded: what `_counted` was folded into
        self._erased: set[bytes] = set()
        self._own: dict[bytes, profiles.Profile] = {}
        self._whole: dict[bytes, profiles.Profile] = {}
        self._counted: list[tuple[list[Touchpoint], str, int]] = []

    def own(self, leaf: bytes) -> profiles.Profile:
        """The leaf's own state. Raises Unloaded."""
        own = self._own.get(leaf)
        if own is None:
            own = self._own[leaf] = self._loaded(leaf)
        return own

    def whole(self, root: bytes) -> profiles.Profile:
        """The merged state of a root of several leaves."""
        if root not in self._whole:
            self._whole[root] = profiles.decode(self._rows[root].merged)
        return self._whole[root]

    def customer(self, row: LeafRow) -> profiles.Profile:
        """The state of the customer whose root this is."""
        return self.whole(row.leaf) if row.merged else self.own(row.leaf)

    def ledger(self, leaf: bytes, root: LeafRow) -> Ledger:
        """Where touchpoints of the leaf go as long as `root` is its customer's. Void after an `undo`."""
        whole = self.whole(root.leaf) if root.merged else None
        return Ledger(root.leaf, self.own(leaf), whole)

    def counting(self, source: str, trust: int) -> list[Touchpoint]:
        """A list for the touchpoints of one record, in order, as soon as they count: a later `undo` reads it."""
        self._counted.append(([], source, trust))
        return self._counted[-1][0]

    def undo(self, leaf: bytes) -> None:
        """Rebuild the leaf's own state from what was loaded and what counts since."""
        state = self._loaded(leaf)
        for touchpoints, source, trust in self._counted:
            for touchpoint in touchpoints:
                if touchpoint.leaves[0] == leaf:
                    profiles.fold(state, touchpoint, source, trust)
        self._own[leaf] = state

    def remerge(self, root: bytes, leaves: Collection[bytes]) -> None:
        """Rebuild the merged state of a customer from its leaves."""
        self._whole[root] = self._sum(profiles.new(), sorted(leaves))

    def grown(self, root: bytes, added: Sequence[bytes]) -> profiles.Profile:
        """The merged state of a customer of several leaves with some more."""
        return self._sum(self.whole(root), added)

    def summed(self, leaves: Sequence[bytes]) -> profiles.Profile:
        """The merged state of a customer made of these leaves."""
        return self._sum(profiles.new(), leaves)

    def settle(self, root: bytes, state: profiles.Profile | None) -> None:
        """The merged state of a root from now on; None when it is one leaf alone, or no root any more."""
        self._whole.pop(root, None)
        if state is not None:
            self._whole[root] = state

    def erase(self, leaf: bytes) -> None:
        """Nothing is known of this leaf any more."""
        self._own[leaf] = profiles.new()
        self._erased.add(leaf)

    def encoded(self, row: LeafRow) -> tuple[bytes, bytes]:
        """(own, merged) bytes for a row, as they are now. `merged` is encoded already where something is in it."""
        own = self._own.get(row.leaf)
        state = row.state if own is None or row.erased else profiles.encode(own)
        return state, profiles.encode(self._whole[row.leaf]) if row.merged == SEVERAL else row.merged

    def _loaded(self, leaf: bytes) -> profiles.Profile:
        if leaf not in self._rows:
            raise Unloaded(leaf)
        stored = b"" if leaf in self._erased else self._rows[leaf].state
        return profiles.decode(stored) if stored else profiles.new()

    def _sum(self, state: profiles.Profile, leaves: Sequence[bytes]) -> profiles.Profile:
        for leaf in leaves:
            state = profiles.merge(state, self.own(leaf))
        return state
