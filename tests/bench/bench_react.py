"""`python -m tests.bench.bench_react [--kafka] [--load N]`: from the POST of a complaint to its alert at a listener.

A complaint is a bad experience at once, so the way is: door, log, fold, relay, decide, relay, tail, server-sent events.
Measured in a quiet house, and at half load: while half of what it keeps up with is posted beside it. It keeps up with
a rate when, after a quarter of a minute of it, a complaint is still alerted of at once; what a burst is folded at only
says where to look. Milliseconds from before the POST to the event's arrival.
"""

import argparse
import asyncio
import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import psutil
import uvloop

from tests.e2e.rules import rules
from tests.load.posting import UNIQUE, Crowd, percentile, template
from tests.support.house import Ground, House, closing
from tests.support.kafka_broker import Broker

TIMES = 200
ITEMS = 20
PATIENCE_SECONDS = 60.0
BURST_SECONDS = 1.5
WARM_BURSTS = 4
"""Before anything is measured: a broker's first half minute is spent on compiling its own code."""
STEADY_SECONDS = 15.0
STEADY_TIMES = 5
STEADY_SHARES = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Of what a burst is folded at, which is told late and so too low: the last that goes on is what it keeps up with."""
KEEPS_UP_MS = 500.0
"""A house that gets a twentieth more than it keeps up with is later than this after `STEADY_SECONDS`."""
LOOK_SECONDS = 2.5
"""The services look at their lag once a second: what they say is that old at most."""


def view(index: int) -> dict[str, object]:
    """A page view by one of five visitors a request."""
    number = UNIQUE.decode()
    return {
        "type": "track", "event": "Product Viewed", "anonymousId": f"v-{number}-{index % 5}",
        "messageId": f"{number}-{index}", "properties": {"product_id": f"sku-{index}", "category": "shoes"},
    }  # fmt: skip


class Ear:
    """Hears alerts by server-sent events and says when."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self._awaited: dict[str, asyncio.Future[float]] = {}
        self._early: dict[str, float] = {}  # heard before the POST's answer was read

    async def listen(self, house: House) -> None:
        """Until cancelled."""
        async with (
            house.client("scoring") as client,
            client.stream("GET", "/v1/alerts/stream", timeout=httpx.Timeout(10.0, read=60.0)) as answer,
        ):
            async for line in answer.aiter_lines():
                self._hear(line)

    def awaits(self, touchpoint_id: str) -> "asyncio.Future[float]":
        """Done with the moment at which an alert caused by this touchpoint came."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        if touchpoint_id in self._early:
            future.set_result(self._early.pop(touchpoint_id))
        else:
            self._awaited[touchpoint_id] = future
        return future

    def _hear(self, line: str) -> None:
        at = time.monotonic()
        if line == "event: ready":
            self.ready.set()
        if not line.startswith("data: {") or len(line) < 20:
            return
        event = msgspec.json.decode(line[6:])
        for cause in event.get("data", {}).get("causes", ()):
            future = self._awaited.pop(cause, None)
            if future is None:
                self._early[cause] = at
            elif not future.done():
                future.set_result(at)


async def reactions(house: House, ear: Ear, times: int, tag: str) -> tuple[list[float], list[float]]:
    """Milliseconds until the answer and until the alert, for so many complaints one after another."""
    answered, alerted = [], []
    async with house.client("ingest") as client:
        for number in range(times):
            body = {"kind": "complained", "id": f"{tag}-{number}", "user_id": f"{tag}-{number}", "properties": {}}
            began = time.monotonic()
            told = (await client.post("/v1/touchpoints", json=body)).raise_for_status().json()
            answered.append((time.monotonic() - began) * 1000)
            heard_at = await asyncio.wait_for(ear.awaits(told["results"][0]["id"]), PATIENCE_SECONDS)
            alerted.append((heard_at - began) * 1000)
            await asyncio.sleep(0.02)
    return answered, alerted


async def folds_a_second(house: House, crowd: Crowd) -> float:
    """Touchpoints a second that the house folds and decides: a burst is posted, until nothing of it is left."""
    began = time.monotonic()
    sent = await crowd.press(8, BURST_SECONDS)
    await rest(house)
    return len(sent.of(200)) * ITEMS / (time.monotonic() - began)


async def keeps_up_with(house: House, ear: Ear, crowd: Crowd) -> float:
    """Touchpoints a second that may be posted for ever. Raises ValueError when not even the lowest rate may."""
    burst, found = await folds_a_second(house, crowd), 0.0
    for share in STEADY_SHARES:
        beside = asyncio.create_task(crowd.offer(burst * share / ITEMS, 3600))
        await asyncio.sleep(STEADY_SECONDS)
        late = await lateness(house, ear, f"at-{share}-{burst}")
        beside.cancel()
        print(f"{burst * share:,.0f}/s, {share:.0%} of a burst: alerted of after {late:,.0f} ms", flush=True)
        await rest(house)
        if late > KEEPS_UP_MS:
            break
        found = burst * share
    if not found:
        raise ValueError("this house keeps up with nothing: is something else running on this machine?")
    return found


async def lateness(house: House, ear: Ear, tag: str) -> float:
    """Milliseconds until a complaint is alerted of now, the median of a few; infinite beyond all patience."""
    try:
        _, alerted = await reactions(house, ear, STEADY_TIMES, tag)
    except TimeoutError:
        return math.inf
    return percentile(alerted, 0.5)


async def lag(house: House) -> float:
    """What profiles and scoring have not folded or not relayed yet: records and rows."""
    left = 0.0
    for room in ("profiles", "scoring"):
        async with house.client(room) as client:
            checks = (await client.get("/readyz")).json()["checks"]
            metrics = (await client.get("/metrics")).text
        left += sum(float(check.get("lag_records") or 0) for check in checks.values())
        left += float(metrics.partition(f"\nraftar_{room}_outbox_rows ")[2].split("\n", 1)[0])
    return left


async def rest(house: House) -> None:
    """Wait until nothing is left to fold, to decide or to relay."""
    await asyncio.sleep(LOOK_SECONDS)
    while await lag(house) > 0:
        await asyncio.sleep(0.1)


def line(name: str, milliseconds: list[float]) -> str:
    """Figures of one way."""
    p50, p90, p99 = (percentile(milliseconds, share) for share in (0.5, 0.9, 0.99))
    return f"{name:<34} p50 {p50:7.1f}  p90 {p90:7.1f}  p99 {p99:7.1f} ms"


async def measure(house: House, times: int, load: float | None) -> None:
    """Print the figures of a running house."""
    ear = Ear()
    listening = asyncio.create_task(ear.listen(house))
    await ear.ready.wait()
    [door] = house.of("ingest")
    try:
        await reactions(house, ear, 20, "warm")
        async with Crowd(door.port, template(house.access.write_key, ITEMS, view)) as crowd:
            for _ in range(WARM_BURSTS):
                await folds_a_second(house, crowd)
            answered, alerted = await reactions(house, ear, times, "quiet")
            print(line("quiet: POST -> answer", answered))
            print(line("quiet: POST -> alert by SSE", alerted))
            half = load or await keeps_up_with(house, ear, crowd) / 2
            beside = asyncio.create_task(crowd.offer(half / ITEMS, 3600))
            await asyncio.sleep(STEADY_SECONDS / 3)
            psutil.cpu_percent()
            answered, alerted = await reactions(house, ear, times, "loaded")
            print(f"beside {half:,.0f}/s: processors busy {psutil.cpu_percent():.0f} %")
            beside.cancel()
            print(line(f"beside {half:,.0f}/s: POST -> answer", answered))
            print(line(f"beside {half:,.0f}/s: POST -> alert", alerted))
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", action="store_true", help="on a broker of its own instead of embedded")
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--load", type=float, default=None, help="touchpoints a second beside it; default: half")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "house").mkdir()
        bootstrap = ""
        if chosen.kafka:
            broker = Broker(folder / "kafka")
            stack.callback(broker.kill9)
            broker.start()
            bootstrap = broker.bootstrap
        print("Kafka" if bootstrap else "embedded")
        house = House(Ground(folder / "house", bootstrap=bootstrap), rules("1h"))
        uvloop.run(house.prepare())
        with closing(house):
            house.start()
            uvloop.run(measure(house, chosen.times, chosen.load))


if __name__ == "__main__":
    main()
