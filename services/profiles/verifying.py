"""Refolding customers alone from the log, and asking whether the log holds anything that nobody counted.

A customer is read in one snapshot: rows and the proofs of its touchpoints; the touchpoints themselves come from the
log, never from the bodies the timeline keeps. So a row that somebody or something changed is found, whatever it is.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.candidate import parked_places, up_to
from services.profiles.comparing import patient, positions
from services.profiles.domain.drift import Drift, drifts, listed, placed
from services.profiles.domain.rows import TouchpointKey
from services.profiles.store import select_members
from shared import profile as profiles
from shared.codec import decode
from shared.database import Database, fetch
from shared.errors import NewerVersion, NotAccepting, OutOfRange, Poison
from shared.events import Fact, Touchpoint, TouchpointsRecorded
from shared.ids import dedup_scope
from shared.log.port import Log, Record
from shared.topics import TOUCHPOINTS

TOUCHPOINTS_PAGE = 5_000
SPAN_POSITIONS = 64
"""Wanted records so near to each other are read in one go."""

Place = tuple[int, int, int]
"""(partition, position, index in the record) of a touchpoint on the log."""


class Proof(NamedTuple):
    """What the table says of one touchpoint that counts."""

    leaf: bytes
    key: TouchpointKey
    place: Place


class Lost(NamedTuple):
    """A touchpoint the log holds and nobody counted."""

    workspace: str
    leaf: bytes
    place: Place


@dataclass(slots=True)
class Verdict:
    """What one verification found. `unreadable`: touchpoints the log does not hold any more (archived)."""

    touchpoints: int = 0
    unreadable: int = 0
    drifts: list[Drift] = field(default_factory=list)


@dataclass(slots=True)
class Stretch:
    """What a look at a stretch of the log found."""

    touchpoints: int = 0
    lost: list[Lost] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies customers and stretches of the log. It reads only."""

    log: Log
    database: Database

    async def customer(self, root: bytes) -> Verdict:
        """Refold the customer with this root from the log. Raises NotAccepting while the log does not answer."""
        verdict = Verdict()
        async with self.database.snapshot() as connection:
            await patient(connection)
            columns = "leaf, workspace, root, state, merged, erased"
            leaves = await fetch(connection, f"{select_members(columns)} ORDER BY leaf", root)
            row = next((one for one in leaves if one.leaf == root), None)
            if row is None:
                return verdict
            states = {}
            for one in leaves:
                states[one.leaf] = await self._refold(connection, root, one.leaf, verdict)
            shown = await fetch(connection, f"SELECT {', '.join(_LISTED)} FROM customer WHERE customer = $1", root)
        if verdict.unreadable:
            return verdict  # nothing can be said about a customer part of whose past is archived
        for one in leaves:
            verdict.drifts += drifts(root, one.leaf, one.state, profiles.encode(states[one.leaf]))
        whole = _merged(states)
        if len(leaves) > 1:
            verdict.drifts += drifts(root, root, row.merged, profiles.encode(whole))
        elif row.merged:
            verdict.drifts += placed(root, root, "merged", "present", "absent")
        if not row.erased:
            verdict.drifts += listed(root, _listing(shown), _listing_of(whole, bool(row.state or row.merged)))
        verdict.drifts = _once(verdict.drifts)
        return verdict

    async def stretch(self, partition: int, position: int, records_max: int) -> Stretch:
        """Whether every touchpoint of some records from `position` on is counted. Only what live has folded is read.

        Raises NotAccepting, OutOfRange.
        """
        async with self.database.snapshot() as connection:
            goal = (await positions(connection)).get(partition, 0)
        found = Stretch()
        if position >= goal:
            return found
        batch = await self.log.read(TOUCHPOINTS, partition, position, records_max=records_max, wait_seconds=1.0)
        await self.log.release(TOUCHPOINTS, partition, batch.next_position)
        async with self.database.snapshot() as connection:
            whole, parked = await parked_places(connection, partition, batch)
            for record in up_to(batch, goal, whole).records:
                fact = _decoded(record)
                for place, touchpoint in enumerate(fact.touchpoints if fact is not None else ()):
                    if fact is not None and (partition, record.position, place) not in parked:
                        found.touchpoints += 1
                        if not await _is_counted(connection, _key(fact, touchpoint)):
                            at = (partition, record.position, place)
                            found.lost.append(Lost(fact.workspace, touchpoint.leaves[0], at))
        return found

    # --- one leaf ---------------------------------------------------------------------------------------------

    async def _refold(
        self, connection: AsyncConnection, root: bytes, leaf: bytes, verdict: Verdict
    ) -> profiles.Profile:
        """The state of one leaf as the log gives it; what does not fit is noted in the verdict."""
        state = profiles.new()
        async for page in _proofs(connection, leaf):
            records = await self._records([proof.place for proof in page], verdict)
            for proof in page:
                verdict.touchpoints += 1
                record = records.get(proof.place[:2])
                fact = _decoded(record) if record is not None else None
                touchpoint = _touchpoint(fact, proof)
                if fact is None or touchpoint is None:
                    if not verdict.unreadable:
                        stored = f"{TOUCHPOINTS}/{'/'.join(map(str, proof.place))}"
                        verdict.drifts += placed(root, leaf, "touchpoint", stored, "absent")
                    continue
                try:
                    profiles.fold(state, touchpoint, fact.source, fact.trust)
                except Poison as error:
                    verdict.drifts += placed(root, leaf, "touchpoint", "counted", f"cannot be folded: {error}")
        return state

    async def _records(self, places: Sequence[Place], verdict: Verdict) -> dict[tuple[int, int], Record]:
        """The records at these places, by (partition, position), read in the order of the log."""
        wanted: defaultdict[int, set[int]] = defaultdict(set)
        for partition, position, _ in places:
            wanted[partition].add(position)
        found: dict[tuple[int, int], Record] = {}
        for partition, at in sorted(wanted.items()):
            left = sorted(at)
            while left:
                near = [position for position in left if position < left[0] + SPAN_POSITIONS]
                for record in await self._read(partition, near, verdict):
                    found[partition, record.position] = record
                left = left[len(near) :]
        return found

    async def _read(self, partition: int, near: Sequence[int], verdict: Verdict) -> list[Record]:
        """Records from the first to the last of some near positions. The log prefetches nothing behind them for us."""
        found = await self._read_near(partition, near, verdict)
        if found:
            await self.log.release(TOUCHPOINTS, partition, found[-1].position + 1)
        return found

    async def _read_near(self, partition: int, near: Sequence[int], verdict: Verdict) -> list[Record]:
        position, found = near[0], list[Record]()
        while position <= near[-1]:
            try:
                batch = await self.log.read(
                    TOUCHPOINTS, partition, position, records_max=near[-1] - position + 1, wait_seconds=5.0
                )
            except OutOfRange as error:
                if position >= error.earliest:
                    return found  # behind the end: the log does not hold what was counted
                verdict.unreadable += sum(one < error.earliest for one in near)
                return found
            if batch.next_position == position:
                await self._check_end(partition, position)
                return found
            found += batch.records
            position = batch.next_position
        return found

    async def _check_end(self, partition: int, position: int) -> None:
        """Nothing came: at the log's end that is the answer, before it the log is away."""
        if position < (await self.log.bounds(TOUCHPOINTS))[partition].end:
            raise NotAccepting("the log does not answer")


async def _proofs(connection: AsyncConnection, leaf: bytes) -> AsyncIterator[list[Proof]]:
    """Proofs of a leaf's touchpoints that count, in pages. A blank body is of an erased past: it counts no more."""
    after: tuple[Any, ...] = (-(2**63), b"", b"", -(2**31))
    statement = f"""SELECT day, id, scope, partition, position, place, occurred_at FROM touchpoint
WHERE leaf = $1 AND length(body) > 0 AND (occurred_at, id, scope, day) > ($2, $3, $4, $5)
ORDER BY occurred_at, id, scope, day LIMIT {TOUCHPOINTS_PAGE}"""
    while rows := await fetch(connection, statement, leaf, *after):
        yield [Proof(leaf, (row.day, row.id, row.scope), (row.partition, row.position, row.place)) for row in rows]
        last = rows[-1]
        after = (last.occurred_at, last.id, last.scope, last.day)


def _decoded(record: Record) -> TouchpointsRecorded | None:
    try:
        fact = decode(record.value)
    except (Poison, NewerVersion):
        return None
    return fact if isinstance(fact, Fact) and isinstance(fact, TouchpointsRecorded) else None


def _key(fact: TouchpointsRecorded, touchpoint: Touchpoint) -> TouchpointKey:
    return touchpoint.day, touchpoint.id, dedup_scope(fact.workspace, fact.source, touchpoint.leaves[0])


def _touchpoint(fact: TouchpointsRecorded | None, proof: Proof) -> Touchpoint | None:
    """The touchpoint a proof speaks of; None when the log says otherwise."""
    if fact is None or proof.place[2] >= len(fact.touchpoints):
        return None
    touchpoint = fact.touchpoints[proof.place[2]]
    fits = _key(fact, touchpoint) == proof.key and touchpoint.leaves[0] == proof.leaf
    return touchpoint if fits else None


async def _is_counted(connection: AsyncConnection, key: TouchpointKey) -> bool:
    statement = "SELECT 1 FROM touchpoint WHERE day = $1 AND id = $2 AND scope = $3"
    return bool(await fetch(connection, statement, *key))


# --- the customer as a whole ----------------------------------------------------------------------------------

_LISTED = ("first_seen_at", "last_seen_at", "purchases", "spend_minor", "currency")


def _merged(states: dict[bytes, profiles.Profile]) -> profiles.Profile:
    whole = profiles.new()
    for leaf in sorted(states):
        whole = profiles.merge(whole, states[leaf])
    return whole


def _listing(rows: Sequence[Any]) -> dict[str, Any] | None:
    return dict(zip(_LISTED, rows[0], strict=True)) if rows else None


def _listing_of(whole: profiles.Profile, is_listed: bool) -> dict[str, Any] | None:
    """What a customer is listed by, from its refolded state; None for one of whom nothing is stored at all."""
    if not is_listed:
        return None
    return dict(zip(_LISTED, (whole.first_at or 0, whole.last_at or 0, *profiles.spending(whole)), strict=True))


def _once(found: Sequence[Drift]) -> list[Drift]:
    kept: dict[str, Drift] = {}
    for one in found:
        kept.setdefault(repr(one), one)
    return list(kept.values())


# --- whom to verify -------------------------------------------------------------------------------------------


async def roots_from(
    connection: AsyncConnection, leaf: bytes, workspace: str | None, limit: int, *, inclusive: bool = False
) -> list[bytes]:
    """Roots in the order of their ids behind `leaf` (or from it on); of one workspace, or None for all."""
    test, values = ("", ()) if workspace is None else (" AND workspace = $2", (workspace,))
    sign = ">=" if inclusive else ">"
    statement = f"""SELECT leaf FROM leaf WHERE leaf {sign} $1{test} AND root = leaf
ORDER BY leaf LIMIT {int(limit)}"""
    return [bytes(row.leaf) for row in await fetch(connection, statement, leaf, *values)]


async def a_root_near(connection: AsyncConnection, leaf: bytes, workspace: str | None) -> bytes | None:
    """The first root from `leaf` on, or the very first when there is none behind it; None when there is none at all."""
    for start in (leaf, b""):
        found = await roots_from(connection, start, workspace, 1, inclusive=True)
        if found:
            return found[0]
    return None
