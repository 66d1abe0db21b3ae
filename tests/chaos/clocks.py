"""Clocks that jump: a service's Clock whose offset lies in a small file, and the hand that sets it from outside."""

import mmap
import struct
from pathlib import Path

from shared.clock import SystemClock

HOUR_MS = 3_600_000
VARIABLE = "CHAOS_CLOCK"
"""Names the file to a service process."""

_OFFSET = struct.Struct("<q")


class JumpingClock(SystemClock):
    """The machine's clock plus the file's offset in milliseconds. Durations do not jump, as on a real machine."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)

    def now_ms(self) -> int:
        offset: int = _OFFSET.unpack_from(self._offset)[0]
        return super().now_ms() + offset


class Hand:
    """Sets the offset that every JumpingClock on the same file reads at its next look."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(_OFFSET.pack(0))
        self.path = path
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size)

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be told to follow this hand."""
        return {VARIABLE: str(self.path)}

    def jump(self, offset_ms: int) -> None:
        """From now on clocks show the machine's time plus this."""
        _OFFSET.pack_into(self._offset, 0, offset_ms)
