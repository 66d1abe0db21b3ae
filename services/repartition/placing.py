"""Where each record of `touchpoints` lies among another number of partitions. Pure.

What one request brought to one old partition may belong to several new ones: it is cut, never joined, and each piece
keeps its order, its ids and its own personal data. So every leaf's touchpoints keep their order and their keys.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from shared.codec import Unknown, decode, encode
from shared.errors import Poison
from shared.events import (
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    LeafErased,
    LeafReinstated,
    Sealed,
    TouchpointsRecorded,
)
from shared.ids import LEAF_BYTES, partition_of

Divide = Callable[[str, Sealed, Sequence[Sequence[int]]], Sequence[Sealed | None]]
"""(workspace, sealed, groups of touchpoint indexes) → the sealed field of each group, renumbered from 0."""


class Placed(NamedTuple):
    """One record for one new partition. `waits`: an import's end, to be said everywhere once its last part was met."""

    partition: int
    value: bytes
    waits: ImportFinished | None = None


def place(value: bytes, key: bytes, partition: int, partitions: int, divide: Divide) -> list[Placed]:
    """The new records of one old one of `touchpoints` partition `partition`, among `partitions` new ones.

    What this code does not know is copied as it is: by its key where that is a leaf's, else by its old partition.
    Raises NewerVersion: what is too new to read cannot be placed either.
    """
    try:
        fact = decode(value)
    except Poison:
        fact = Unknown("")
    match fact:
        case TouchpointsRecorded():
            return _touchpoints(fact, value, partitions, divide)
        case IdentityLinked() | IdentityUnlinked():
            return [Placed(partition_of(min(fact.a, fact.b), partitions), value)]
        case ErasureRequested() | LeafErased() | LeafReinstated():
            return [Placed(partition_of(fact.leaf, partitions), value)]
        case ImportFinished():
            return [Placed(partition, value, fact)]
    return [Placed(by_key(key, partition, partitions), value)]


def by_key(key: bytes, partition: int, partitions: int) -> int:
    """The partition of a record by its key, a leaf or customer; of one without such a key by its old partition."""
    return partition_of(key, partitions) if len(key) == LEAF_BYTES else partition % partitions


def _touchpoints(fact: TouchpointsRecorded, value: bytes, partitions: int, divide: Divide) -> list[Placed]:
    groups: dict[int, list[int]] = {}
    for index, touchpoint in enumerate(fact.touchpoints):
        groups.setdefault(partition_of(touchpoint.leaves[0], partitions), []).append(index)
    if len(groups) <= 1:
        return [Placed(partition, value) for partition in groups]  # the very bytes
    sealed: Sequence[Sealed | None] = [None] * len(groups)
    if fact.personal is not None:
        sealed = divide(fact.workspace, fact.personal, list(groups.values()))
    pieces = zip(groups.items(), sealed, strict=True)
    return [Placed(partition, encode(_piece(fact, mine, personal))) for (partition, mine), personal in pieces]


def _piece(fact: TouchpointsRecorded, mine: Sequence[int], personal: Sealed | None) -> Fact:
    return replace(fact, touchpoints=tuple(fact.touchpoints[index] for index in mine), personal=personal)


class ImportEnds:
    """Ends of imports met so far: an import has ended on the new log when it has on every old partition."""

    def __init__(self, old_partitions: int) -> None:
        self._old_partitions = old_partitions
        self._met: dict[tuple[str, str], set[int]] = {}

    def met(self, end: ImportFinished, partition: int) -> bool:
        """Note the end on an old partition; True when it was the last one missing, and only then."""
        seen = self._met.setdefault((end.workspace, end.import_id), set())
        if partition in seen:
            return False
        seen.add(partition)
        return len(seen) == self._old_partitions


def everywhere(
    passed: Mapping[tuple[str, str], set[tuple[int, int]]], old: int, new: int
) -> list[tuple[str, str, int, int]]:
    """Rows (workspace, import, profile-changes partition, touchpoints partition) that say of each import that passed on
    all `old` × `old` partitions that it passed on all `new` × `new`; one that has not is said of nowhere."""
    complete = [name for name, pairs in passed.items() if len(pairs) == old * old]
    return [(*name, to, came) for name in sorted(complete) for to in range(new) for came in range(new)]
