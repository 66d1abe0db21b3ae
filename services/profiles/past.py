"""A customer as of then: who belonged together, what had happened, and what was decided, put together from the rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import reading, reading_past
from services.profiles.domain.identity import Assertion, Place
from services.profiles.domain.past import Cut, counted
from services.profiles.domain.personal import IDENTIFIER
from services.profiles.reading import Kept, Standing, Whole
from services.profiles.reading_past import AlertThen, Which
from shared import profile as profiles
from shared.errors import NotFound


@dataclass(frozen=True, slots=True)
class Members:
    """Who is asked about: the root and all leaves with their places; `said`: the ties of then, under `known_at`."""

    whole: Whole
    said: Collection[Assertion] = ()


@dataclass(frozen=True, slots=True)
class Then:
    """A customer under a cut. `said`, `places`: their ties, and where they and all they are tied to stand · `kept`:
    personal values told by then · `complete`: nothing of that time can surface any more.
    """

    members: Members
    said: Collection[Assertion]
    places: Mapping[bytes, Place]
    state: profiles.Profile
    kept: Sequence[Kept]
    standing: Standing | None
    alerts: Sequence[AlertThen]
    complete: bool


async def members_then(connection: AsyncConnection, workspace: str, asked: bytes, cut: Cut) -> Members:
    """The customer that this leaf belonged to, by what was recorded up to `known_at`.

    Raises NotFound for a leaf that is unknown or erased by now, or of which nothing was recorded yet.
    """
    root = await reading.root_of(connection, workspace, asked)
    if root is None:
        raise NotFound("no such customer")
    if cut.known_at is None:
        return Members(await reading.whole(connection, workspace, root))
    known = await reading_past.known(connection, workspace, asked, cut.known_at)
    if not known.said and not await reading_past.was_seen(connection, workspace, known.leaves, cut.known_at):
        raise NotFound("no such customer: nothing about this identifier was recorded by then")
    return Members(Whole(known.root, 0, b"", known.leaves, known.places), known.said)


async def state_then(connection: AsyncConnection, workspace: str, members: Members, cut: Cut) -> profiles.Profile:
    """The profile under `cut`: as it stands, or folded from the touchpoints that count."""
    if cut.is_present:
        return profiles.decode(members.whole.state) if members.whole.state else profiles.new()
    state = profiles.new()
    async for chunk in reading_past.touchpoints(connection, workspace, Which(members.whole.leaves, cut)):
        for _, happened in counted(chunk, cut):
            profiles.fold(state, *happened)
    return state


async def _ties(
    connection: AsyncConnection, workspace: str, members: Members, cut: Cut
) -> tuple[Collection[Assertion], Mapping[bytes, Place]]:
    whole = members.whole
    if cut.known_at is not None:
        return members.said, whole.places
    said = await reading.edges(connection, workspace, whole.leaves)
    others = {leaf for one in said for leaf in one.pair} - whole.places.keys()
    return said, {**whole.places, **await reading.places(connection, workspace, others)}


async def told_then(connection: AsyncConnection, workspace: str, asked: bytes, cut: Cut) -> Then:
    """Everything about a customer under `cut`. Raises as `members_then` does."""
    members = await members_then(connection, workspace, asked, cut)
    leaves = members.whole.leaves
    kept = await reading.personal(connection, workspace, leaves)
    writers = {(one.leaf, one.id) for one in kept}
    told: set[tuple[bytes, bytes]] = set()
    state = profiles.new()
    async for chunk in reading_past.touchpoints(connection, workspace, Which(leaves, cut)):
        for seen, happened in counted(chunk, cut):
            profiles.fold(state, *happened)
            if (seen.leaf, seen.id) in writers:
                told.add((seen.leaf, seen.id))
    return Then(
        members,
        *await _ties(connection, workspace, members, cut),
        state,
        [one for one in kept if one.field == IDENTIFIER or (one.leaf, one.id) in told],
        await reading_past.standing(connection, workspace, members.whole.customer, cut),
        await reading_past.alerts(connection, workspace, leaves, cut),
        cut.known_at is None or await reading_past.is_complete(connection, cut.known_at),
    )
