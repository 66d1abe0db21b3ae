"""REST of a rebuild, as every service that has one offers it: begin, look, switch, roll back, let go.

A rebuild concerns the whole house, so orders take an administrator of its first workspace.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Generic, NamedTuple, TypeVar

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from shared import rebuild
from shared.access import ADMIN, Key
from shared.database import Database
from shared.errors import Conflict, NotFound
from shared.httpd import Auth
from shared.rebuild import READY, SWITCHED, Rebuild, Wish
from shared.rebuild_holder import RebuildHolder

S = TypeVar("S", bound=BaseModel)


class RebuildWanted(BaseModel):
    """How a rebuild is begun."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"switch_when_equal": True}]})

    switch_when_equal: bool = Field(False, description="switch by itself as soon as nothing differs")


class SwitchWanted(BaseModel):
    """How a rebuild is switched to."""

    model_config = ConfigDict(extra="forbid")

    accept_differences: bool = Field(False, description="switch although something differs")


class Words(NamedTuple):
    """What each order does, for whoever reads the API."""

    begin: str
    show: str
    switch: str
    roll_back: str
    drop: str


class RebuildDesk(ABC, Generic[S]):
    """Takes orders for a rebuild and shows it as an `S`. The work is done by whichever process holds it."""

    def __init__(self, name: str, database: Database, holder: RebuildHolder) -> None:
        """`name`: of the row · `holder`: this process's part, woken by each order."""
        self._name, self._database, self._holder = name, database, holder

    @abstractmethod
    async def show(self, workspace: str) -> S:
        """The rebuild as it stands, with what differs in a workspace; `none` when there is none."""

    @abstractmethod
    async def _begin(self, wish: Wish) -> None:
        """Begin one. Raises Conflict, LogMismatch."""

    @abstractmethod
    def _is_equal(self, row: Rebuild) -> bool:
        """Whether it was compared, and nothing differs."""

    def _concerns(self, row: Rebuild) -> bool:
        """Whether the row is a rebuild, and nothing else that is done under the same name."""
        return True

    async def _busy(self, row: Rebuild) -> str:
        """What is to be waited for before it can be dropped; "" for nothing."""
        return ""

    async def begin(self, workspace: str, wanted: RebuildWanted) -> S:
        """Begin one. Raises Conflict, LogMismatch."""
        await self._begin("switch" if wanted.switch_when_equal else "")
        return await self._woken(workspace)

    async def switch(self, workspace: str, accept: bool) -> S:
        """Switch to what was made. Raises NotFound, Conflict."""
        row = await self._row()
        if row.phase != READY:
            raise Conflict(f"it is {row.phase}; it can be switched to when it is ready")
        if not accept and not self._is_equal(row):
            raise Conflict("it differs from live: look at what differs, then accept the differences or abandon it")
        return await self._ask(workspace, row, "switch_anyway" if accept else "switch")

    async def roll_back(self, workspace: str) -> S:
        """Make live again what was before the switch. Raises NotFound, Conflict."""
        row = await self._row()
        if row.phase != SWITCHED:
            raise Conflict(f"it is {row.phase}; only after a switch is there something to roll back to")
        return await self._ask(workspace, row, "rollback")

    async def drop(self, workspace: str) -> S:
        """Take away what is not live. Raises NotFound, Conflict."""
        row = await self._row()
        if busy := await self._busy(row):
            raise Conflict(busy)
        return await self._ask(workspace, row, "drop")

    async def _row(self) -> Rebuild:
        async with self._database.snapshot() as connection:
            row = await rebuild.load(connection, self._name)
        if row is None or not self._concerns(row):
            raise NotFound("there is no rebuild; begin one by POST /v1/rebuild")
        return row

    async def _ask(self, workspace: str, row: Rebuild, wish: Wish) -> S:
        async with self._database.transaction() as connection:
            await rebuild.ask(connection, row, wish)
        return await self._woken(workspace)

    async def _woken(self, workspace: str) -> S:
        self._holder.wake()
        return await self.show(workspace)


def rebuild_routes(desk: RebuildDesk[S], auth: Auth, shown: type[S], words: Words) -> APIRouter:
    """The rebuild. Looking needs the scope `admin`, everything else an administrator of the house's first workspace."""
    router = APIRouter(prefix="/v1/rebuild", tags=["rebuild"])
    admin, house = Depends(auth.needs(ADMIN)), Depends(auth.needs_house())

    @router.post("", status_code=202, response_model=shown, summary=words.begin)
    async def begin(key: Annotated[Key, house], wanted: RebuildWanted | None = None) -> S:
        return await desk.begin(key.workspace, wanted or RebuildWanted(switch_when_equal=False))

    @router.get("", response_model=shown, summary=words.show)
    async def show(key: Annotated[Key, admin]) -> S:
        return await desk.show(key.workspace)

    @router.post("/switch", status_code=202, response_model=shown, summary=words.switch)
    async def switch(key: Annotated[Key, house], wanted: SwitchWanted | None = None) -> S:
        return await desk.switch(key.workspace, wanted is not None and wanted.accept_differences)

    @router.post("/rollback", status_code=202, response_model=shown, summary=words.roll_back)
    async def roll_back(key: Annotated[Key, house]) -> S:
        return await desk.roll_back(key.workspace)

    @router.delete("", status_code=202, response_model=shown, summary=words.drop)
    async def drop(key: Annotated[Key, house]) -> S:
        return await desk.drop(key.workspace)

    return router
