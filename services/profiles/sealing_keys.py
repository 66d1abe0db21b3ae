"""Sealing keys of a workspace: rotated here, destroyed when nothing needs them any more, forgotten everywhere at once.

The door seals to the key that `definitions` named last. Whoever holds private halves destroys one on reading that it is
destroyed, so a key that comes back with an old copy of the keys folder is destroyed again at the next start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.failed import KEPT_MS
from services.profiles.opening import Openers, Secrets
from shared import checkpoint
from shared.access import SealingKey, Workspace
from shared.clock import Clock
from shared.codec import encode
from shared.database import Database, fetch
from shared.definitions import DefinitionsFeed
from shared.errors import Conflict, NotFound, RaftarError, Retryable
from shared.events import Fact, SealingKeyDestroyed, WorkspaceDefined
from shared.log.port import Log, Outgoing
from shared.topics import DEFINITIONS, TOUCHPOINTS, TOUCHPOINTS_FAILED

_log = structlog.get_logger("sealing keys")


class SealingSecrets(Secrets, Protocol):
    """Where sealing keys are made and destroyed (`shared.keyring.Keyring`)."""

    def sealing_public(self, workspace: str) -> tuple[str, bytes]:
        """Name and public half of the newest pair that is here."""

    def rotate(self, workspace: str) -> tuple[str, bytes]:
        """Make a pair behind the newest one."""

    def destroy(self, workspace: str, name: str) -> bool:
        """Overwrite and delete a private half; False where it is not here."""


@dataclass(slots=True)
class SealingKeys:
    """Rotates and destroys. `grace_seconds`: so long a replaced key must not have been met before it is destroyed."""

    database: Database
    log: Log
    feed: DefinitionsFeed
    clock: Clock
    secrets: SealingSecrets
    openers: Openers
    grace_seconds: float

    def listen(self) -> None:
        """Destroy what is told to be destroyed, wherever it is. Before the feed starts."""
        self.feed.on(SealingKeyDestroyed, self._destroyed)
        self.feed.on(WorkspaceDefined, lambda fact: self.openers.forget(fact.workspace))

    def prepared(self, workspace: str) -> list[str]:
        """Pairs that are here and that no door was told of."""
        known = {key.name for key in self._workspace(workspace).sealing_keys}
        return [name for name in self.secrets.sealing_names(workspace) if name not in known]

    def is_here(self, workspace: str, name: str) -> bool:
        """Whether this machine has the private half."""
        return name in self.secrets.private_keys(workspace)

    def prepare(self, workspace: str) -> str:
        """Make the next pair on this machine and tell nobody; one that is prepared already is that pair."""
        prepared = self.prepared(workspace)
        return prepared[-1] if prepared else self.secrets.rotate(workspace)[0]

    async def rotate(self, workspace: str) -> str:
        """Doors seal to the next pair from now on: the prepared one, else a new one. Returns its name."""
        self.prepare(workspace)
        name, public = self.secrets.sealing_public(workspace)
        told = self._workspace(workspace)
        fact = WorkspaceDefined(workspace, told.time_zone, told.region, name, public, self.clock.now_ms())
        await self._say(fact)
        return name

    async def destroy(self, workspace: str, name: str) -> None:
        """Destroy a replaced key for ever. Destroying it again does nothing.

        Raises NotFound; Conflict, saying what still needs it.
        """
        key = next((key for key in self._workspace(workspace).sealing_keys if key.name == name), None)
        if key is None:
            raise NotFound("no such sealing key in this workspace")
        if key.destroyed_at is not None:
            return
        needs = await self.needs(workspace, key)
        if needs:
            raise Conflict(f"sealing key {name} is still needed: {'; '.join(needs)}")
        await self._say(SealingKeyDestroyed(workspace, name, self.clock.now_ms()))

    async def needs(self, workspace: str, key: SealingKey) -> list[str]:
        """What still needs a key, each in words; [] when it may be destroyed."""
        if key.until is None:
            return ["doors seal to it; replace it first: raftar keys rotate"]
        ends = {n: bounds.end for n, bounds in (await self.log.bounds(TOUCHPOINTS_FAILED)).items()}
        async with self.database.snapshot() as connection:
            statement = "SELECT max(last_at) AS at FROM sealing_use WHERE workspace = $1 AND key = $2"
            used_at = (await fetch(connection, statement, workspace, key.name))[0].at or 0
            frontiers, _ = await checkpoint.standing(connection, TOUCHPOINTS)
            statement = "SELECT partition, position FROM checkpoint WHERE topic = $1"
            read = {row.partition: row.position for row in await fetch(connection, statement, TOUCHPOINTS_FAILED)}
            kept_since = self.clock.now_ms() - KEPT_MS
            failed = await _count(connection, "failed", workspace, key.name, f"AND received_at >= {kept_since}")
            parked = await _count(connection, "parked", workspace, key.name)
        needs = self._while_met(key.until, used_at, list(frontiers.values()))
        if any(read.get(partition, 0) < end for partition, end in ends.items()):
            needs.append("failed events are still being read; ask again in a moment")
        for count, what in ((failed, "refused"), (parked, "parked")):
            if count:
                needs.append(f"{count} {what} events are sealed to it: replay or discard them (raftar failed list)")
        return needs

    def _while_met(self, until: int, used_at: int, frontiers: Sequence[int]) -> list[str]:
        """Everything recorded must be read so far that no door has used it for the grace time, and was long enough
        told of its successor."""
        free_at = max(until, used_at) + round(self.grace_seconds * 1000)
        folded = min(frontiers, default=0)
        if folded > free_at:
            return []
        wait_seconds = max(1, (free_at - folded) // 1000 + 1)
        if self.clock.now_ms() > free_at:
            return ["profiles have not read the log that far: GET /readyz says what holds them back"]
        return [f"a door used it, or may have, not long ago; ask again in {wait_seconds} s"]

    def _workspace(self, workspace: str) -> Workspace:
        return self.feed.workspaces[workspace]

    async def _say(self, fact: Fact) -> None:
        [position] = await self.log.append(DEFINITIONS, [Outgoing(0, encode(fact))])
        if not await self.feed.reached(position):
            raise Retryable("it is kept, but was not read back yet; look at GET /v1/sealing-keys")

    def _destroyed(self, fact: SealingKeyDestroyed) -> None:
        """Not the one in use: whoever wrote such a fact was wrong, and doors still seal to it."""
        told = self.feed.workspaces.get(fact.workspace)
        if told is None or fact.name not in told.destroyed_keys:
            return
        self.openers.forget(fact.workspace)
        try:
            if self.secrets.destroy(fact.workspace, fact.name):
                _log.warning("a sealing key was destroyed here", workspace=fact.workspace, key=fact.name)
        except (RaftarError, OSError) as error:
            _log.error("a sealing key must be destroyed by hand", key=fact.name, why=type(error).__name__)


async def _count(connection: AsyncConnection, table: str, workspace: str, name: str, more: str = "") -> int:
    statement = f"SELECT count(*) AS n FROM {table} WHERE workspace = $1 AND sealing_key = $2 AND closed = '' {more}"
    return int((await fetch(connection, statement, workspace, name))[0].n)
