"""What the door can take now: bytes in progress, bounded, and whether the log takes appends."""

import asyncio
from typing import Any

from shared.clock import Clock
from shared.errors import NotAccepting, RaftarError
from shared.log.port import Log
from shared.topics import TOUCHPOINTS

PAUSE_AFTER_FAILURE_SECONDS = 5.0
"""Not ready for this long after an append failed; then the log is asked, and traffic decides."""
RECENT_SECONDS = 10.0


class TooBusy(NotAccepting):
    """All requests in progress together hold as much as they may."""

    code = "too_busy"


class Inflight:
    """Bytes of all requests in progress, bounded."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.held = 0

    def take(self, byte_count: int) -> None:
        """Hold bytes. Raises TooBusy beyond the bound."""
        if self.held + byte_count > self._bytes_max:
            raise TooBusy("too many requests are in progress (RAFTAR_INGEST_INFLIGHT_BYTES_MAX); try again soon")
        self.held += byte_count

    def give(self, byte_count: int) -> None:
        """Let bytes go."""
        self.held -= byte_count


class LogHealth:
    """Whether the log takes appends: known from the traffic itself, asked for when there is none."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._at: float | None = None
        self._failure = ""

    @property
    def last_worked(self) -> bool:
        """Whether the newest append worked (True before the first)."""
        return not self._failure

    def worked(self) -> None:
        """An append worked."""
        self._at, self._failure = self._clock.monotonic(), ""

    def failed(self, code: str) -> None:
        """An append failed."""
        self._at, self._failure = self._clock.monotonic(), code

    async def check(self) -> dict[str, Any]:
        """`ok` after a recent success; after a failure not for a while; else what the log answers."""
        age_seconds = float("inf") if self._at is None else self._clock.monotonic() - self._at
        if self._failure and age_seconds < PAUSE_AFTER_FAILURE_SECONDS:
            return {"ok": False, "reason": self._failure}
        if not self._failure and age_seconds < RECENT_SECONDS:
            return {"ok": True}
        try:
            await asyncio.wait_for(self._log.bounds(TOUCHPOINTS), 2.0)
        except (RaftarError, TimeoutError) as error:
            return {"ok": False, "reason": getattr(error, "code", "no_answer")}
        return {"ok": True}
