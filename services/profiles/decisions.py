"""Folds what scoring decided (`segment-changes`, `churn-alerts`) into the rows that people read beside a profile."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.profiles import tables, versions
from services.profiles.domain.decided import (
    AlertRow,
    StandingRow,
    TransitionRow,
    decided_of,
    holding_alerts,
    holding_standings,
    transition_of,
)
from services.profiles.domain.rows import ParkedRow
from services.profiles.forgetting import Decisions, Forgotten, forget
from services.profiles.store import SqlStore, SqlTransaction, see_customers
from shared import checkpoint
from shared.checkpoint import Claim
from shared.database import Connection, fetch, insert_rows, is_sqlite
from shared.errors import Poison
from shared.lane import Portion
from shared.log.port import Batch

_LATER_STAGE = ", ".join(
    f"{column} = CASE WHEN excluded.sequence > standing.sequence THEN excluded.{column} ELSE standing.{column} END"
    for column in ("stage", "stage_at", "reasons", "sequence")
)
_LATER_RISK = ", ".join(
    f"{column} = CASE WHEN (excluded.risk_at, excluded.risk_ppm) > (standing.risk_at, standing.risk_ppm) "
    f"THEN excluded.{column} ELSE standing.{column} END"
    for column in ("risk_ppm", "risk_at")
)
_STANDING_HOLDS = f"ON CONFLICT (customer) DO UPDATE SET {_LATER_STAGE}, {_LATER_RISK}"
_ALERT_HOLDS = """ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, revision = excluded.revision,
state = excluded.state, body = excluded.body WHERE excluded.revision > alert.revision"""


_LIST_STAGES = """UPDATE {customer} AS listed SET stage = s.stage FROM standing s
WHERE s.customer = listed.customer AND listed.stage <> s.stage AND listed.customer = ANY($1)"""


@dataclass(slots=True)
class DecisionTally:
    """What folding decisions counts."""

    records: int = 0
    parked: int = 0


@dataclass(slots=True)
class DecisionsProjection:
    """Folds one topic of decisions. Any order and any repetition gives the same rows."""

    store: SqlStore
    topic: str
    tally: DecisionTally = field(default_factory=DecisionTally)

    async def fold_together(self, portions: Sequence[Portion]) -> list[Claim]:
        """Fold batches of several partitions in one transaction; what is no decision is parked. Raises Fenced."""
        parked: list[ParkedRow] = []
        read = [(claim, batch, self._decided(claim, batch, parked)) for claim, batch in portions]
        async with self.store.database.brief_transaction() as connection:
            moved = [
                await checkpoint.hold(connection, claim, claim.past(batch.records, batch.next_position))
                for claim, batch in portions
            ]
            for partition in sorted(claim.partition for claim, _ in portions):
                await see_customers(connection, partition)
            for claim, _, found in read:
                for customer, one in sorted(found.forgotten.items()):
                    await forget(connection, claim.topic, claim.partition, one, found.taken_back[customer])
            standings = holding_standings(row for _, _, found in read for row in found.standings)
            alerts = holding_alerts(row for _, _, found in read for row in found.alerts)
            await _keep(connection, standings, alerts, [row for _, _, found in read for row in found.said])
            await SqlTransaction(connection, self.store.database.is_sqlite).park(parked)
        self.tally.records += sum(len(batch.records) for _, batch in portions)
        self.tally.parked += len(parked)
        return moved

    async def turn(self, claim: Claim) -> Claim:
        """Nothing is due here."""
        return claim

    def _decided(self, claim: Claim, batch: Batch, parked: list[ParkedRow]) -> Decisions:
        found = Decisions()
        for record in batch.records:
            try:
                decided = decided_of(record.value)
            except Poison as error:
                at = (claim.topic, claim.partition, record.position, -1)
                parked.append(
                    ParkedRow(*at, "", "", str(error).replace("\0", "\ufffd"), record.value, record.recorded_at)
                )
                continue
            recorded_at = claim.recorded_at(record)
            if decided.erased:
                found.forget(Forgotten(decided.erased, record.position, decided.at, recorded_at))
            found.standings += [decided.standing] if decided.standing else []
            found.alerts += [decided.alert] if decided.alert else []
            row = transition_of(decided, claim.topic, claim.partition, record.position, recorded_at)
            found.said += [row] if row else []
        return found


async def list_stages(connection: Connection, customers: Sequence[bytes]) -> None:
    """Lists show the stages that stand, in the live version of profiles and in one that is made beside it."""
    if not customers:
        return
    mine, is_beside = sorted(set(customers)), await versions.exists(connection, "next")
    made = [versions.beside("next", is_sqlite(connection)).customer] if is_beside else []
    for table in (tables.customer, *made):
        if not is_sqlite(connection):  # locked in one order, as the fold does, so that nobody waits in a circle
            lock = f"SELECT customer FROM {table.fullname} WHERE customer = ANY($1) ORDER BY customer FOR UPDATE"
            await fetch(connection, lock, mine)
        await fetch(connection, _LIST_STAGES.format(customer=table.fullname), mine)


async def _keep(
    connection: Connection,
    standings: Sequence[StandingRow],
    alerts: Sequence[AlertRow],
    said: Sequence[TransitionRow],
) -> None:
    await insert_rows(connection, tables.standing, StandingRow._fields, standings, _STANDING_HOLDS)
    await list_stages(connection, [row.customer for row in standings])
    await insert_rows(connection, tables.alert, AlertRow._fields, alerts, _ALERT_HOLDS)
    await insert_rows(connection, tables.transition, TransitionRow._fields, said, "ON CONFLICT DO NOTHING")


async def keep_decision(
    connection: Connection, topic: str, partition: int, position: int, recorded_at: int, value: bytes
) -> None:
    """Fold one record of a topic of decisions that could not be read before. Raises Poison."""
    decided = decided_of(value)
    row = transition_of(decided, topic, partition, position, recorded_at)
    if decided.erased:
        await forget(connection, topic, partition, Forgotten(decided.erased, position, decided.at, recorded_at), 0)
    standings, alerts = [decided.standing] if decided.standing else [], [decided.alert] if decided.alert else []
    await _keep(connection, standings, alerts, [row] if row else [])
