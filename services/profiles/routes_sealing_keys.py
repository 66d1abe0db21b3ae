"""REST of sealing keys: list, rotate, destroy."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from services.profiles.sealing_keys import SealingKeys
from services.profiles.showing import moment
from services.profiles.wire_erasing import RotateWanted, SealingKeyShown
from services.profiles.wire_erasing import SealingKeys as SealingKeysShown
from shared.access import ADMIN, Key, SealingKey
from shared.database import fetch
from shared.httpd import Auth


@dataclass(frozen=True, slots=True)
class SealingDesk:
    """Shows sealing keys."""

    keys: SealingKeys

    async def listed(self, workspace: str) -> SealingKeysShown:
        """All keys, oldest first, those prepared here last."""
        statement = "SELECT key, max(last_at) AS at FROM sealing_use WHERE workspace = $1 GROUP BY key"
        async with self.keys.database.snapshot() as connection:
            used = {row.key: row.at for row in await fetch(connection, statement, workspace)}
        told = self.keys.feed.workspaces[workspace].sealing_keys
        shown = [self._shown(workspace, key, used.get(key.name)) for key in told]
        for name in self.keys.prepared(workspace):
            is_here = self.keys.is_here(workspace, name)
            shown.append(
                SealingKeyShown(
                    name=name, state="prepared", since=None, until=None, last_used_at=None, destroyed_at=None,
                    is_here=is_here,
                )
            )  # fmt: skip
        return SealingKeysShown(keys=shown)

    def _shown(self, workspace: str, key: SealingKey, used_at: int | None) -> SealingKeyShown:
        in_use = "in_use" if key.until is None else "retired"
        return SealingKeyShown(
            name=key.name,
            state="destroyed" if key.destroyed_at is not None else in_use,
            since=moment(key.since),
            until=None if key.until is None else moment(key.until),
            last_used_at=None if used_at is None else moment(used_at),
            destroyed_at=None if key.destroyed_at is None else moment(key.destroyed_at),
            is_here=self.keys.is_here(workspace, key.name),
        )


def sealing_key_routes(desk: SealingDesk, auth: Auth) -> APIRouter:
    """Needs a secret key with the scope `admin`."""
    router = APIRouter(prefix="/v1/sealing-keys", tags=["sealing keys"])
    admin = Depends(auth.needs(ADMIN))

    @router.get("", summary="The keys personal data is sealed to in the log.")
    async def listed(key: Annotated[Key, admin]) -> SealingKeysShown:
        return await desk.listed(key.workspace)

    @router.post("/rotate", summary="Doors seal to a new key from now on; the old one still opens what it sealed.")
    async def rotate(key: Annotated[Key, admin], wanted: RotateWanted | None = None) -> SealingKeysShown:
        if wanted is not None and wanted.prepare:
            desk.keys.prepare(key.workspace)
        else:
            await desk.keys.rotate(key.workspace)
        return await desk.listed(key.workspace)

    @router.delete("/{name}", summary="Destroy a replaced key: what was sealed to it is unreadable for ever.")
    async def destroy(
        name: Annotated[str, Field(examples=["0001-5f2a9c01d3e4"])], key: Annotated[Key, admin]
    ) -> SealingKeysShown:
        await desk.keys.destroy(key.workspace, name)
        return await desk.listed(key.workspace)

    return router
