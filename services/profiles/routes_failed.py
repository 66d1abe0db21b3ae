"""REST of what failed: refused at the door or parked by the fold, one list, newest first."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from services.profiles import reading_failed
from services.profiles.cursors import FailedCursor
from services.profiles.failed import sealed_of
from services.profiles.keeping import Open
from services.profiles.reading_failed import Failure, Parked, Refused, cursor_at
from services.profiles.showing import parked_shown, refused_shown
from services.profiles.wire import FailurePage, FailureShown
from shared.access import READ, Key
from shared.cursors import CURSOR_TEXT_MAX, cursor_of, text_of
from shared.database import Database
from shared.errors import NotFound, Poison
from shared.httpd import Auth

_REFUSED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PARKED = re.compile(r"([a-z-]{1,64})\.([0-9]{1,9})\.([0-9]{1,18})\.(-1|[0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class FailedDesk:
    """Answers questions about what failed."""

    database: Database
    open_sealed: Open

    async def page(self, workspace: str, after: FailedCursor | None, limit: int) -> FailurePage:
        """A page, newest first."""
        async with self.database.snapshot() as connection:
            rows = await reading_failed.failures(connection, workspace, after, limit)
        items = [self._shown(workspace, row) for row in rows]
        return FailurePage(items=items, next=text_of(cursor_at(rows[-1])) if len(rows) == limit else None)

    async def one(self, workspace: str, identity: str) -> FailureShown:
        """One failure by its id. Raises NotFound."""
        async with self.database.snapshot() as connection:
            row: Failure | None = None
            if _REFUSED.fullmatch(identity):
                row = await reading_failed.refused(connection, workspace, bytes.fromhex(identity.replace("-", "")))
            elif found := _PARKED.fullmatch(identity):
                topic, *place = found.groups()
                row = await reading_failed.parked(connection, workspace, topic, *map(int, place))
        if row is None:
            raise NotFound("no such failed event")
        return self._shown(workspace, row)

    def _shown(self, workspace: str, row: Failure) -> FailureShown:
        if isinstance(row, Parked):
            return parked_shown(row)
        return refused_shown(row, self._item(workspace, row))

    def _item(self, workspace: str, row: Refused) -> bytes | None:
        try:
            item = self.open_sealed(workspace, sealed_of(row.item)).get(0, {}).get("item")
        except Poison:
            return None  # its box is damaged: the reason and the path are still worth showing
        return item if isinstance(item, bytes) else None


def failed_routes(desk: FailedDesk, auth: Auth) -> APIRouter:
    """Needs a secret key with the scope `read`."""
    router = APIRouter(prefix="/v1/failed", tags=["failed"])
    reader = Depends(auth.needs(READ))

    @router.get("", summary="Events that did not count: refused at the door, or parked.")
    async def page(
        key: Annotated[Key, reader],
        limit: Annotated[int, Query(ge=1, le=200, description="items on a page")] = 50,
        next: Annotated[str | None, Query(max_length=CURSOR_TEXT_MAX)] = None,  # noqa: A002
    ) -> FailurePage:
        after = None if next is None else cursor_of(next, FailedCursor)
        return await desk.page(key.workspace, after, limit)

    @router.get("/{failed_id}", summary="One of them.")
    async def one(
        failed_id: Annotated[str, Field(examples=["0190163d-8694-739b-aea5-966c26f8ad91"])],
        key: Annotated[Key, reader],
    ) -> FailureShown:
        return await desk.one(key.workspace, failed_id)

    return router
