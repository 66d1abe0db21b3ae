"""REST of the rebuild: begin one, see how far it is and what differs, switch to it, roll back, let go of it.

A rebuild concerns the whole house; what differs is shown of the key's own workspace alone.
"""

from collections.abc import Mapping

import msgspec
from pydantic import Field

from services.profiles import switching
from services.profiles.comparing import Comparison, Report, both_positions, decoded_report
from services.profiles.rebuilding import Rebuilder, progress
from services.profiles.showing import moment
from services.profiles.switching import NAME
from services.profiles.telling import left_to_tell
from services.profiles.wire import Id, Shown
from shared import rebuild
from shared.clock import Clock
from shared.moments import Moment
from shared.profile import FOLD_VERSION
from shared.rebuild import COMPARING, DROPPING, FAILED, FILLING, READY, SWITCHED, Live, Pace, Rebuild, Wish
from shared.rebuild_rest import RebuildDesk, Words

NONE = "none"
WORDS = Words(
    begin="Begin a rebuild of profiles beside the live one.",
    show="How far it is, what differs, what to do next.",
    switch="Make the rebuilt version the live one, in one transaction.",
    roll_back="Make the version before live again, folded up to now first.",
    drop="Abandon it; after a switch, drop the version before.",
)
UNDER_WAY = (FILLING, COMPARING, READY, FAILED)


class PartitionShown(Shown):
    """How far one partition is."""

    partition: int
    position: int = Field(description="of the version being made")
    live_position: int


class ExampleShown(Shown):
    """A customer who differs, and in what."""

    customer_id: Id
    features: list[str]


class DifferenceShown(Shown):
    """What differs in the key's workspace."""

    customers: int
    features: dict[str, int] = Field(description="feature → customers who differ in it", examples=[{"orders": 3}])
    examples: list[ExampleShown]


class RebuildShown(Shown):
    """The rebuild as it stands."""

    phase: str = Field(description="none, filling, comparing, ready, switched, dropping or failed", examples=["ready"])
    kind: str = Field(description="rebuild or rollback; empty when there is none")
    wanted: str = Field(description="what was asked for and is not done yet")
    live_fold_version: int = Field(description="the fold that made the live version")
    fold_version: int = Field(description="the fold that makes the other one, or of this code when there is none")
    started_at: Moment | None
    compared_at: Moment | None
    switched_at: Moment | None
    percent: float
    seconds_left: float | None = Field(description="null while nothing is known about the rate")
    records_per_second: float
    events_per_second: float
    live_lag_seconds: float
    waiting: bool = Field(description="it does nothing now, because live is behind")
    partitions: list[PartitionShown]
    equal: bool | None = Field(description="whether states and components are the same; null before the comparison")
    digest_live: str
    digest_made: str
    differing: DifferenceShown | None
    leaves_to_tell: int = Field(description="after a switch: what differed and is not told to profile-changes yet")
    why: str = Field(description="why it failed, or why it did not switch")
    next_step: str


class ProfilesRebuildDesk(RebuildDesk[RebuildShown]):
    """Takes orders for the rebuild of profiles and shows it."""

    def __init__(self, clock: Clock, rebuilder: Rebuilder) -> None:
        super().__init__(NAME, rebuilder.house.database, rebuilder)
        self._clock, self._house = clock, rebuilder.house

    async def show(self, workspace: str) -> RebuildShown:
        left = await left_to_tell(self._database)
        async with self._database.snapshot() as connection:
            row = await rebuild.load(connection, NAME)
            live = await rebuild.live(connection, NAME) or Live(NAME, 1, FOLD_VERSION)
            goals, made = await both_positions(connection)
        if row is None:
            return _nothing(live)
        report = decoded_report(row.report)
        return _shown(row, live, goals, made, report, workspace, left if row.phase == SWITCHED else 0)

    async def _begin(self, wish: Wish) -> None:
        await switching.begin(self._house, self._clock.now_ms(), FOLD_VERSION, wish)

    def _is_equal(self, row: Rebuild) -> bool:
        report = decoded_report(row.report)
        return report is not None and report.is_equal

    async def _busy(self, row: Rebuild) -> str:
        left = await left_to_tell(self._database) if row.phase == SWITCHED else 0
        return (
            f"{left} identifiers that differed are still to be told to profile-changes; wait for them" if left else ""
        )


def _nothing(live: Live) -> RebuildShown:
    step = "nothing is to be done"
    if live.fold_version != FOLD_VERSION:
        step = "the code folds otherwise than what is live was folded: begin a rebuild"
    return _answer(
        phase=NONE, live_fold_version=live.fold_version, fold_version=FOLD_VERSION, percent=0.0, next_step=step
    )


def _shown(
    row: Rebuild,
    live: Live,
    goals: Mapping[int, int],
    made: Mapping[int, int],
    report: Comparison | None,
    workspace: str,
    left: int,
) -> RebuildShown:
    pace = msgspec.json.decode(row.pace, type=Pace) if row.pace else Pace()
    share, seconds_left = progress(row, goals, made, pace)
    is_folding = row.phase in (FILLING, COMPARING, READY)
    return _answer(
        phase=row.phase,
        kind=row.kind,
        wanted=row.wanted,
        live_fold_version=live.fold_version,
        fold_version=row.fold_version,
        started_at=_moment(row.started_at),
        compared_at=_moment(row.compared_at),
        switched_at=_moment(row.switched_at),
        percent=round(100 * share, 2),
        seconds_left=None if seconds_left is None else round(seconds_left, 1),
        records_per_second=pace.records_per_second if is_folding else 0.0,
        events_per_second=pace.events_per_second if is_folding else 0.0,
        live_lag_seconds=pace.live_lag_seconds if is_folding else 0.0,
        waiting=pace.waiting and is_folding,
        partitions=[
            PartitionShown(partition=one, position=position, live_position=goals.get(one, 0))
            for one, position in sorted(made.items())
        ],
        equal=None if report is None else report.is_equal,
        digest_live=report.digest_live if report else "",
        digest_made=report.digest_made if report else "",
        differing=_differing(report, workspace),
        leaves_to_tell=left,
        why=row.why,
        next_step=_next_step(row, report, left),
    )


def _answer(**values: object) -> RebuildShown:
    empty: dict[str, object] = dict.fromkeys(RebuildShown.model_fields)
    empty |= dict.fromkeys(("kind", "wanted", "digest_live", "digest_made", "why", "next_step"), "")
    empty |= dict.fromkeys(("records_per_second", "events_per_second", "live_lag_seconds"), 0.0)
    empty |= {"waiting": False, "partitions": [], "leaves_to_tell": 0}
    return RebuildShown.model_validate(empty | values)


def _differing(report: Comparison | None, workspace: str) -> DifferenceShown | None:
    if report is None:
        return None
    mine = report.workspaces.get(workspace, Report())
    examples = [ExampleShown(customer_id=one.customer, features=list(one.features)) for one in mine.examples]
    return DifferenceShown(customers=mine.customers, features=mine.features, examples=examples)


def _next_step(row: Rebuild, report: Comparison | None, left: int) -> str:
    if row.phase == FAILED:
        return "mend what `why` says, abandon this one and begin again"
    if row.phase == READY and not row.wanted:
        if report is not None and report.is_equal:
            return "it equals live: switch to it, or abandon it"
        return "it differs from live: look at what differs, then switch accepting the differences, or abandon it"
    if row.phase == SWITCHED and left:
        return "customers who differed are told to profile-changes now; wait for it"
    if row.phase == SWITCHED:
        return "the version before is kept: drop it when all is well, or roll back"
    return "wait: it goes on by itself" if row.phase != DROPPING else "wait: what is not live is taken away"


def _moment(at_ms: int) -> object:
    return moment(at_ms) if at_ms else None
