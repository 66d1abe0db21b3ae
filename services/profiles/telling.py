"""After a switch: every customer whom the new version sees differently is told, page by page."""

from collections.abc import Sequence
from typing import Any

from services.profiles.domain.rows import LeafRow
from services.profiles.domain.telling import Was, concerned, told
from services.profiles.domain.terms import House
from services.profiles.store import SqlTransaction
from shared import rebuild
from shared.database import Database, execute, fetch
from shared.errors import Conflict, Fenced
from shared.log.port import RECORD_BYTES_MAX
from shared.rebuild import Rebuild

PAGE_ROWS = 100
ATTEMPTS_MAX = 20


async def left_to_tell(database: Database) -> int:
    """How many leaves that differed are not told yet."""
    async with database.snapshot() as connection:
        return int((await fetch(connection, "SELECT count(*) AS n FROM rebuild_differing"))[0].n)


async def tell_page(database: Database, held: Rebuild, partitions: int, now_ms: int) -> bool:
    """Tell of some customers in one transaction under their locks; False once everybody was told. Raises Fenced."""
    for _ in range(ATTEMPTS_MAX):
        try:
            return await _tell(database, held, House(partitions, RECORD_BYTES_MAX), now_ms)
        except Fenced:
            raise
        except Conflict:
            continue  # a customer moved while we waited for its lock
    raise Conflict("customers change too fast just now")


async def _tell(database: Database, held: Rebuild, house: House, now_ms: int) -> bool:
    async with database.transaction() as connection:
        await rebuild.hold(connection, held)
        statement = f"""SELECT customer, leaf, was, workspace FROM rebuild_differing
ORDER BY customer, leaf LIMIT {PAGE_ROWS}"""
        page = await fetch(connection, statement)
        if not page:
            return False
        transaction = SqlTransaction(connection, database.is_sqlite)
        before = [Was(row.leaf, row.was) for row in page]
        rows = await _locked(transaction, page)
        customers = concerned(before, rows)
        found = await transaction.members(customers)
        rows = {row.leaf: row for row in found} | rows
        members = {root: [row.leaf for row in found if row.root == root] for root in customers}
        told_of = told(before, rows, members, house, now_ms)
        await transaction.save_leaves(sorted(told_of.rows, key=lambda row: row.leaf))
        await transaction.park(told_of.parked)
        await transaction.send(told_of.parcels)
        for row in page:
            statement = "DELETE FROM rebuild_differing WHERE customer = $1 AND leaf = $2"
            await execute(connection, statement, row.customer, row.leaf)
    return True


async def _locked(transaction: SqlTransaction, page: Sequence[Any]) -> dict[bytes, LeafRow]:
    """Rows of every leaf, of the customer it was with and of the one it is with, their customers locked."""
    leaves = {leaf: row.workspace for row in page for leaf in (row.customer, row.leaf, row.was)}
    return await transaction.lock(leaves)
