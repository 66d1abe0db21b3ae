"""What every folding service's SQL store does alike: acquire a partition, move checkpoints, drop what was relayed."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from shared import checkpoint, outbox
from shared.checkpoint import Claim
from shared.database import Database


class SqlProjectionStore:
    """Checkpoint and outbox of one service (`loop.ProjectionStore`); the service adds its transaction and snapshot."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @property
    def steps_at_once(self) -> int:
        """SQLite has one writer; on PostgreSQL one step is computed while another waits for its answer."""
        return 1 if self.database.is_sqlite else 2

    def turn(self) -> AbstractAsyncContextManager[None]:
        """The turn to write (`Database.turn`)."""
        return self.database.turn()

    async def acquire(self, topic: str, partition: int, log_identity: str) -> Claim:
        """Become the owner of a partition. Raises LogMismatch."""
        async with self.database.brief_transaction() as connection:
            return await checkpoint.acquire(connection, topic, partition, log_identity)

    async def hold(self, moves: Sequence[tuple[Claim, Claim]]) -> list[Claim]:
        """Move several checkpoints at once. Raises Fenced, then none moved."""
        async with self.database.brief_transaction() as connection:
            return [await checkpoint.hold(connection, claim, new) for claim, new in moves]

    async def relayed(self, claims: Sequence[Claim], seqs: Sequence[int], hurried: bool = True) -> None:
        """Delete acknowledged outbox rows of these claims' partitions. Raises Fenced, then none was deleted."""
        async with self.database.brief_transaction(hurried) as connection:
            await checkpoint.check(connection, claims)
            await outbox.sent(connection, seqs)
