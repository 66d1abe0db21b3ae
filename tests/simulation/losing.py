"""The scoring database is lost and made again from what was said; profiles tells every customer again."""

from services.profiles.domain.retelling import needs_members, retold
from services.profiles.domain.rows import LeafRow
from services.profiles.domain.terms import House
from shared.checkpoint import Claim
from shared.codec import encode
from shared.events import RepublishPassed
from shared.log.port import RECORD_BYTES_MAX
from shared.outbox import Parcel, Pending
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES
from tests.simulation.driving import run
from tests.simulation.memory_log import MemoryLog
from tests.simulation.memory_profiles import MemoryProfiles
from tests.simulation.memory_scoring import MemoryScoring
from tests.support.recalling import recalled


def lose(scoring: MemoryScoring, log: MemoryLog) -> None:
    """Nothing is left of the database but what it said; decisions nobody was told of were never taken."""
    topics, partitions = (SEGMENT_CHANGES, CHURN_ALERTS), range(scoring.partitions)
    said = [record.value for topic in topics for partition in partitions for record in log.records(topic, partition)]
    kept = [row for _, row in sorted(scoring.tables["journal"].items()) if row.value in set(said)]
    rows, alerts = recalled(said, scoring.partitions)
    claims = {(PROFILE_CHANGES, q): Claim(PROFILE_CHANGES, q, 0, 0, 0) for q in partitions}
    journal = {number: Pending(number, *row[1:]) for number, row in enumerate(kept)}
    scoring.tables |= {"outbox": {}, "journal": journal, "decision": rows, "alert": alerts, "import_passed": {}}
    scoring.tables["checkpoint"] = claims


async def _tell_again(profiles: MemoryProfiles, identity: str, now: int) -> None:
    async with profiles.transaction() as transaction:
        leaves: dict[bytes, LeafRow] = profiles.tables["leaf"]
        rows = list((await transaction.lock(dict.fromkeys(sorted(leaves), ""))).values())
        members = {row.leaf: [one for one in leaves.values() if one.root == row.leaf] for row in rows}
        several = {row.leaf: members[row.leaf] for row in rows if needs_members(row)}
        house = House(profiles.partitions, RECORD_BYTES_MAX)
        parcels, _ = retold(sorted(rows, key=lambda row: row.leaf), several, house, identity)
        passed = encode(RepublishPassed(identity, now))
        await transaction.send(parcels)
        await transaction.send([Parcel(PROFILE_CHANGES, q, b"", passed) for q in range(profiles.partitions)])


def tell_again(profiles: MemoryProfiles, identity: str, now: int) -> None:
    """One republish, in one page."""
    run(_tell_again(profiles, identity, now))
