"""REST of the rebuild: begin one, see how far it is and who differs, put them right, roll back, let go of it.

A rebuild concerns the whole house; who differs is shown of the key's own workspace alone.
"""

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scoring import switching
from services.scoring.rebuilding import Found, Progress, Rebuilder, found_of, progress_of
from services.scoring.showing import moment
from services.scoring.switching import NAME, REBUILD
from services.scoring.wire import Shown
from shared import rebuild
from shared.clock import Clock
from shared.database import fetch
from shared.ids import leaf_text
from shared.moments import Moment
from shared.rebuild import COMPARING, DROPPING, FAILED, FILLING, READY, SWITCHED, Rebuild, Wish
from shared.rebuild_rest import RebuildDesk, Words

NONE = "none"
WORDS = Words(
    begin="Begin a rebuild of decisions beside the live ones.",
    show="How far it is, who differs, what to do next.",
    switch="Put right who differs, in one transaction.",
    roll_back="Put back what the switch replaced and nobody changed since.",
    drop="Abandon it; after a switch, drop what was replaced.",
)
EXAMPLES_MAX = 20
FILLING_PERCENT = 50.0
"""So much of the work is reading what was said; the rest is comparing."""


class ExampleShown(Shown):
    """A customer who differs, and in what."""

    customer_id: str = Field(examples=["6b3a55e0261b0304143f805a24924d0c"])
    features: list[str]


class DifferenceShown(Shown):
    """Who differs in the key's workspace."""

    customers: int
    features: dict[str, int] = Field(description="what → customers who differ in it", examples=[{"stage": 3}])
    examples: list[ExampleShown]


class RebuildShown(Shown):
    """The rebuild as it stands."""

    phase: str = Field(description="none, filling, comparing, ready, switched, dropping or failed", examples=["ready"])
    kind: str = Field(description="rebuild; empty when there is none")
    wanted: str = Field(description="what was asked for and is not done yet")
    started_at: Moment | None
    compared_at: Moment | None
    switched_at: Moment | None
    percent: float
    seconds_left: float | None = Field(description="of this phase; null while nothing is known about the rate")
    events_per_second: float = Field(description="decisions read, or customers compared")
    live_lag_seconds: float
    waiting: bool = Field(description="it does nothing now, because live is behind")
    customers: int = Field(description="compared")
    equal: bool | None = Field(description="whether nobody differs; null before the comparison")
    digest_live: str
    digest_made: str
    differing: DifferenceShown | None
    why: str = Field(description="why it failed, or why it did not switch")
    next_step: str


class ScoringRebuildDesk(RebuildDesk[RebuildShown]):
    """Takes orders for the rebuild of scoring and shows it."""

    def __init__(self, clock: Clock, rebuilder: Rebuilder) -> None:
        super().__init__(NAME, rebuilder.house.database, rebuilder)
        self._clock, self._house = clock, rebuilder.house

    async def show(self, workspace: str) -> RebuildShown:
        async with self._database.snapshot() as connection:
            row = await rebuild.load(connection, NAME)
            if row is None or row.kind != REBUILD:
                return _answer(Rebuild(NAME, 0, "", FILLING, "", 0, 0, 0, "", 0, 0, 0, "", b"", b""), NONE, None)
            differing = await _differing(connection, workspace) if found_of(row) is not None else None
        return _answer(row, row.phase, differing)

    async def _begin(self, wish: Wish) -> None:
        await switching.begin(self._house, self._clock.now_ms(), wish)

    def _is_equal(self, row: Rebuild) -> bool:
        found = found_of(row)
        return found is not None and found.is_equal

    def _concerns(self, row: Rebuild) -> bool:
        return row.kind == REBUILD


async def _differing(connection: AsyncConnection, workspace: str) -> DifferenceShown:
    statement = "SELECT fields, count(*) AS customers FROM rebuild_differing WHERE workspace = $1 GROUP BY fields"
    groups = await fetch(connection, statement, workspace)
    features: dict[str, int] = {}
    for group in groups:
        for name in group.fields.split():
            features[name] = features.get(name, 0) + group.customers
    statement = "SELECT customer, fields FROM rebuild_differing WHERE workspace = $1 ORDER BY customer LIMIT $2"
    some = await fetch(connection, statement, workspace, EXAMPLES_MAX)
    return DifferenceShown(
        customers=sum(group.customers for group in groups),
        features=features,
        examples=[ExampleShown(customer_id=leaf_text(one.customer), features=one.fields.split()) for one in some],
    )


def _answer(row: Rebuild, phase: str, differing: DifferenceShown | None) -> RebuildShown:
    found, progress = found_of(row), progress_of(row) if phase in (FILLING, COMPARING) else Progress()
    return RebuildShown(
        phase=phase,
        kind=row.kind,
        wanted=row.wanted,
        started_at=_moment(row.started_at),
        compared_at=_moment(row.compared_at),
        switched_at=_moment(row.switched_at),
        percent=_percent(phase, progress),
        seconds_left=_seconds_left(phase, progress),
        events_per_second=progress.per_second,
        live_lag_seconds=progress.live_lag_seconds,
        waiting=progress.waiting,
        customers=found.customers if found else 0,
        equal=None if found is None else found.is_equal,
        digest_live=found.digest_live if found else "",
        digest_made=found.digest_made if found else "",
        differing=differing,
        why=row.why,
        next_step=_next_step(row, phase, found),
    )


def _percent(phase: str, progress: Progress) -> float:
    if phase not in (FILLING, COMPARING):
        return 0.0 if phase == NONE else 100.0
    share = min(1.0, progress.done / progress.goal) if progress.goal else 0.0
    return round(FILLING_PERCENT * (share + (phase == COMPARING)), 2)


def _seconds_left(phase: str, progress: Progress) -> float | None:
    if phase not in (FILLING, COMPARING):
        return 0.0
    if not progress.per_second:
        return None
    return round(max(0, progress.goal - progress.done) / progress.per_second, 1)


def _next_step(row: Rebuild, phase: str, found: Found | None) -> str:
    if phase == NONE:
        return "nothing is to be done"
    if phase == FAILED:
        return "mend what `why` says, abandon this one and begin again"
    if phase == READY and not row.wanted:
        if found is not None and found.is_equal:
            return "it equals live: abandon it, there is nothing to put right"
        return "it differs from live: look at what differs, then switch accepting the differences, or abandon it"
    if phase == SWITCHED:
        return "what was replaced is kept: drop it when all is well, or roll back"
    return "wait: it goes on by itself" if phase != DROPPING else "wait: what is not live is taken away"


def _moment(at_ms: int) -> object:
    return moment(at_ms) if at_ms else None
