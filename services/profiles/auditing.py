"""The self-audit: customers and stretches of the log taken at random, verified at a set rate, for ever."""

import asyncio
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import structlog

from services.profiles.comparing import positions
from services.profiles.domain.drift import Drift
from services.profiles.verifying import Lost, Verifier, a_root_near
from shared.clock import Clock
from shared.errors import OutOfRange, RaftarError, Retryable
from shared.ids import LEAF_BYTES, leaf_text
from shared.lane import named
from shared.topics import TOUCHPOINTS

RECORDS_PER_AUDIT = 20
RANKS = 5
SAID_MAX = 5

_log = structlog.get_logger("audit")


@dataclass(slots=True)
class AuditTally:
    """What the audit counts; shown as metrics."""

    audited: int = 0  # customers
    drifted: int = 0  # customers of whom something is stored otherwise than the log says
    looked_at: int = 0  # touchpoints of the log
    lost: int = 0  # of them, those nobody counted


@dataclass(slots=True)
class Auditor:
    """Audits `per_minute` customers, and as many short stretches of the log; 0: none."""

    verifier: Verifier
    clock: Clock
    per_minute: float
    tally: AuditTally = field(default_factory=AuditTally)
    last_drift: dict[str, Any] | None = None

    async def run(self) -> None:
        """Audit until cancelled."""
        while self.per_minute > 0:
            await asyncio.sleep(60 / self.per_minute)
            try:
                await self.once()
            except (Retryable, OSError) as error:
                _log.info("the audit waits", error=named(error))
            except Exception as error:
                _log.error("the audit stumbled", error=named(error))

    async def once(self) -> None:
        """Verify one customer and one stretch of the log, both taken at random."""
        async with self.verifier.database.snapshot() as connection:
            root = await a_root_near(connection, random_leaf(self.clock), None)
            folded = await positions(connection)
        if root is not None:
            verdict = await self.verifier.customer(root)
            self.tally.audited += 1
            self._note(verdict.drifts)
        await self._look(folded)

    def check(self) -> dict[str, Any]:
        """For readiness: what was found. Drift is an alarm, and no reason to stop serving."""
        return {
            "ok": True,
            "audited": self.tally.audited,
            "drifted": self.tally.drifted,
            "lost": self.tally.lost,
            "last_drift": self.last_drift,
        }

    async def _look(self, folded: dict[int, int]) -> None:
        partition, position = random_place(self.clock, folded)
        if partition is None:
            return
        try:
            found = await self.verifier.stretch(partition, position, RECORDS_PER_AUDIT)
        except OutOfRange:
            return  # archived since
        self.tally.looked_at += found.touchpoints
        self._note_lost(found.lost)

    def _note(self, drifts: list[Drift]) -> None:
        """Values stay out of the log; `raftar verify --customer` shows them."""
        if not drifts:
            return
        customer, features = leaf_text(drifts[0].customer), sorted({one.feature for one in drifts})
        self.tally.drifted += 1
        self.last_drift = {"customer_id": customer, "features": features[:SAID_MAX]}
        _log.error("drift: a customer is stored otherwise than the log says", customer=customer, features=features)

    def _note_lost(self, lost: list[Lost]) -> None:
        self.tally.lost += len(lost)
        for one in lost[:SAID_MAX]:
            place = "/".join(map(str, one.place))
            _log.error("drift: the log holds a touchpoint that nobody counted", position=f"{TOUCHPOINTS}/{place}")


def random_leaf(clock: Clock) -> bytes:
    """Somewhere among all leaves, of any rank."""
    drawn = blake2b(clock.new_id(), digest_size=LEAF_BYTES).digest()
    return bytes((drawn[0] % RANKS,)) + drawn[1:]


def random_place(clock: Clock, folded: dict[int, int]) -> tuple[int | None, int]:
    """A partition and a position among what is folded; None where nothing is. Long partitions are taken more often."""
    total = sum(folded.values())
    if not total:
        return None, 0
    at = int.from_bytes(blake2b(clock.new_id(), digest_size=8).digest(), "big") % total
    for partition, end in sorted(folded.items()):
        if at < end:
            return partition, at
        at -= end
    raise RaftarError("unreachable: the sum of all partitions was passed")
