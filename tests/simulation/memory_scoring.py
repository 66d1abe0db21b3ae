"""The scoring store in memory; rows written without their lock are refused."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.ports import Armed
from shared.checkpoint import Claim
from shared.ids import partition_of
from shared.outbox import Parcel
from tests.simulation.memory_database import MemoryDatabase


class MemoryScoring(MemoryDatabase):
    """The scoring database (`services.scoring.ports.Store`)."""

    names = ("decision", "alert", "import_passed", "locked")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["ScoringTransaction"]:
        """Begin a step."""
        with self.begin():
            self.tables["locked"] = {}
            yield ScoringTransaction(self)

    def _rows(self, partition: int) -> list[DecisionRow]:
        self.call()
        return [row for row in self.tables["decision"].values() if row.partition == partition]

    async def due(self, partition: int, before: int, limit: int) -> list[tuple[bytes, str]]:
        """Customers due before `before`, the earliest first."""
        found = [(row.due_at, row) for row in self._rows(partition) if row.due_at is not None and row.due_at < before]
        return [(row.customer, row.workspace) for _, row in sorted(found, key=lambda pair: pair[0])[:limit]]

    async def next_due(self, partition: int) -> int | None:
        """The earliest due time."""
        return min((row.due_at for row in self._rows(partition) if row.due_at is not None), default=None)

    async def held(self, partition: int, after: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Customers a history import holds."""
        found = [row for row in self._rows(partition) if row.decision.held and row.customer > after]
        return [(row.customer, row.workspace) for row in sorted(found, key=lambda row: row.customer)[:limit]]

    async def armed_before(self, partition: int, workspace: str, version: int, after: Armed, limit: int) -> list[Armed]:
        """Customers of an older definition."""
        rows = [row for row in self._rows(partition) if row.workspace == workspace]
        found = sorted((row.decision.version, row.customer) for row in rows if row.decision.version < version)
        return [one for one in found if one > after][:limit]

    async def imports_passed(self, partition: int) -> dict[str, int]:
        """Import → from how many partitions its end has arrived."""
        self.call()
        counts: dict[str, int] = {}
        for at, import_id, _ in self.tables["import_passed"]:
            if at == partition:
                counts[import_id] = counts.get(import_id, 0) + 1
        return counts


class ScoringTransaction:
    """One step (`services.scoring.ports.Transaction`)."""

    def __init__(self, database: MemoryScoring) -> None:
        self._database = database

    async def move(self, claim: Claim, new: Claim) -> Claim:
        return self._database.move(claim, new)

    def attempt(self) -> AbstractAsyncContextManager[None]:
        return self._database.savepoint()

    async def lock(self, customers: Mapping[bytes, str]) -> dict[bytes, DecisionRow]:
        self._database.call()
        rows = self._database.tables["decision"]
        for customer, workspace in sorted(customers.items()):
            if customer not in rows and workspace:
                partition = partition_of(customer, self._database.partitions)
                rows[customer] = DecisionRow(customer, workspace, partition)
        found = {customer: rows[customer] for customer in customers if customer in rows}
        self._database.tables["locked"].update(dict.fromkeys(found))
        return found

    async def lock_alerts(self, ids: Collection[bytes]) -> dict[bytes, AlertRow | None]:
        self._database.call()
        self._database.tables["locked"].update(dict.fromkeys(ids))
        return {alert_id: self._database.tables["alert"].get(alert_id) for alert_id in ids}

    async def alerts_of_leaves(self, leaves: Collection[bytes]) -> list[AlertRow]:
        self._database.call()
        return [row for row in self._database.tables["alert"].values() if row.leaf in leaves]

    async def save_decisions(self, rows: Sequence[DecisionRow]) -> None:
        self._database.call()
        for row in rows:
            assert row.customer in self._database.tables["locked"], "a decision was written without its lock"
            self._database.tables["decision"][row.customer] = row

    async def save_alerts(self, rows: Sequence[AlertRow]) -> None:
        self._database.call()
        for row in rows:
            assert row.id in self._database.tables["locked"], "an alert was written without its lock"
            self._database.tables["alert"][row.id] = row

    async def blank_alerts(self, customers: Collection[bytes]) -> None:
        self._database.call()
        kept = self._database.tables["alert"]
        for row in [row for row in kept.values() if row.customer in customers]:
            kept[row.id] = msgspec.structs.replace(row, body=b"")

    async def note_import(self, partition: int, import_id: str, from_partition: int, workspace: str) -> None:
        self._database.call()
        self._database.tables["import_passed"].setdefault((partition, import_id, from_partition), workspace)

    async def send(self, parcels: Sequence[Parcel]) -> None:
        self._database.call()
        self._database.put(parcels)
