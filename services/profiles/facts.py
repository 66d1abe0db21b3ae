"""From which touchpoints a number of a profile comes: read in the order of time, in chunks, a page at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import reading, reading_past
from services.profiles.cursors import FactsCursor
from services.profiles.domain.past import Cut, Seen, counted
from services.profiles.past import Members, members_then, state_then
from services.profiles.reading_past import Which
from services.profiles.showing import text_field
from shared import profile as profiles
from shared.clock import Clock
from shared.database import Database
from shared.errors import NotFound
from shared.profile.provenance import Feature, Traced, Tracing, features, instant_of, is_resumable, kinds_of


@dataclass(frozen=True, slots=True)
class Wish:
    """Which page of which number, under which cut."""

    feature: str
    cut: Cut
    limit: int
    after: FactsCursor | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A page of what made a number. `texts`: personal words by (leaf, field) · `after`: where the next page begins."""

    customer: bytes
    feature: Feature
    traced: Sequence[Traced[Seen]]
    texts: dict[tuple[bytes, str], bytes]
    after: FactsCursor | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Answers where numbers come from."""

    database: Database
    clock: Clock

    async def names(self, workspace: str, asked: bytes, cut: Cut) -> tuple[bytes, dict[str, Feature]]:
        """The customer, and every number shown about them. Raises NotFound."""
        async with self.database.snapshot() as connection:
            members, _, shown = await self._shown(connection, workspace, asked, cut)
        return members.whole.customer, shown

    async def page(self, workspace: str, asked: bytes, wish: Wish) -> Found:
        """A page of what made one number. Raises NotFound, naming the numbers there are."""
        async with self.database.snapshot() as connection:
            members, state, shown = await self._shown(connection, workspace, asked, wish.cut)
            feature = shown.get(wish.feature)
            if feature is None:
                raise NotFound(f"this profile shows no {wish.feature!r}; it shows {', '.join(sorted(shown))}")
            traced: list[Traced[Seen]] = []
            if feature.value is not None:
                tracing = self._tracing(feature, state, wish)
                traced = await _traced(connection, workspace, members, feature, tracing, wish)
            owners, names = {one.row.leaf for one in traced}, {text_field(one.row.id) for one in traced}
            texts = await reading.fields(connection, workspace, owners, names)
        full = len(traced) == wish.limit
        return Found(members.whole.customer, feature, traced, texts, _cursor(traced[-1]) if full else None)

    def _tracing(self, feature: Feature, state: profiles.Profile, wish: Wish) -> Tracing[Seen]:
        total = wish.after.total if wish.after is not None and is_resumable(feature) else 0
        return Tracing(feature, state, self._at(wish.cut), total)

    def _at(self, cut: Cut) -> int:
        now = self.clock.now_ms()
        return now if cut.at is None else min(cut.at, now)

    async def _shown(
        self, connection: AsyncConnection, workspace: str, asked: bytes, cut: Cut
    ) -> tuple[Members, profiles.Profile, dict[str, Feature]]:
        members = await members_then(connection, workspace, asked, cut)
        state = await state_then(connection, workspace, members, cut)
        return members, state, features(state, self._at(cut))


async def _traced(
    connection: AsyncConnection, workspace: str, members: Members, feature: Feature, tracing: Tracing[Seen], wish: Wish
) -> list[Traced[Seen]]:
    """One page. A number of keyed facts is traced from the start each time: what was said of an order before counts."""
    begin = wish.after.order if wish.after is not None else None
    after = begin if is_resumable(feature) else None
    which = Which(members.whole.leaves, wish.cut, kinds_of(feature), after, instant_of(feature))
    found: list[Traced[Seen]] = []
    async for chunk in reading_past.touchpoints(connection, workspace, which):
        for seen, told in counted(chunk, wish.cut):
            made = tracing.take(seen, told.touchpoint, told.trust)  # taken in any case: later ones rest on it
            found += [one for one in made if begin is None or seen.order > begin]
            if len(found) == wish.limit:
                return found
    return [*found, *tracing.last()] if begin is None else found


def _cursor(last: Traced[Seen]) -> FactsCursor:
    total = last.value if isinstance(last.value, int) else 0  # where tracing may go on from it, it is a count
    return FactsCursor(*last.row.order, total)
