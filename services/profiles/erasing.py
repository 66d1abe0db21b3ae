"""Erasing and reinstating by a person: the command leaves through the outbox, the receipt says what came of it.

REST decides nothing: what belongs to the customer is what belongs to them when the command is folded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles import tables
from services.profiles.opening import Leaves
from services.profiles.store import SqlStore
from shared import outbox
from shared.clock import Clock
from shared.codec import encode
from shared.database import execute, fetch
from shared.errors import Conflict, NotFound
from shared.events import ErasureRequested, LeafReinstated
from shared.ids import partition_of
from shared.outbox import Parcel
from shared.topics import TOUCHPOINTS

NOT_YET = -1


class ErasureKept(NamedTuple):
    """The row of an erasure."""

    id: bytes
    workspace: str
    customer: bytes
    requested_at: int
    recorded_at: int
    scrubbed_at: int


class LeafKept(NamedTuple):
    """The row of one of its leaves; times are -1 until it is done."""

    leaf: bytes
    erased_at: int
    personal_values: int
    bodies: int
    stages_at: int
    stages: int
    alerts_at: int
    alerts: int

    @property
    def done_at(self) -> int:
        """When the last part was done; -1 before."""
        times = (self.erased_at, self.stages_at, self.alerts_at)
        return NOT_YET if NOT_YET in times else max(times)


class Kept(NamedTuple):
    """A receipt as it is kept."""

    erasure: ErasureKept
    leaves: tuple[LeafKept, ...]

    @property
    def done_at(self) -> int:
        """When the last part of the last leaf was done; -1 before."""
        times = [leaf.done_at for leaf in self.leaves]
        return NOT_YET if not times or NOT_YET in times else max(times)


@dataclass(slots=True)
class Erasing:
    """Takes erasures and reinstatements. `wake`: something lies in the outbox."""

    store: SqlStore
    leaves: Leaves
    clock: Clock
    partitions: int
    wake: Callable[[], None]

    async def erase(self, workspace: str, asked: bytes) -> Kept:
        """Erase the customer of a leaf; a repeat gives the same receipt until it is reinstated. Raises NotFound."""
        async with self.store.database.transaction() as connection:
            row = await _leaf(connection, workspace, asked)
            known = await _latest(connection, workspace, asked, row.root)
            if known is not None and (row.erased or not await _is_over(connection, known)):
                return await _whole(connection, known)
            if row.erased:
                raise NotFound("no such customer")
            made = ErasureKept(self.clock.new_id(), workspace, row.root, self.clock.now_ms(), NOT_YET, NOT_YET)
            await _insert(connection, made)
            command = ErasureRequested(workspace, made.id, asked, made.requested_at)
            await self._send(connection, [(asked, encode(command))])
        self.wake()
        return Kept(made, ())

    async def receipt(self, workspace: str, identity: bytes) -> Kept:
        """The receipt of an erasure. Raises NotFound."""
        async with self.store.database.snapshot() as connection:
            found = await fetch(connection, f"{_SELECT} WHERE id = $1 AND workspace = $2", identity, workspace)
            if not found:
                raise NotFound("no such erasure")
            return await _whole(connection, ErasureKept(*found[0]))

    async def receipts(self, workspace: str, limit: int) -> list[Kept]:
        """The newest receipts of a workspace."""
        async with self.store.database.snapshot() as connection:
            statement = f"{_SELECT} WHERE workspace = $1 ORDER BY requested_at DESC, id DESC LIMIT $2"
            found = [ErasureKept(*row) for row in await fetch(connection, statement, workspace, limit)]
            return [await _whole(connection, one) for one in found]

    async def reinstate(self, workspace: str, asked: bytes) -> list[bytes]:
        """Track an erased customer again, by any id they had: every identifier that was erased with this one.

        Returns the leaves. Raises NotFound, Conflict where nothing of it is erased.
        """
        async with self.store.database.transaction() as connection:
            await _leaf(connection, workspace, asked)
            known = await _latest(connection, workspace, asked, asked)
            together = {asked} if known is None else {leaf.leaf for leaf in (await _whole(connection, known)).leaves}
            return await self._reinstate(connection, workspace, sorted(together | {asked}))

    async def reinstate_identifier(self, workspace: str, identifier: str) -> list[bytes]:
        """Track one erased identifier again. Raises InvalidField, NotFound, Conflict."""
        leaf, _, _ = self.leaves.of(workspace, identifier, "identifier")
        async with self.store.database.transaction() as connection:
            await _leaf(connection, workspace, leaf)
            return await self._reinstate(connection, workspace, [leaf])

    async def _reinstate(self, connection: AsyncConnection, workspace: str, leaves: Sequence[bytes]) -> list[bytes]:
        statement = "SELECT leaf FROM leaf WHERE leaf = ANY($1) AND workspace = $2 AND erased"
        erased = sorted(bytes(row.leaf) for row in await fetch(connection, statement, list(leaves), workspace))
        if not erased:
            raise Conflict("this is not erased (or not yet): there is nothing to reinstate")
        now = self.clock.now_ms()
        commands = [(leaf, encode(LeafReinstated(workspace, self.clock.new_id(), leaf, now))) for leaf in erased]
        await self._send(connection, commands)
        self.wake()
        return erased

    async def _send(self, connection: AsyncConnection, commands: Sequence[tuple[bytes, bytes]]) -> None:
        parcels = [Parcel(TOUCHPOINTS, partition_of(leaf, self.partitions), leaf, value) for leaf, value in commands]
        await outbox.send(connection, tables.outbox, parcels)


class _Leaf(NamedTuple):
    root: bytes
    erased: bool


_SELECT = f"SELECT {', '.join(ErasureKept._fields)} FROM erasure"


async def _leaf(connection: AsyncConnection, workspace: str, leaf: bytes) -> _Leaf:
    statement = "SELECT root, erased FROM leaf WHERE leaf = $1 AND workspace = $2"
    found = await fetch(connection, statement, leaf, workspace)
    if not found:
        raise NotFound("no such customer")
    return _Leaf(bytes(found[0].root), bool(found[0].erased))


async def _latest(connection: AsyncConnection, workspace: str, leaf: bytes, root: bytes) -> ErasureKept | None:
    """The newest erasure that named this customer, or took this leaf."""
    statement = f"""{_SELECT} WHERE workspace = $1 AND (customer = $2
OR id IN (SELECT erasure FROM erasure_leaf WHERE leaf = $3)) ORDER BY requested_at DESC, id DESC LIMIT 1"""
    found = await fetch(connection, statement, workspace, root, leaf)
    return ErasureKept(*found[0]) if found else None


async def _is_over(connection: AsyncConnection, known: ErasureKept) -> bool:
    """Whether profiles have carried it out; scoring's part may still be on its way."""
    whole = await _whole(connection, known)
    return bool(whole.leaves) and all(leaf.erased_at != NOT_YET for leaf in whole.leaves)


async def _whole(connection: AsyncConnection, erasure: ErasureKept) -> Kept:
    statement = f"SELECT {', '.join(LeafKept._fields)} FROM erasure_leaf WHERE erasure = $1 ORDER BY leaf"
    return Kept(erasure, tuple(LeafKept(*row) for row in await fetch(connection, statement, erasure.id)))


async def _insert(connection: AsyncConnection, row: ErasureKept) -> None:
    statement = f"INSERT INTO erasure ({', '.join(row._fields)}) VALUES ($1, $2, $3, $4, $5, $6)"
    await execute(connection, statement, *row)
