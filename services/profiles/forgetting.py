"""What was decided about a customer goes when scoring says that the customer was erased, and the receipt learns it."""

from dataclasses import dataclass, field

from services.profiles.domain.decided import AlertRow, StandingRow, TransitionRow
from shared.database import Connection, execute
from shared.topics import SEGMENT_CHANGES

_STANDING = "DELETE FROM standing WHERE customer = $1 AND stage_at <= $2 AND risk_at <= $2"
_UNLISTED = """UPDATE customer SET stage = '' WHERE customer = $1
AND NOT EXISTS (SELECT 1 FROM standing s WHERE s.customer = $1)"""
_ALERTS = "DELETE FROM alert WHERE customer = $1"
_SAID = "DELETE FROM transition WHERE customer = $1 AND topic = $2 AND partition = $3 AND position < $4"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """One erasure as scoring said it: `position` on its topic, `at`: what was decided up to then is void (epoch ms)."""

    customer: bytes
    position: int
    at: int
    recorded_at: int


@dataclass(slots=True)
class Decisions:
    """What a batch of decisions brings, in order: an erasure takes back what the batch said before it."""

    standings: list[StandingRow] = field(default_factory=list)
    alerts: list[AlertRow] = field(default_factory=list)
    said: list[TransitionRow] = field(default_factory=list)
    forgotten: dict[bytes, Forgotten] = field(default_factory=dict)
    taken_back: dict[bytes, int] = field(default_factory=dict)

    def forget(self, one: Forgotten) -> None:
        """Take back what this batch said of the customer so far."""
        rest = [row for row in self.said if row.customer != one.customer]
        self.taken_back[one.customer] = self.taken_back.get(one.customer, 0) + len(self.said) - len(rest)
        self.said = rest
        self.standings = [row for row in self.standings if row.customer != one.customer]
        self.alerts = [row for row in self.alerts if row.customer != one.customer]
        self.forgotten[one.customer] = one


async def forget(
    connection: Connection, topic: str, partition: int, one: Forgotten, taken_back: int
) -> None:  # fmt: skip
    """Delete what this topic ever said of the customer before, and write it into receipts that wait for it."""
    if await execute(connection, _STANDING, one.customer, one.at):
        await execute(connection, _UNLISTED, one.customer)
    if topic != SEGMENT_CHANGES:
        await execute(connection, _ALERTS, one.customer)
    count = taken_back + await execute(connection, _SAID, one.customer, topic, partition, one.position)
    what = "stages" if topic == SEGMENT_CHANGES else "alerts"
    done = f"UPDATE erasure_leaf SET {what}_at = $2, {what} = $3 WHERE leaf = $1 AND erased_at >= 0 AND {what}_at < 0"
    await execute(connection, done, one.customer, one.recorded_at, count)
