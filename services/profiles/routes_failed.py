"""REST of what failed: refused at the door or parked by the fold, one list, newest first; replayed or discarded here.

Records that are no facts belong to nobody: they are shown to whoever administers the house's own workspace.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from services.profiles import reading_failed
from services.profiles.cursors import FailedCursor
from services.profiles.failed import failed_partition, sealed_of
from services.profiles.keeping import Open
from services.profiles.reading_failed import Failure, Parked, Refused, Which, cursor_at
from services.profiles.replaying import DISCARDED, Place, Replaying
from services.profiles.showing import parked_shown, refused_shown
from services.profiles.wire import FailurePage, FailureShown, ReplayResult, ReplayResults, ReplayWanted
from shared.access import ADMIN, READ, Key
from shared.codec import encode
from shared.cursors import CURSOR_TEXT_MAX, cursor_of, text_of
from shared.database import Database
from shared.errors import Conflict, InvalidField, NotFound, Poison, Retryable
from shared.events import TouchpointFailureClosed
from shared.httpd import Auth
from shared.log.port import Outgoing
from shared.topics import TOUCHPOINTS_FAILED

_REFUSED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PARKED = re.compile(r"([a-z-]{1,64})\.([0-9]{1,9})\.([0-9]{1,18})\.(-1|[0-9]{1,9})")
REPLAYED_AT_ONCE = 200
NOBODYS = ""


@dataclass(frozen=True, slots=True)
class FailedDesk:
    """Answers questions about what failed, and closes it. `house`: the workspace made at first start."""

    database: Database
    open_sealed: Open
    replaying: Replaying
    house: str

    async def page(self, key: Key, which: Which, after: FailedCursor | None, limit: int) -> FailurePage:
        """A page, newest first. Items are for administrators alone."""
        async with self.database.snapshot() as connection:
            rows = await reading_failed.failures(connection, self.workspaces(key), which, after, limit)
        items = [self._shown(key, row, {}) for row in rows]
        return FailurePage(items=items, next=text_of(cursor_at(rows[-1])) if len(rows) == limit else None)

    async def one(self, key: Key, identity: str) -> FailureShown:
        """One failure by its id, with everything that is known of it. Raises NotFound."""
        row = await self._row(key, identity)
        is_parked = isinstance(row, Parked) and ADMIN in key.scopes
        return self._shown(key, row, await self.replaying.opened(row) if is_parked else {})  # type: ignore[arg-type]

    async def discard(self, key: Key, identity: str) -> FailureShown:
        """Close a failure without replaying it. Raises NotFound, Conflict where it is closed otherwise."""
        row = await self._row(key, identity)
        if row.closed not in ("", DISCARDED):
            raise Conflict(f"it is {row.closed} already")
        if isinstance(row, Parked):
            await self.replaying.discard(self.workspaces(key), _place(row))
            return await self.one(key, identity)
        if not row.closed:
            fact = TouchpointFailureClosed(key.workspace, row.id, DISCARDED, self.replaying.clock.now_ms())
            partition = failed_partition(key.workspace, row.source)
            await self.replaying.log.append(TOUCHPOINTS_FAILED, [Outgoing(partition, encode(fact))])
        closed = row._replace(closed=DISCARDED, closed_at=self.replaying.clock.now_ms(), item=b"")
        return self._shown(key, closed, {})

    async def replay(self, key: Key, wanted: ReplayWanted) -> ReplayResults:
        """Replay parked facts. Raises InvalidField for a wish that names nothing."""
        if bool(wanted.ids) == wanted.all:
            raise InvalidField("ids", "name the events, or say `all`")
        if wanted.ids:
            return ReplayResults(results=[await self._replay(key, identity) for identity in wanted.ids], more=False)
        which = Which("open", "parked", wanted.source)
        async with self.database.snapshot() as connection:
            rows = await reading_failed.failures(connection, self.workspaces(key), which, None, REPLAYED_AT_ONCE)
        results = [await self._replay_parked(key, _place(row)) for row in rows if isinstance(row, Parked)]
        failing = sum(result.status == "still_failing" for result in results)
        return ReplayResults(results=results, more=len(rows) == REPLAYED_AT_ONCE and failing < len(results))

    def workspaces(self, key: Key) -> Sequence[str]:
        """What this key may see: its workspace; an administrator of the house also what belongs to nobody."""
        return [key.workspace, NOBODYS] if key.workspace == self.house and ADMIN in key.scopes else [key.workspace]

    async def _replay(self, key: Key, identity: str) -> ReplayResult:
        if found := _PARKED.fullmatch(identity):
            topic, partition, position, place = found.groups()
            return await self._replay_parked(key, Place(topic, int(partition), int(position), int(place)))
        try:
            row = await self._row(key, identity)
        except NotFound:
            return ReplayResult(id=identity, status="missing", reason="")
        return ReplayResult(id=identity, status="closed" if row.closed else "for_the_door", reason=row.closed)

    async def _replay_parked(self, key: Key, place: Place) -> ReplayResult:
        done = await self.replaying.replay(self.workspaces(key), place)
        return ReplayResult(id=".".join(map(str, place)), status=done.status, reason=done.reason)

    async def _row(self, key: Key, identity: str) -> Failure:
        async with self.database.snapshot() as connection:
            row: Failure | None = None
            if _REFUSED.fullmatch(identity):
                refused = bytes.fromhex(identity.replace("-", ""))
                row = await reading_failed.refused(connection, key.workspace, refused)
            elif found := _PARKED.fullmatch(identity):
                topic, *place = found.groups()
                row = await reading_failed.parked(connection, self.workspaces(key), topic, *map(int, place))
        if row is None:
            raise NotFound("no such failed event")
        return row

    def _shown(self, key: Key, row: Failure, personal: Mapping[str, Any]) -> FailureShown:
        may_see = ADMIN in key.scopes
        if isinstance(row, Parked):
            return parked_shown(row, personal if may_see else None)
        return refused_shown(row, self._opened(key.workspace, row) if may_see else None)

    def _opened(self, workspace: str, row: Refused) -> Mapping[str, Any]:
        try:
            return self.open_sealed(workspace, sealed_of(row.item)).get(0, {}) if row.item else {}
        except (Poison, Retryable):
            return {}  # its box is damaged, or its key is away: the reason and the path are still worth showing


def failed_routes(desk: FailedDesk, auth: Auth) -> APIRouter:
    """Reading needs the scope `read`; the items themselves, replay and discard need `admin`."""
    router = APIRouter(prefix="/v1/failed", tags=["failed"])
    reader, admin = Depends(auth.needs(READ)), Depends(auth.needs(ADMIN))
    example = "0190163d-8694-739b-aea5-966c26f8ad91"

    @router.get("", summary="Events that did not count: refused at the door, or parked.")
    async def page(
        key: Annotated[Key, reader],
        state: Annotated[Literal["open", "closed", "all"], Query(description="open ones wait for somebody")] = "open",
        what: Annotated[Literal["", "refused", "parked"], Query(description="empty: both")] = "",
        source: Annotated[str, Query(max_length=64, description="empty: every source")] = "",
        limit: Annotated[int, Query(ge=1, le=200, description="items on a page")] = 50,
        next: Annotated[str | None, Query(max_length=CURSOR_TEXT_MAX)] = None,  # noqa: A002
    ) -> FailurePage:
        after = None if next is None else cursor_of(next, FailedCursor)
        return await desk.page(key, Which(state, what, source), after, limit)

    @router.post("/replay", summary="Replay parked events, after their cause was mended. Nothing counts twice.")
    async def replay(wanted: ReplayWanted, key: Annotated[Key, admin]) -> ReplayResults:
        return await desk.replay(key, wanted)

    @router.get("/{failed_id}", summary="One of them.")
    async def one(failed_id: Annotated[str, Field(examples=[example])], key: Annotated[Key, reader]) -> FailureShown:
        return await desk.one(key, failed_id)

    @router.delete("/{failed_id}", summary="Discard one: it will not be replayed, and what it held is dropped.")
    async def discard(failed_id: Annotated[str, Field(examples=[example])], key: Annotated[Key, admin]) -> FailureShown:
        return await desk.discard(key, failed_id)

    return router


def _place(row: Parked) -> Place:
    return Place(row.topic, row.partition, row.position, row.place)
