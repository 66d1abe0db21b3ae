"""The one place where time and randomness enter. Everything else is handed a Clock."""

import os
import time
from typing import Protocol

from shared.ids import uuid7


class Clock(Protocol):
    """Wall time in epoch milliseconds, a monotonic reading for durations, and fresh ids."""

    def now_ms(self) -> int: ...

    def monotonic(self) -> float: ...

    def new_id(self) -> bytes: ...


class SystemClock:
    """The machine's clock and its randomness."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> bytes:
        """A fresh UUIDv7 (16 bytes)."""
        return uuid7(self.now_ms(), os.urandom(10))


class FrozenClock:
    """A clock that moves only when told; ids count up. For tests, simulation and backtests."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._ids = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000

    def new_id(self) -> bytes:
        self._ids += 1
        return uuid7(self._now_ms, self._ids.to_bytes(10, "big"))

    def advance(self, milliseconds: int) -> None:
        """Move forward (or, for clock-fault tests, back)."""
        self._now_ms += milliseconds
