"""`python -m tests.load.overload [--seconds 60] [--kafka]`: a door asked for three times what it can take.

Its capacity is measured first, then the load is offered whatever comes back. Prints what became of it: refusals with
their Retry-After, answer times of those let in, memory, how soon it was back to normal, and whether every acknowledged
touchpoint is in the log.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from tests.e2e.evidence import touchpoint_ids
from tests.load.posting import UNIQUE, Answer, Crowd, Offered, percentile, template
from tests.support.house import Ground, House, Service
from tests.support.kafka_broker import Broker

ITEMS = 20
TIMES = 3.0
CALM_SHARE = 0.5
CALM_SECONDS_MAX = 30.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """One overload. Rates in touchpoints a second, memory in MiB; `recovered_seconds` None: not within the time."""

    capacity: float
    offered: float
    taken: float
    answers: Offered
    rss_before: float
    rss_peak: float
    rss_after: float
    recovered_seconds: float | None
    acknowledged: int
    lost: int

    @property
    def others(self) -> list[Answer]:
        """What was neither taken nor refused as overload is to be."""
        return [
            a for a in self.answers.answers if a.status != 200 and not (a.status == 503 and a.retry_after.isdigit())
        ]

    def lines(self) -> list[str]:
        """For people."""
        took = [answer.seconds * 1000 for answer in self.answers.of(200)]
        no = [answer.seconds * 1000 for answer in self.answers.of(503)]
        again = sorted({answer.retry_after for answer in self.answers.of(503)})
        back = "NOT WITHIN 30 s" if self.recovered_seconds is None else f"after {self.recovered_seconds:.1f} s"
        return [
            f"can take {self.capacity:,.0f}/s; offered {self.offered:,.0f}/s; took {self.taken:,.0f}/s",
            f"taken   {_times(took)}",
            f"refused {_times(no)}, 503 with Retry-After {', '.join(again) or '-'}",
            f"others  {len(self.others):>8,}, not sent for want of connections {self.answers.unsent:,}",
            f"memory  {self.rss_before:.0f} MiB before, {self.rss_peak:.0f} at most, {self.rss_after:.0f} after",
            f"normal  {back}",
            f"acknowledged {self.acknowledged:,} touchpoints, lost {self.lost}",
        ]


def _times(milliseconds: list[float]) -> str:
    p50, p99 = percentile(milliseconds, 0.5), percentile(milliseconds, 0.99)
    return f"{len(milliseconds):>8,} requests, p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def call(index: int) -> dict[str, object]:
    """A track call whose id says its request and its place in it."""
    number = UNIQUE.decode()
    return {
        "type": "track", "event": "Product Viewed", "anonymousId": f"visitor-{number}-{index % 5}",
        "messageId": f"0b6f2d0c-1a2b-4c3d-8e4f-{number}{index:04x}", "timestamp": "2026-11-22T10:00:00.000Z",
        "properties": {"product_id": f"sku-{index}", "category": "shoes", "price": 39.8, "currency": "EUR"},
        "context": {"locale": "fa-IR", "page": {"path": "/shoes", "title": "Shoes"}},
    }  # fmt: skip


async def overload(ground: Ground, seconds: float, turn_seconds_max: float | None = None) -> Seen:
    """Overload the door of a fresh house on `ground` for so long. `turn_seconds_max`: another one than by default."""
    house = House(ground)
    await house.prepare()
    [door] = house.of("ingest")
    if turn_seconds_max is not None:
        door.settings["RAFTAR_INGEST_TURN_SECONDS_MAX"] = str(turn_seconds_max)
    door.launch()
    try:
        await asyncio.to_thread(door.wait_until_ready)
        seen = await _pressed(house, door, seconds)
    except BaseException:
        print(door.printed())
        raise
    finally:
        house.close()
    return seen


async def _pressed(house: House, door: Service, seconds: float) -> Seen:
    process = psutil.Process(door.pid)
    async with Crowd(door.port, template(house.access.write_key, ITEMS, call)) as crowd:
        await crowd.press(16, 1.0)
        usual = await crowd.press(16, max(1.0, seconds / 10))
        capacity = len(usual.of(200)) / max(1.0, seconds / 10)
        before = process.memory_info().rss / MIB
        watching, peak = asyncio.create_task(_peak(process)), 0.0
        try:
            answers = await crowd.offer(TIMES * capacity, seconds, until_refused=True)
        finally:
            watching.cancel()
            peak = (await asyncio.gather(watching, return_exceptions=True))[0]  # type: ignore[assignment]
        calm, recovered = await _recovery(crowd, capacity)
        after = process.memory_info().rss / MIB
    taken = [answer.number for load in (usual, answers, calm) for answer in load.of(200)]
    in_log = await touchpoint_ids(house.ground)
    lost = sum(_id(number, index) not in in_log for number in taken for index in range(ITEMS))
    return Seen(
        capacity=capacity * ITEMS,
        offered=(len(answers.answers) + answers.unsent) / seconds * ITEMS,
        taken=len(answers.of(200)) / seconds * ITEMS,
        answers=answers,
        rss_before=before,
        rss_peak=max(before, peak, after),
        rss_after=after,
        recovered_seconds=recovered,
        acknowledged=len(taken) * ITEMS,
        lost=lost,
    )


async def _peak(process: psutil.Process) -> float:
    most = 0.0
    try:
        while True:
            most = max(most, process.memory_info().rss / MIB)
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return most


async def _recovery(crowd: Crowd, capacity: float) -> tuple[Offered, float | None]:
    """Half of what it can take, until a whole second of it was taken; how long that lasted."""
    began, everything = time.monotonic(), Offered()
    while time.monotonic() - began < CALM_SECONDS_MAX:
        second = await crowd.offer(CALM_SHARE * capacity, 1.0)
        everything.answers += second.answers
        if len(second.of(200)) == len(second.answers):
            return everything, time.monotonic() - began
    return everything, None


def _id(number: int, index: int) -> bytes:
    return bytes.fromhex(f"0b6f2d0c1a2b4c3d8e4f{number:08x}{index:04x}")


def main() -> None:
    """Print what became of it, embedded and (with `--kafka`) on a broker of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kafka", action="store_true", help="on Kafka too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("embedded")
        (folder / "house").mkdir()
        print("\n".join(uvloop.run(overload(Ground(folder / "house"), chosen.seconds)).lines()))
        if chosen.kafka:
            broker = Broker(folder / "kafka")
            broker.start()
            try:
                print("\nKafka")
                (folder / "on-kafka").mkdir()
                ground = Ground(folder / "on-kafka", bootstrap=broker.bootstrap)
                print("\n".join(uvloop.run(overload(ground, chosen.seconds)).lines()))
            finally:
                broker.kill9()


if __name__ == "__main__":
    main()
