"""`python -m tests.load.soak [--seconds 3600] [--kafka]`: a whole house under steady work, and what grows meanwhile.

Prints the slope of every process's memory (Theil-Sen: a median of slopes, so that single jumps count for nothing), what
files grow by per touchpoint, and the answer times of the door and of a customer's page in the first and last quarter.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import uvloop

from shared.clock import SystemClock
from tests.e2e.rules import rules
from tests.load.posting import UNIQUE, Crowd, Offered, percentile, template
from tests.support.house import Ground, House, closing
from tests.support.kafka_broker import Broker

PER_SECOND = 300.0
ITEMS = 10
SAMPLE_SECONDS = 5.0
WARM_SHARE = 0.34
"""Of the time, in which caches fill and pools grow: the slope is taken after it."""
SILENCE = "20s"
READS_PER_SECOND = 5.0
MIB = 1 << 20

_clock = SystemClock()
_pick = random.Random(20)


@dataclass(slots=True)
class Sample:
    """One look: seconds since the beginning, memory of each process and size of each kind of file (MiB)."""

    at: float
    memory: dict[str, float]
    files: dict[str, float]


@dataclass(slots=True)
class Watched:
    """All that was seen. Times are (seconds since the beginning, seconds it took)."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    posts: list[tuple[float, float]] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)
    touchpoints: int = 0
    refused: int = 0
    heard: int = 0

    def memory_slopes(self) -> dict[str, float]:
        """MiB an hour by process, after the warm-up."""
        kept = [sample for sample in self.samples if sample.at >= WARM_SHARE * self.seconds]
        return {name: _slope([(one.at, one.memory[name]) for one in kept]) * 3600 for name in self.samples[0].memory}

    def bytes_per_touchpoint(self) -> dict[str, float]:
        """What each kind of file grew by, over the touchpoints taken."""
        first, last = self.samples[0].files, self.samples[-1].files
        return {name: (last[name] - first.get(name, 0.0)) * MIB / max(1, self.touchpoints) for name in last}

    def quarters(self, times: list[tuple[float, float]]) -> tuple[float, float]:
        """p99 in milliseconds of the first and the last quarter."""
        quarter = self.seconds / 4
        early = [took * 1000 for at, took in times if at < quarter]
        late = [took * 1000 for at, took in times if at >= 3 * quarter]
        return percentile(early, 0.99), percentile(late, 0.99)

    def lines(self) -> Iterator[str]:
        """For people."""
        rate = self.touchpoints / self.seconds
        yield f"{self.touchpoints:,} touchpoints in {self.seconds:.0f} s ({rate:.0f}/s), {self.refused} refusals"
        yield f"{self.heard:,} events heard by SSE"
        for name, slope in self.memory_slopes().items():
            yield f"memory  {name:<12} {self.samples[-1].memory[name]:7.1f} MiB, {slope:+8.2f} MiB/h"
        for name, grown in self.bytes_per_touchpoint().items():
            yield f"files   {name:<28} {self.samples[-1].files[name]:7.1f} MiB, {grown:+8.1f} bytes a touchpoint"
        for name, times in (("a post", self.posts), ("a customer", self.reads)):
            first, last = self.quarters(times)
            yield f"p99     {name:<12} first quarter {first:.1f} ms, last quarter {last:.1f} ms"


def _slope(points: list[tuple[float, float]]) -> float:
    """Theil-Sen: the median of the slopes of all pairs; 0 for fewer than two points."""
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in combinations(points, 2) if x1 > x0]
    return median(slopes) if slopes else 0.0


async def soak(ground: Ground, seconds: float, per_second: float = PER_SECOND) -> Watched:
    """A fresh house on `ground` under steady load for so long."""
    house = House(ground, rules(SILENCE, expires="60s"))
    await house.prepare()
    with closing(house):
        house.start()
        watched = Watched(seconds)
        began = time.monotonic()
        beside = [
            asyncio.create_task(_sample(house, watched, began)),
            asyncio.create_task(_read(house, watched, began)),
            asyncio.create_task(_listen(house, watched)),
        ]
        try:
            await _post(house, watched, began, per_second)
            _look(house, watched, began)
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
        failed = [one for one in ended if isinstance(one, Exception)]
        assert not failed, failed
        return watched


async def _post(house: House, watched: Watched, began: float, per_second: float) -> None:
    [door] = house.of("ingest")
    async with Crowd(door.port, b"") as crowd:
        while (at := time.monotonic() - began) < watched.seconds:
            crowd.request = template(house.access.write_key, ITEMS, _call)
            sent: Offered = await crowd.offer(per_second / ITEMS, min(1.0, watched.seconds - at))
            watched.posts += [(one.sent_at - began, one.seconds) for one in sent.of(200)]
            watched.touchpoints += ITEMS * len(sent.of(200))
            watched.refused += len(sent.answers) - len(sent.of(200)) + sent.unsent


def _call(index: int) -> dict[str, object]:
    """Mostly views by visitors who come back, some purchases, now and then somebody new or a complaint."""
    number, kind = UNIQUE.decode(), _pick.random()
    visitor = f"visitor-{number}-{index}" if kind < 0.05 else f"visitor-{_pick.randrange(2_000)}"
    said: dict[str, Any] = {"type": "track", "messageId": f"{number}-{index}", "anonymousId": visitor}
    said["timestamp"] = _clock.now_ms()
    if kind < 0.85:
        return said | {"event": "Product Viewed", "properties": {"product_id": f"sku-{index}", "category": "shoes"}}
    if kind < 0.99:
        bought = {"order_id": f"{number}-{index}", "total": 39.8, "currency": "EUR"}
        return said | {"event": "Order Completed", "properties": bought}
    return said | {"event": "complained", "properties": {"complaint_id": f"{number}-{index}"}}


async def _read(house: House, watched: Watched, began: float) -> None:
    async with house.client("profiles") as client:
        while True:
            at = time.monotonic()
            identifier = f"anonymous:visitor-{_pick.randrange(2_000)}"
            await client.get("/v1/customers", params={"identifier": identifier})
            watched.reads.append((at - began, time.monotonic() - at))
            await asyncio.sleep(1 / READS_PER_SECOND)


async def _listen(house: House, watched: Watched) -> None:
    async with (
        house.client("scoring") as client,
        client.stream("GET", "/v1/alerts/stream", timeout=httpx.Timeout(10.0, read=60.0)) as answer,
    ):
        async for line in answer.aiter_lines():
            watched.heard += line.startswith("data: ")


async def _sample(house: House, watched: Watched, began: float) -> None:
    while True:
        _look(house, watched, began)
        await asyncio.sleep(SAMPLE_SECONDS)


def _look(house: House, watched: Watched, began: float) -> None:
    memory = {name: psutil.Process(one.pid).memory_info().rss / MIB for name, one in house.services.items()}
    files: dict[str, float] = {}
    for path in house.ground.folder.rglob("*"):
        kind = _kind(path)
        if kind:
            with contextlib.suppress(FileNotFoundError):  # a write-ahead log that was just folded in
                files[kind] = files.get(kind, 0.0) + path.stat().st_size / MIB
    watched.samples.append(Sample(time.monotonic() - began, memory, files))


def _kind(path: Path) -> str:
    """What a file of the house is counted as; "" for what holds no data. Write-ahead logs come and go."""
    if path.name.endswith("-wal"):
        return "write-ahead logs"
    return path.name if path.suffix in (".sqlite", ".db") else ""


def main() -> None:
    """Print what grew, embedded and (with `--kafka`) on a broker of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=PER_SECOND, help="touchpoints a second")
    parser.add_argument("--kafka", action="store_true", help="on Kafka instead of embedded")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "house").mkdir()
        if not chosen.kafka:
            _print(Ground(folder / "house"), chosen)
            return
        broker = Broker(folder / "kafka")
        broker.start()
        try:
            _print(Ground(folder / "house", bootstrap=broker.bootstrap), chosen)
        finally:
            broker.kill9()


def _print(ground: Ground, chosen: argparse.Namespace) -> None:
    for line in uvloop.run(soak(ground, chosen.seconds, chosen.rate)).lines():
        print(line)


if __name__ == "__main__":
    main()
