"""The sequential oracle: what the whole touchpoints log means, worked out plainly, at once and with nothing cached.

A leaf's state is the fold of its distinct touchpoints since its last erasure, in log order of its own partition. A tie
counts when it was recorded after the last erasure and the last reinstatement of both its leaves. Places are
`identity.places` of all ties that count; a customer's state is ⊕ of its leaves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.profiles.domain.identity import Assertion, Place, assertion, holding, places
from shared import profile as profiles
from shared.codec import decode
from shared.events import (
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    LeafErased,
    LeafReinstated,
    Touchpoint,
    TouchpointsRecorded,
)
from shared.ids import dedup_scope
from shared.log.port import Record
from shared.profile import Profile

Told = tuple[Fact, int]
"""A fact and when it counts as recorded."""


@dataclass
class LeafTruth:
    """What is true of one leaf."""

    applied: list[tuple[Touchpoint, str, int]] = field(default_factory=list)
    erased: bool = False
    mute_until: int = -1  # ties recorded up to here say nothing about it

    @property
    def state(self) -> Profile:
        """The fold of what counts."""
        state = profiles.new()
        for touchpoint, source, trust in self.applied:
            profiles.fold(state, touchpoint, source, trust)
        return state


@dataclass
class Truth:
    """What the log means."""

    leaves: dict[bytes, LeafTruth] = field(default_factory=dict)
    seen: set[tuple[int, bytes, bytes]] = field(default_factory=set)
    places: dict[bytes, Place] = field(default_factory=dict)

    def leaf(self, leaf: bytes) -> LeafTruth:
        """The truth about a leaf, made if it was never heard of."""
        return self.leaves.setdefault(leaf, LeafTruth())

    def members(self, root: bytes) -> list[bytes]:
        """The living leaves of a customer."""
        return sorted(leaf for leaf, place in self.places.items() if place.root == root)

    def state_of(self, root: bytes) -> bytes:
        """The bytes of a customer's state."""
        whole = profiles.new()
        for leaf in self.members(root):
            whole = profiles.merge(whole, self.leaf(leaf).state)
        return profiles.encode(whole)


def truth_of(partitions: Iterable[Iterable[Told]]) -> Truth:
    """What the whole log means. Each partition's facts in log order."""
    truth, said = Truth(), list[tuple[Assertion, int]]()
    for facts in partitions:
        for fact, recorded_at in facts:
            said += [(one, recorded_at) for one in _take(truth, fact, recorded_at)]
    for one, _ in said:
        for leaf in one.pair:
            truth.leaf(leaf)
    counted = [one for one, at in said if all(at > truth.leaf(leaf).mute_until for leaf in one.pair)]
    erased = [leaf for leaf, known in truth.leaves.items() if known.erased]
    truth.places = places(truth.leaves, holding(counted).values(), erased)
    return truth


def _take(truth: Truth, fact: Fact, recorded_at: int) -> list[Assertion]:
    match fact:
        case TouchpointsRecorded():
            return _touched(truth, fact)
        case IdentityLinked() | IdentityUnlinked():
            tie = isinstance(fact, IdentityLinked)
            alias = isinstance(fact, IdentityLinked) and fact.alias
            how = {"tie": tie, "alias": alias, "operator": fact.operator}
            return [assertion(fact.a, fact.b, **how, occurred_at=fact.occurred_at, id=fact.id)]
        case LeafErased():
            leaf = truth.leaf(fact.leaf)
            leaf.applied, leaf.erased, leaf.mute_until = [], True, max(leaf.mute_until, recorded_at)
        case LeafReinstated():
            leaf = truth.leaf(fact.leaf)
            if leaf.erased:
                leaf.erased, leaf.mute_until = False, max(leaf.mute_until, recorded_at)
        case _:
            pass
    return []


def _touched(truth: Truth, fact: TouchpointsRecorded) -> list[Assertion]:
    said = []
    for touchpoint in fact.touchpoints:
        owner, *others = touchpoint.leaves
        key = touchpoint.day, touchpoint.id, dedup_scope(fact.workspace, fact.source, owner)
        if key in truth.seen:
            continue
        truth.seen.add(key)
        if not truth.leaf(owner).erased:
            truth.leaf(owner).applied.append((touchpoint, fact.source, fact.trust))
        at, how = touchpoint.occurred_at, {"tie": True, "alias": False, "operator": False}
        said += [assertion(owner, other, **how, occurred_at=at, id=touchpoint.id) for other in others]
    return said


def told(records: Iterable[Record], recorded_at: Mapping[int, int]) -> list[Told]:
    """A partition's facts with the times they count as recorded (position → ms)."""
    facts = [(decode(record.value), recorded_at[record.position]) for record in records]
    return [(fact, at) for fact, at in facts if isinstance(fact, Fact)]
