"""A lane: one partition in a worker's hands, its claim and its lock; what it brings to a step, what a worker counts."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.checkpoint import Claim
from shared.errors import Fenced
from shared.log.port import Batch


class Portion(NamedTuple):
    """What one partition brings to a step: the claim that stands, and the batch read from its position on."""

    claim: Claim
    batch: Batch


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

    def appended_to(self, end: int) -> None:
        """Everything relayed to its partition of profile-changes so far lies before `end`."""
        self.relayed_to = max(self.relayed_to, end)

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
