"""Where the log is stamped by another clock, a worker whose own is wrong promises nothing ahead of the log."""

from random import Random

import pytest

from shared.clock import FrozenClock
from shared.codec import decode
from shared.events import WatermarkStated
from shared.topics import WATERMARKS
from tests.simulation.memory_log import MemoryLog
from tests.simulation.memory_profiles import MemoryProfiles
from tests.simulation.seats import ProfilesSeat

HOUR_MS = 3_600_000
PULSE_MS = 250
PARTITIONS = 2


class WrongClock(FrozenClock):
    """A worker's clock beside the true one: durations pass alike, the time of day is off by what is told."""

    def __init__(self, true: FrozenClock) -> None:
        super().__init__()
        self.off_ms = 0
        self._true = true

    def now_ms(self) -> int:
        return self._true.now_ms() + self.off_ms

    def monotonic(self) -> float:
        return self._true.monotonic()


class _Seat(ProfilesSeat):
    allowance_ms = 250


class Worker:
    """One worker of profiles on a quiet log, pulse by pulse."""

    def __init__(self) -> None:
        self.true = FrozenClock()
        self.clock = WrongClock(self.true)
        self.log = MemoryLog(self.true, PARTITIONS, Random(1))
        self._seat = _Seat(self.log, self.clock, PARTITIONS, MemoryProfiles(PARTITIONS))
        for partition in range(PARTITIONS):
            self._seat.acquire(partition)

    @property
    def withheld(self) -> int:
        """How often its clock was found wrong."""
        return self._seat.worker.tally.clock_off

    def pulses(self, count: int) -> list[int]:
        """Go on for so many; the smallest T of each statement."""
        first = self.log.ends(WATERMARKS)[0]
        for _ in range(count):
            self.true.advance(PULSE_MS)
            self._seat.relay_all(pulse=True)
        return [min(self._stated(record.value)) for record in self.log.records(WATERMARKS, 0)[first:]]

    def jump_while_appending(self, off_ms: int) -> None:
        """The clock jumps between the two looks at it around the next statement."""

        def jump(_topic: str, _record: object) -> None:
            self.clock.off_ms = off_ms

        self.log.on_append = jump

    @staticmethod
    def _stated(value: bytes) -> tuple[int, ...]:
        stated = decode(value)
        assert isinstance(stated, WatermarkStated)
        return stated.frontiers


def test_a_right_clock_moves_the_frontier_with_every_pulse() -> None:
    worker = Worker()
    stated = worker.pulses(8)[2:]
    assert stated == sorted(set(stated))
    assert worker.true.now_ms() - stated[-1] < 3 * PULSE_MS


@pytest.mark.parametrize("off_ms", [HOUR_MS, -HOUR_MS, 2_000])
def test_a_clock_that_jumps_promises_nothing_until_it_is_right_again(off_ms: int) -> None:
    worker = Worker()
    before = worker.pulses(8)[-1]
    worker.clock.off_ms = off_ms
    assert set(worker.pulses(60)) == {before}
    assert worker.withheld
    worker.clock.off_ms = 0
    assert worker.pulses(40)[-1] > before


@pytest.mark.parametrize("off_ms", [HOUR_MS, -HOUR_MS])
def test_a_worker_that_starts_with_a_wrong_clock_promises_nothing(off_ms: int) -> None:
    worker = Worker()
    worker.clock.off_ms = off_ms
    assert max(worker.pulses(40)) < 0


def test_a_jump_in_the_middle_of_an_append_is_not_taken_for_agreement() -> None:
    worker = Worker()
    worker.jump_while_appending(HOUR_MS)
    assert max(worker.pulses(40)) < 0
