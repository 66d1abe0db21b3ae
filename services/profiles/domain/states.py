"""Decoded states of the leaves and customers of one step: folded in place, merged, undone, and encoded once.

A leaf has a state of its own; a customer of several leaves has a merged one on its root beside it.
"""

from collections.abc import Collection, Mapping, Sequence

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


class States:
    """States as bytes when loaded (`rows`), decoded when first asked for."""

    def __init__(self, rows: Mapping[bytes, LeafRow]) -> None:
        self._stored = {leaf: row.state for leaf, row in rows.items()}  # what `_applied` was applied to
        self._merged = {leaf: row.merged for leaf, row in rows.items()}
        self._own: dict[bytes, profiles.Profile] = {}
        self._whole: dict[bytes, profiles.Profile] = {}
        self._applied: dict[bytes, list[tuple[Touchpoint, str, int]]] = {}

    def own(self, leaf: bytes) -> profiles.Profile:
        """The leaf's own state. Raises Unloaded."""
        if leaf not in self._own:
            if leaf not in self._stored:
                raise Unloaded(leaf)
            stored = self._stored[leaf]
            self._own[leaf] = profiles.decode(stored) if stored else profiles.new()
        return self._own[leaf]

    def whole(self, root: bytes) -> profiles.Profile:
        """The merged state of a root of several leaves."""
        if root not in self._whole:
            self._whole[root] = profiles.decode(self._merged[root])
        return self._whole[root]

    def customer(self, row: LeafRow) -> profiles.Profile:
        """The state of the customer whose root this is."""
        return self.whole(row.leaf) if row.merged else self.own(row.leaf)

    def fold(self, leaf: bytes, root: LeafRow, touchpoint: Touchpoint, source: str, trust: int) -> None:
        """Fold a touchpoint into its leaf and its customer, in place; after an error `undo` both."""
        profiles.fold(self.own(leaf), touchpoint, source, trust)
        if root.merged:
            profiles.fold(self.whole(root.leaf), touchpoint, source, trust)

    def keep(self, leaf: bytes, touchpoint: Touchpoint, source: str, trust: int) -> None:
        """The touchpoint counts: a later `undo` folds it again."""
        self._applied.setdefault(leaf, []).append((touchpoint, source, trust))

    def undo(self, leaf: bytes) -> None:
        """Rebuild the leaf's own state from what was loaded and what was kept."""
        stored = self._stored[leaf]
        state = profiles.decode(stored) if stored else profiles.new()
        for touchpoint, source, trust in self._applied.get(leaf, ()):
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
        self._stored[leaf] = b""
        self._applied.pop(leaf, None)

    def encoded(self, row: LeafRow) -> tuple[bytes, bytes]:
        """(own, merged) bytes for a row, as they are now."""
        own, whole = self._own.get(row.leaf), self._whole.get(row.leaf)
        state = row.state if own is None or row.erased else profiles.encode(own)
        return state, row.merged if whole is None else profiles.encode(whole)

    def _sum(self, state: profiles.Profile, leaves: Sequence[bytes]) -> profiles.Profile:
        for leaf in leaves:
            state = profiles.merge(state, self.own(leaf))
        return state
