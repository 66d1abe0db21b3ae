"""REST of the rebuild: begin one, see how far it is and what differs, switch to it, roll back, let go of it.

A rebuild concerns the whole house; what differs is shown of the key's own workspace alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from services.profiles import switching
from services.profiles.comparing import Comparison, Report, both_positions, decoded_report
from services.profiles.rebuilding import Rebuilder, progress
from services.profiles.showing import moment
from services.profiles.switching import NAME
from services.profiles.telling import left_to_tell
from services.profiles.wire import Id, Shown
from shared import rebuild
from shared.access import ADMIN, Key
from shared.clock import Clock
from shared.database import Database
from shared.errors import Conflict, NotFound
from shared.httpd import Auth
from shared.moments import Moment
from shared.profile import FOLD_VERSION
from shared.rebuild import COMPARING, DROPPING, FAILED, FILLING, READY, SWITCHED, Live, Pace, Rebuild, Wish

NONE = "none"
UNDER_WAY = (FILLING, COMPARING, READY, FAILED)


class RebuildWanted(BaseModel):
    """How a rebuild is begun."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"switch_when_equal": True}]})

    switch_when_equal: bool = Field(False, description="switch by itself as soon as nothing differs")


class SwitchWanted(BaseModel):
    """How a rebuild is switched to."""

    model_config = ConfigDict(extra="forbid")

    accept_differences: bool = Field(False, description="switch although something differs; those customers are told")


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


@dataclass(frozen=True, slots=True)
class RebuildDesk:
    """Takes commands for the rebuild and shows it. The work is done by whichever process holds it."""

    house: switching.House
    clock: Clock
    rebuilder: Rebuilder

    @property
    def database(self) -> Database:
        """Of profiles."""
        return self.house.database

    async def begin(self, workspace: str, wanted: RebuildWanted) -> RebuildShown:
        """Begin one. Raises Conflict, LogMismatch."""
        wish: Wish = "switch" if wanted.switch_when_equal else ""
        await switching.begin(self.house, self.clock.now_ms(), FOLD_VERSION, wish)
        return await self._woken(workspace)

    async def switch(self, workspace: str, accept: bool) -> RebuildShown:
        """Switch to the version that was made. Raises NotFound, Conflict."""
        row = await self._row()
        if row.phase != READY:
            raise Conflict(f"it is {row.phase}; it can be switched to when it is ready")
        report = decoded_report(row.report)
        if not accept and (report is None or not report.is_equal):
            raise Conflict("it differs from live: look at what differs, then accept the differences or abandon it")
        return await self._ask(workspace, row, "switch_anyway" if accept else "switch")

    async def roll_back(self, workspace: str) -> RebuildShown:
        """Make the version before live again. Raises NotFound, Conflict."""
        row = await self._row()
        if row.phase != SWITCHED:
            raise Conflict(f"it is {row.phase}; only after a switch is there something to roll back to")
        return await self._ask(workspace, row, "rollback")

    async def drop(self, workspace: str) -> RebuildShown:
        """Take away what is not live. Raises NotFound, Conflict."""
        row = await self._row()
        left = await left_to_tell(self.database) if row.phase == SWITCHED else 0
        if left:
            raise Conflict(f"{left} identifiers that differed are still to be told to profile-changes; wait for them")
        return await self._ask(workspace, row, "drop")

    async def show(self, workspace: str) -> RebuildShown:
        """The rebuild as it stands; `none` when there is none."""
        left = await left_to_tell(self.database)
        async with self.database.snapshot() as connection:
            row = await rebuild.load(connection, NAME)
            live = await rebuild.live(connection, NAME) or Live(NAME, 1, FOLD_VERSION)
            goals, made = await both_positions(connection)
        if row is None:
            return _nothing(live)
        report = decoded_report(row.report)
        return _shown(row, live, goals, made, report, workspace, left if row.phase == SWITCHED else 0)

    async def _row(self) -> Rebuild:
        async with self.database.snapshot() as connection:
            row = await rebuild.load(connection, NAME)
        if row is None:
            raise NotFound("there is no rebuild; begin one by POST /v1/rebuild")
        return row

    async def _ask(self, workspace: str, row: Rebuild, wish: Wish) -> RebuildShown:
        async with self.database.transaction() as connection:
            await rebuild.ask(connection, row, wish)
        return await self._woken(workspace)

    async def _woken(self, workspace: str) -> RebuildShown:
        self.rebuilder.wake()
        return await self.show(workspace)


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


def rebuild_routes(desk: RebuildDesk, auth: Auth) -> APIRouter:
    """The rebuild. Looking needs the scope `admin`, everything else an administrator of the house's first workspace."""
    router = APIRouter(prefix="/v1/rebuild", tags=["rebuild"])
    admin, house = Depends(auth.needs(ADMIN)), Depends(auth.needs_house())

    @router.post("", status_code=202, summary="Begin a rebuild of profiles beside the live one.")
    async def begin(key: Annotated[Key, house], wanted: RebuildWanted | None = None) -> RebuildShown:
        return await desk.begin(key.workspace, wanted or RebuildWanted(switch_when_equal=False))

    @router.get("", summary="How far it is, what differs, what to do next.")
    async def show(key: Annotated[Key, admin]) -> RebuildShown:
        return await desk.show(key.workspace)

    @router.post("/switch", status_code=202, summary="Make the rebuilt version the live one, in one transaction.")
    async def switch(key: Annotated[Key, house], wanted: SwitchWanted | None = None) -> RebuildShown:
        return await desk.switch(key.workspace, wanted is not None and wanted.accept_differences)

    @router.post("/rollback", status_code=202, summary="Make the version before live again, folded up to now first.")
    async def roll_back(key: Annotated[Key, house]) -> RebuildShown:
        return await desk.roll_back(key.workspace)

    @router.delete("", status_code=202, summary="Abandon it; after a switch, drop the version before.")
    async def drop(key: Annotated[Key, house]) -> RebuildShown:
        return await desk.drop(key.workspace)

    return router
