"""REST of republish: have every customer told again to `profile-changes`, and see how far that is."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from services.profiles import republish
from services.profiles.republish import Republish, Republishing, progress
from services.profiles.showing import moment
from services.profiles.wire import Shown
from shared.access import READ, Key
from shared.clock import Clock
from shared.codec import encode
from shared.database import Database
from shared.definitions import DefinitionsFeed
from shared.errors import NotFound
from shared.events import RepublishRequested
from shared.httpd import Auth
from shared.ids import uuid_text
from shared.log.port import Log, Outgoing
from shared.moments import Moment
from shared.topics import DEFINITIONS

Identity = Annotated[str, Field(max_length=64, description="id of a republish")]


class RepublishShown(Shown):
    """One republish and how far it is."""

    id: str
    phase: str = Field(description="waiting, running or finished", examples=["running"])
    requested_at: Moment
    started_at: Moment | None
    finished_at: Moment | None = Field(description="when the marker was written behind the last customer")
    customers: int = Field(description="customers told again so far")
    share: float = Field(description="0 to 1 of all identifiers")
    identifiers_per_second: float
    seconds_left: float | None = Field(description="null while nothing is known about the rate")


@dataclass(frozen=True, slots=True)
class RepublishDesk:
    """Takes requests, through `definitions`, and shows them."""

    database: Database
    log: Log
    feed: DefinitionsFeed
    clock: Clock
    republishing: Republishing

    async def request(self) -> RepublishShown:
        """Ask for one. Raises what appending raises."""
        fact = RepublishRequested(uuid_text(self.clock.new_id()), self.clock.now_ms())
        [position] = await self.log.append(DEFINITIONS, [Outgoing(0, encode(fact))])
        if await self.feed.reached(position):
            await self.republishing.take_up()
        return self._shown(Republish(fact.id, fact.requested_at))

    async def newest(self) -> RepublishShown:
        """The one asked for last. Raises NotFound."""
        async with self.database.snapshot() as connection:
            return self._found(await republish.newest(connection))

    async def one(self, identity: str) -> RepublishShown:
        """This one. Raises NotFound, also in the moment before it was read back."""
        async with self.database.snapshot() as connection:
            return self._found(await republish.one(connection, identity))

    def _found(self, row: Republish | None) -> RepublishShown:
        if row is None:
            raise NotFound("no such republish; ask for one by POST /v1/republish")
        return self._shown(row)

    def _shown(self, row: Republish) -> RepublishShown:
        share, rate, left = progress(row, self.clock.now_ms())
        return RepublishShown(
            id=row.id,
            phase="finished" if row.finished_at else "running" if row.started_at else "waiting",
            requested_at=moment(row.requested_at),
            started_at=moment(row.started_at) if row.started_at else None,
            finished_at=moment(row.finished_at) if row.finished_at else None,
            customers=row.customers,
            share=round(share, 6),
            identifiers_per_second=round(rate, 1),
            seconds_left=None if left is None else round(left, 1),
        )


def republish_routes(desk: RepublishDesk, auth: Auth) -> APIRouter:
    """Republish. It tells of every workspace: asking needs an administrator of the first one, looking `read`."""
    router = APIRouter(prefix="/v1/republish", tags=["republish"])
    reader, house = Depends(auth.needs(READ)), Depends(auth.needs_house())

    @router.post("", status_code=202, summary="Have every customer told again to profile-changes, then a marker.")
    async def request(key: Annotated[Key, house]) -> RepublishShown:
        return await desk.request()

    @router.get("", summary="The republish asked for last.")
    async def newest(key: Annotated[Key, reader]) -> RepublishShown:
        return await desk.newest()

    @router.get("/{identity}", summary="One republish.")
    async def one(identity: Identity, key: Annotated[Key, reader]) -> RepublishShown:
        return await desk.one(identity)

    return router
