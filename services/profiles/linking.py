"""Links and unlinks by a person: the command leaves with the transaction that keeps the identifiers' clear values.

REST decides nothing: it says what the pure rule would do as things stand, and the fold does it when it reads the
command. The outbox brings the command to the log, so a crash after the answer loses nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from services.profiles.domain.identity import Assertion, assertion, holding, unseen
from services.profiles.domain.neighbourhood import Neighbourhood, Row
from services.profiles.domain.personal import IDENTIFIER
from services.profiles.domain.rows import LeafRow, PersonalRow
from services.profiles.opening import Leaves
from services.profiles.reading import places
from services.profiles.store import SqlStore, SqlTransaction
from services.profiles.wire import KIND_NAMES, Move, Side, TieAccepted, TieWanted
from shared.clock import Clock
from shared.codec import encode
from shared.errors import Conflict, Fenced, InvalidField, NotFound
from shared.events import IdentityLinked, IdentityUnlinked
from shared.ids import leaf_from_text, leaf_rank, leaf_text, partition_of, uuid_text
from shared.outbox import Parcel
from shared.topics import TOUCHPOINTS

ATTEMPTS_MAX = 20
ROUNDS_MAX = 100
"""So many rounds of reading a preview may take; the rule needs one per rank and step of a chain."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Command = Literal["link", "unlink"]


class Party(NamedTuple):
    """One of the two: its leaf and, where it was told in the clear, (kind, value)."""

    leaf: bytes
    told: tuple[str, str] | None


@dataclass(slots=True)
class Linking:
    """Takes link and unlink commands. `wake`: something lies in the outbox."""

    store: SqlStore
    leaves: Leaves
    clock: Clock
    partitions: int
    wake: Callable[[], None]

    async def tie(self, workspace: str, command: Command, wanted: TieWanted) -> TieAccepted:
        """Keep the command; returns what it will do as things stand.

        Raises InvalidField, NotFound (a leaf this workspace does not know), Conflict (a leaf is erased).
        """
        a, b = self._party(workspace, wanted.a, "a"), self._party(workspace, wanted.b, "b")
        if a.leaf == b.leaf:
            raise InvalidField("b", "is the same identifier as `a`")
        for _ in range(ATTEMPTS_MAX):
            try:
                accepted = await self._attempt(workspace, command, (a, b), wanted.reason)
            except _Moved:
                continue  # a customer changed while we waited for its lock
            self.wake()
            return accepted
        raise Conflict("these customers change too fast just now; try again")

    def _party(self, workspace: str, text: str, field: str) -> Party:
        if ":" in text:
            leaf, kind, value = self.leaves.of(workspace, text, field)
            return Party(leaf, (kind, value))
        try:
            return Party(leaf_from_text(text), None)
        except ValueError:
            raise InvalidField(field, "is neither kind:value nor an id of 32 hexadecimal digits") from None

    async def _attempt(
        self, workspace: str, command: Command, parties: tuple[Party, Party], reason: str
    ) -> TieAccepted:
        now, identity = self.clock.now_ms(), self.clock.new_id()
        a, b = (party.leaf for party in parties)
        said = assertion(
            a, b, tie=command == "link", alias=command == "link", operator=True, occurred_at=now, id=identity
        )
        async with self.store.database.transaction() as connection:
            transaction = SqlTransaction(connection, self.store.database.is_sqlite)
            await _check_known(connection, workspace, parties)
            rows = await _locked(transaction, {a: workspace, b: workspace})
            if rows[a].erased or rows[b].erased:
                raise Conflict("this identifier was erased; reinstate it before it is tied again")
            foreseen = await _foresee(connection, transaction, workspace, said)
            await transaction.keep_personal(_personal(workspace, parties, rows, now, identity))
            await transaction.send([_parcel(workspace, said, reason, self.partitions)])
        return _accepted(command, identity, (a, b), rows, foreseen)


class _Moved(Exception):
    """A root moved while we waited for its lock: start over."""


async def _locked(transaction: SqlTransaction, leaves: dict[bytes, str]) -> dict[bytes, LeafRow]:
    try:
        return await transaction.lock(leaves)
    except Fenced:
        raise
    except Conflict as error:
        raise _Moved from error


async def _check_known(connection: AsyncConnection, workspace: str, parties: Sequence[Party]) -> None:
    """A leaf given by its id must be one of this workspace: the id of a foreign one is answered like a missing one."""
    by_id = {party.leaf for party in parties if party.told is None}
    if len(await places(connection, workspace, by_id)) < len(by_id):
        raise NotFound("no such customer or identifier")


class _Foreseen(NamedTuple):
    """Customers that leaves belong to, before and after, as far as they move."""

    before: dict[bytes, bytes]
    after: dict[bytes, bytes]


async def _foresee(
    connection: AsyncConnection, transaction: SqlTransaction, workspace: str, said: Assertion
) -> _Foreseen:
    """What moves, by the very rule the fold uses, on rows as they are now."""
    hood, before = Neighbourhood([said]), dict[bytes, bytes]()
    for _ in range(ROUNDS_MAX):
        wanted, customers = hood.wanted(), hood.wanted_customers()
        if not wanted and not customers:
            return _Foreseen(before, hood.moves())
        found = await transaction.members(customers) if customers else []
        members = {root: [row.leaf for row in found if row.root == root] for root in customers}
        standing = await places(connection, workspace, wanted)
        before.update((leaf, place.root) for leaf, place in standing.items())
        held = await _held(transaction, wanted)
        hood.add([Row(leaf, standing.get(leaf, unseen(leaf)), held[leaf]) for leaf in wanted], members)
    raise Conflict("these identifiers are tied to too many others to say what would happen; try again later")


async def _held(transaction: SqlTransaction, leaves: frozenset[bytes]) -> dict[bytes, tuple[Assertion, ...]]:
    held: dict[bytes, list[Assertion]] = {leaf: [] for leaf in leaves}
    edges = await transaction.edges(leaves) if leaves else []
    for one in holding(edge.said for edge in edges).values():
        for leaf in one.pair:
            if leaf in held:
                held[leaf].append(one)
    return {leaf: tuple(found) for leaf, found in held.items()}


def _personal(
    workspace: str, parties: Sequence[Party], rows: dict[bytes, LeafRow], now: int, identity: bytes
) -> list[PersonalRow]:
    """Clear values that are not kept yet."""
    return [
        PersonalRow(party.leaf, IDENTIFIER, workspace, _encode(list(party.told)), now, identity)
        for party in parties
        if party.told is not None and not rows[party.leaf].known
    ]


def _parcel(workspace: str, said: Assertion, reason: str, partitions: int) -> Parcel:
    fact: IdentityLinked | IdentityUnlinked
    if said.tie:
        fact = IdentityLinked(workspace, said.id, said.a, said.b, True, True, said.occurred_at, reason)
    else:
        fact = IdentityUnlinked(workspace, said.id, said.a, said.b, True, said.occurred_at, reason)
    return Parcel(TOUCHPOINTS, partition_of(said.a, partitions), said.a, encode(fact))


def _accepted(
    command: Command, identity: bytes, pair: tuple[bytes, bytes], rows: dict[bytes, LeafRow], foreseen: _Foreseen
) -> TieAccepted:
    moves = [
        Move(
            leaf=leaf_text(leaf),
            from_customer=leaf_text(foreseen.before.get(leaf, leaf)),
            to_customer=leaf_text(root),
        )
        for leaf, root in sorted(foreseen.after.items())
    ]
    one = len({foreseen.after.get(leaf, rows[leaf].root) for leaf in pair}) == 1
    a, b = (
        Side(leaf=leaf_text(leaf), kind=KIND_NAMES[leaf_rank(leaf)], customer_id=leaf_text(rows[leaf].root))
        for leaf in pair
    )
    return TieAccepted(
        id=uuid_text(identity),
        command=command,
        a=a,
        b=b,
        one_customer=one,
        moves=moves,
        consequence=_consequence(len(moves), one),
    )


def _consequence(move_count: int, one: bool) -> str:
    after = "both are one customer afterwards" if one else "they are two customers afterwards"
    if not move_count:
        return f"Nothing moves: {after}. The word of a person stays, whatever is tracked later."
    identifiers = "1 identifier moves" if move_count == 1 else f"{move_count} identifiers move"
    return f"{identifiers}; {after}."
