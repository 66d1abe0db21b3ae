"""The short form of `make overload`: more than the door can take is refused in good order, and nothing is lost."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from services.ingest.pressure import Overloaded, Patience
from shared.clock import FrozenClock
from tests.load.overload import Seen, overload
from tests.support.broker import NewBroker
from tests.support.house import Ground

pytestmark = pytest.mark.alone

SECONDS = 10.0
TURN_SECONDS_MAX = 0.1
"""Less than by default: how long a queue 2,000 connections make is a matter of the machine."""
MEMORY_MIB_MAX = 900


def judge(seen: Seen) -> None:
    """What overload may and may not do, whatever the machine."""
    print("\n" + "\n".join(seen.lines()))
    assert seen.lost == 0
    assert seen.others == []
    assert seen.answers.of(200), "overload must not stop the work"
    assert seen.answers.of(503), "nobody was refused: this was no overload"
    assert seen.rss_peak < MEMORY_MIB_MAX
    assert seen.recovered_seconds is not None


async def test_three_times_too_much_is_refused_with_retry_after_and_nothing_is_lost(tmp_path: Path) -> None:
    judge(await asyncio.to_thread(uvloop.run, overload(Ground(tmp_path), SECONDS, TURN_SECONDS_MAX)))


@pytest.mark.kafka
async def test_three_times_too_much_on_kafka(tmp_path: Path, new_broker: NewBroker) -> None:
    ground = Ground(tmp_path, bootstrap=new_broker().bootstrap)
    judge(await asyncio.to_thread(uvloop.run, overload(ground, SECONDS, TURN_SECONDS_MAX)))


def test_who_waited_too_long_for_a_turn_is_refused() -> None:
    patience = Patience(FrozenClock(), 0.5, 5.0)
    patience.check(0.5)
    with pytest.raises(Overloaded, match="RAFTAR_INGEST_TURN_SECONDS_MAX"):
        patience.check(0.51)


def test_while_the_oldest_append_waits_too_long_new_requests_are_refused() -> None:
    clock = FrozenClock()
    patience = Patience(clock, 0.5, 5.0)
    slow = patience.begin()
    clock.advance(5_000)
    patience.check(0.0)
    quick = patience.begin()
    clock.advance(1)
    with pytest.raises(Overloaded, match="RAFTAR_INGEST_LOG_SECONDS_MAX"):
        patience.check(0.0)
    assert patience.end(slow) == pytest.approx(5.001, abs=1e-5)
    patience.check(0.0)
    assert patience.end(quick) == pytest.approx(0.001, abs=1e-5)
