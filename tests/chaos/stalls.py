"""How long nothing went on, by kind of fault: gaps between signs of progress, beside what was done in them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from shared.database import DATABASE_ERRORS, Database, fetch
from shared.errors import RaftarError
from tests.support.house import House

LOOK_SECONDS = 0.25
FAULTS_SHOWN = 8
AFTER_SECONDS = 1.0
"""A gap that begins so soon after a fault is over still counts as its."""

ACCEPTING, FOLDING, DECIDING = "accepting", "folding", "deciding"


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault as it was carried out; monotonic seconds."""

    kind: str
    began_at: float
    over_at: float


def longest_gaps(signs: Sequence[float], faults: Sequence[Happened]) -> dict[str, float]:
    """Kind of fault → the longest time without a sign that touches one of that kind. `signs`: in order."""
    longest: dict[str, float] = defaultdict(float)
    gaps = [(earlier, later) for earlier, later in pairwise(signs) if later - earlier > 0.0]
    for fault in faults:
        touching = [b - a for a, b in gaps if _touches(fault, a, b)]
        longest[fault.kind] = max(longest[fault.kind], max(touching, default=0.0))
    return dict(longest)


def table(columns: Mapping[str, Sequence[float]], faults: Sequence[Happened]) -> str:
    """One line a kind of fault: how often, and the longest stall of each column in seconds."""
    gaps = {name: longest_gaps(signs, faults) for name, signs in columns.items()}
    lines = [f"{'longest stall, seconds':<26}{'times':>6}" + "".join(f"{name:>11}" for name in columns)]
    for kind in sorted({fault.kind for fault in faults}):
        times = sum(fault.kind == kind for fault in faults)
        lines.append(f"  {kind:<24}{times:>6}" + "".join(f"{gaps[name][kind]:>11.1f}" for name in columns))
    return "\n".join(lines)


def worst(name: str, signs: Sequence[float], faults: Sequence[Happened], began_at: float) -> str:
    """The longest gap, when it began, and every fault that touches it in order."""
    gaps = [(later - earlier, earlier) for earlier, later in pairwise(signs)]
    length, at = max(gaps, default=(0.0, began_at))
    touching = [one for one in sorted(faults, key=lambda one: one.began_at) if _touches(one, at, at + length)]
    kinds = ", ".join(
        f"{one.kind} {one.began_at - began_at:.1f}–{one.over_at - began_at:.1f}" for one in touching[:FAULTS_SHOWN]
    )
    kinds += f" and {len(touching) - FAULTS_SHOWN} more" if len(touching) > FAULTS_SHOWN else ""
    return f"  longest without {name}: {length:.1f} s from {at - began_at:.1f} s on ({kinds})"


def _touches(fault: Happened, earlier: float, later: float) -> bool:
    return later > fault.began_at and earlier < fault.over_at + AFTER_SECONDS


class Pulse:
    """Looks from outside how far folding and deciding are; each look that sees a step forward is a sign."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.signs: dict[str, list[float]] = {FOLDING: [], DECIDING: []}
        self._seen = {FOLDING: -1, DECIDING: -1}

    async def watch(self) -> None:
        """Look until cancelled."""
        profiles, scoring = self._house.database("profiles"), self._house.database("scoring")
        try:
            while True:
                await self._look(profiles, FOLDING, "touchpoints")
                await self._look(scoring, DECIDING, "profile-changes")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await asyncio.gather(profiles.close(), scoring.close())

    async def _look(self, database: Database, name: str, topic: str) -> None:
        with suppress(RaftarError, OSError, TimeoutError, *DATABASE_ERRORS):  # a database that is away shows no sign
            async with asyncio.timeout(2.0), database.snapshot() as connection:
                statement = "SELECT coalesce(sum(position), 0) AS n FROM checkpoint WHERE topic = $1"
                at = int((await fetch(connection, statement, topic))[0].n)
            if at > self._seen[name]:
                self._seen[name] = at
                self.signs[name].append(time.monotonic())
