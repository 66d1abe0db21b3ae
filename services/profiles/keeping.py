"""What a run of touchpoints brings, and its personal values: opened, and kept by their leaves, never of an erased one.

It also notes when each sealing key was last met, so that nobody destroys one that is still in use.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from services.profiles.domain.identity import Assertion
from services.profiles.domain.personal import IDENTIFIER, Newest
from services.profiles.domain.rows import LeafRow, ParkedRow, SealingUse, TouchpointKey
from services.profiles.domain.terms import Fresh
from services.profiles.ports import Transaction
from shared.errors import Poison
from shared.events import Fact, Sealed, TouchpointsRecorded
from shared.log.port import Record
from shared.sealing import PersonalFields
from shared.topics import TOUCHPOINTS

NOTED_MS = 1_000
"""The use of a key is noted to the second, rounded up: one row a second and partition at most."""

Open = Callable[[str, Sealed], PersonalFields]
"""(workspace, sealed) → opened personal fields; {} where the key was destroyed. Raises Poison, KeyAway."""


class Logged(NamedTuple):
    """One record of a partition, decoded, with the time it counts as recorded."""

    partition: int
    record: Record
    recorded_at: int
    fact: Fact


class Told(NamedTuple):
    """A touchpoints record and which of its touchpoints are fresh, with the ties they bring."""

    logged: Logged
    fact: TouchpointsRecorded
    fresh: list[Fresh]
    said: list[Assertion]


class Kept(NamedTuple):
    """Leaves whose identifier is known from now on, and records whose personal data does not open."""

    known: frozenset[bytes]
    parked: list[ParkedRow]


async def keep_personal(
    transaction: Transaction,
    open_sealed: Open,
    told: Sequence[Told],
    rows: Mapping[bytes, LeafRow],
    void: Collection[TouchpointKey],
) -> Kept:
    """Open and keep the personal values of what counts; `rows`: every leaf that is named, `void`: what does not count.

    Raises KeyAway where a key is not on this machine yet.
    """
    newest = Newest(rows)
    parked: list[ParkedRow] = []
    for one in told:
        if not (opened := _opened(open_sealed, one, parked)):
            continue
        for item in one.fresh:
            fields = opened.get(item.place)
            if fields and item.key not in void:
                newest.add(one.fact.workspace, item.touchpoint, fields)
    kept = newest.rows()
    if kept:
        await transaction.keep_personal(kept)
    return Kept(frozenset(row.leaf for row in kept if row.field == IDENTIFIER), parked)


def sealing_uses(told: Sequence[Told]) -> list[SealingUse]:
    """Which keys these records are sealed to, on each partition with its latest time rounded up to the second."""
    latest: dict[tuple[str, str, int], int] = {}
    for one in told:
        if one.fact.personal is not None:
            use = one.fact.workspace, one.fact.personal.key, one.logged.partition
            latest[use] = max(one.logged.recorded_at, latest.get(use, 0))
    return [SealingUse(*use, -(-at // NOTED_MS) * NOTED_MS) for use, at in sorted(latest.items())]


def _opened(open_sealed: Open, one: Told, parked: list[ParkedRow]) -> PersonalFields:
    sealed, record = one.fact.personal, one.logged.record
    if sealed is None:
        return {}
    try:
        return open_sealed(one.fact.workspace, sealed)
    except Poison as error:
        at = (TOUCHPOINTS, one.logged.partition, record.position, -1)
        who = (one.fact.workspace, one.fact.source)
        reason = f"personal data does not open: {error}"
        parked.append(ParkedRow(*at, *who, reason, record.value, one.logged.recorded_at, sealing_key=sealed.key))
        return {}
