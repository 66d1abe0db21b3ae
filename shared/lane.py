"""A lane: one partition in a worker's hands, its claim and its lock; and what a worker counts."""

import asyncio
from dataclasses import dataclass, field

from shared.checkpoint import Claim
from shared.errors import Fenced

BATCH_RECORDS_MAX = 500
STEP_SECONDS_MAX = 1.0
"""A step that takes longer is made smaller: it must stay far below the database's time-outs, and the wait for customers
who are locked counts."""


@dataclass(slots=True)
class Lane:
    """One partition in this worker's hands."""

    partition: int
    claim: Claim | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    relayed_to: int = 0
    probe: tuple[int, int] | None = None  # (our clock before, the end then asked for)
    stopped: str = ""  # why it must not go on until a person acts
    records_max: int = BATCH_RECORDS_MAX  # of a batch, which must fit the database's time-outs

    def appended_to(self, end: int) -> None:
        """Everything relayed to its partition of profile-changes so far lies before `end`."""
        self.relayed_to = max(self.relayed_to, end)

    def failed(self) -> None:
        """A step did not get through: try less at once."""
        self.claim = None
        self.records_max = max(1, self.records_max // 4)

    def folded(self, records: int, seconds: float) -> None:
        """A step of so many records got through: less at once where it was slow, more where there was time for more."""
        if seconds > STEP_SECONDS_MAX:
            self.records_max = max(1, min(self.records_max, records) // 2)
        elif seconds < STEP_SECONDS_MAX / 4:
            self.records_max = min(BATCH_RECORDS_MAX, self.records_max * 2)

    def held(self) -> Claim:
        """The claim; Fenced when it was lost."""
        if self.claim is None:
            raise Fenced(f"partition {self.partition} is being acquired again")
        return self.claim


@dataclass(slots=True)
class Tally:
    """What the loop counts; the service shows it as metrics."""

    folded_records: int = 0
    relayed_rows: int = 0
    refused: int = 0  # fenced writes
    failures: int = 0  # anything else that made a lane pause
    pulses: int = 0
    clock_off: int = 0  # frontiers withheld because our clock differs from the log's stamps


def named(error: BaseException) -> str:
    """An error for a log line: its type and the start of its message."""
    return f"{type(error).__name__}: {str(error)[:200]}"
