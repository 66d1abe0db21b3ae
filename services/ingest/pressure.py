"""What the door can take now: bytes in progress, bounded, and whether the log takes appends. And how far folding is."""

import asyncio
from itertools import count
from typing import Any

from shared.clock import Clock
from shared.codec import decode
from shared.errors import NotAccepting, RaftarError
from shared.events import WatermarkStated
from shared.log.port import Log
from shared.topics import TOUCHPOINTS, WATERMARKS

PAUSE_AFTER_FAILURE_SECONDS = 5.0
"""Not ready for this long after an append failed; then the log is asked, and traffic decides."""
RECENT_SECONDS = 10.0


class TooBusy(NotAccepting):
    """All requests in progress together hold as much as they may."""

    code = "too_busy"


class Overloaded(NotAccepting):
    """More comes than this door can take; the request was read, and nothing of it was kept."""

    code = "overloaded"


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


class Patience:
    """How long a request may wait here, for its turn and for the log. Whoever would wait longer is told at once, so
    that those who are let in are answered in time, however many come."""

    def __init__(self, clock: Clock, turn_seconds_max: float, log_seconds_max: float) -> None:
        self._clock = clock
        self._turn_seconds_max, self._log_seconds_max = turn_seconds_max, log_seconds_max
        self._appending: dict[int, float] = {}  # in the order they began
        self._numbers = count()

    def check(self, waited_seconds: float) -> None:
        """Raises Overloaded for a request that waited this long for its turn, when that or the log is too slow."""
        if waited_seconds > self._turn_seconds_max:
            raise Overloaded("more comes than can be taken now (RAFTAR_INGEST_TURN_SECONDS_MAX); try again soon")
        for began in self._appending.values():
            if self._clock.monotonic() - began > self._log_seconds_max:
                raise Overloaded("the log is slow now (RAFTAR_INGEST_LOG_SECONDS_MAX); try again soon")
            return

    def begin(self) -> int:
        """An append begins; `end` must follow with its number."""
        number = next(self._numbers)
        self._appending[number] = self._clock.monotonic()
        return number

    def end(self, number: int) -> float:
        """That append ended, well or not; the seconds it took."""
        return self._clock.monotonic() - self._appending.pop(number)


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


class Backlog:
    """How far folding is behind, as its own last statement says. Shown, never a reason to refuse anything."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log, self._clock = log, clock

    async def check(self) -> dict[str, Any]:
        """`folded_until_seconds_ago` of the partition furthest behind; null while nobody says."""
        try:
            stated = await asyncio.wait_for(self._last(), 2.0)
        except (RaftarError, TimeoutError) as error:
            return {"ok": True, "folded_until_seconds_ago": None, "reason": getattr(error, "code", "no_answer")}
        if stated is None or min(stated.frontiers) < 0:
            return {"ok": True, "folded_until_seconds_ago": None}
        behind_seconds = max(0.0, (self._clock.now_ms() - min(stated.frontiers)) / 1000)
        return {"ok": True, "folded_until_seconds_ago": round(behind_seconds, 3)}

    async def _last(self) -> WatermarkStated | None:
        first, end = (await self._log.bounds(WATERMARKS))[0]
        if end == first:
            return None
        try:
            batch = await self._log.read(WATERMARKS, 0, end - 1, records_max=1)
        finally:
            await self._log.release(WATERMARKS, 0)
        facts = [decode(record.value) for record in batch.records]
        return next((fact for fact in facts if isinstance(fact, WatermarkStated)), None)
