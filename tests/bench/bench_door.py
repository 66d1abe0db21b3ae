"""`python -m tests.bench.bench_door [--kafka] [--partitions N] [--new-words]`: the door beside a bare uvicorn.

Server and load each have a processor of their own where there are two. Prints events/s, CPU seconds per million events
of the server and of the store (process accounting: on Kafka the broker; SQLite is inside the server), p50/p99 of an
answer, and the ratio of events/s to the bare server's requests/s with one event a request, measured just before.
Events/s swing with the machine; CPU and ratios are what to compare. Every event is of another visitor than the one
before, so a batch spreads over all partitions. What events tell comes again after a thousand products, as in a shop;
with `--new-words` no event tells what another told, so that the door can remember nothing of it.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

import psutil
import uvloop

from tests.support.house import Ground, House, closing
from tests.support.kafka_broker import Broker

SIZES = (1, 20, 100)
BODIES = 64
NEW_WORDS_FROM = 100_000_000
WARM_SECONDS = 20.0
BARE = """
import sys, json, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http": return
    while (await receive()).get("more_body"): pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"content-length", b"16")]})
    await send({"type": "http.response.body", "body": b'{"success":true}'})
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"event": "listening", "url": f"http://127.0.0.1:{port}"}), flush=True)
config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False, lifespan="off", log_config=None)
Server(config).run()
"""  # noqa: E501


@dataclass
class Measured:
    """One run: requests answered 200, other answers, seconds, CPU seconds of server and store, answer times."""

    answered: int
    refused: int
    seconds: float
    cpu_seconds: float
    store_seconds: float
    latencies: list[float]

    def line(self, size: int) -> str:
        events = max(1, self.answered * size)
        ranked = sorted(self.latencies)
        p50, p99 = statistics.median(ranked) * 1e3, ranked[int(len(ranked) * 0.99)] * 1e3
        server, store = self.cpu_seconds / events * 1e6, self.store_seconds / events * 1e6
        return (
            f"{events / self.seconds:>10,.0f} ev/s  CPU s/M: server {server:>6.1f} store {store:>5.1f}  "
            f"p50 {p50:>6.2f} p99 {p99:>6.2f} ms"
        ) + (f"  REFUSED {self.refused}" if self.refused else "")


class Poster(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as the last was answered."""

    def __init__(self, load: "Load") -> None:
        self.load, self.sent_at, self.answer = load, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.post()

    def post(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.load.next_request())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.load.done(head.startswith(b"HTTP/1.1 200"), time.perf_counter() - self.sent_at)
        self.answer = b""
        if not self.load.over:
            self.post()
        else:
            self.transport.close()


class Load:
    """Posts prepared requests over `connections` connections until told to stop. `new_words`: so many numbers of its
    own does each want, none of which came before."""

    def __init__(self, requests: list[bytes], new_words: int = 0) -> None:
        self.requests, self.new_words, self.at, self.over = requests, new_words, 0, False
        self.reset()

    def reset(self) -> None:
        self.answered = self.refused = 0
        self.latencies: list[float] = []

    def next_request(self) -> bytes:
        self.at += 1
        request = self.requests[self.at % len(self.requests)]
        if self.new_words:
            first = NEW_WORDS_FROM + self.at * self.new_words
            return request % tuple(range(first, first + self.new_words))
        return request

    def done(self, ok: bool, seconds: float) -> None:
        if ok:
            self.answered += 1
            self.latencies.append(seconds)
        else:
            self.refused += 1


def requests(key: str, size: int, new_words: bool = False) -> list[bytes]:
    """Whole requests; with `new_words` each event has a place for a number of nine digits."""
    authorization = base64.b64encode(f"{key}:".encode()).decode()
    made = []
    for number in range(BODIES):
        calls = [call(number * size + i) for i in range(size)]
        if new_words:
            for one in calls:
                one["properties"] |= {"position": NEW_WORDS_FROM}  # type: ignore[operator]
        path = "/v1/track" if size == 1 else "/v1/batch"
        value = calls[0] if size == 1 else {"batch": calls, "sentAt": "2026-11-22T10:00:01.000Z"}
        body = json.dumps(value, separators=(",", ":")).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Basic {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        made.append(request.replace(b"%d" % NEW_WORDS_FROM, b"%d") if new_words else request)
    return made


def call(number: int) -> dict[str, object]:
    """A track call of about 330 bytes, as the peers in the evidence were given."""
    return {
        "type": "track", "event": "Product Viewed", "anonymousId": f"0b6f2d0c-1a2b-4c3d-8e4f-{number % 5000:012d}",
        "messageId": f"0b6f2d0c-1a2b-4c3d-8e4f-{number:012x}", "timestamp": "2026-11-22T10:00:00.000Z",
        "properties": {"product_id": f"sku-{number % 977}", "category": "shoes", "price": 39.8, "currency": "EUR"},
        "context": {"locale": "fa-IR", "page": {"path": "/shoes", "title": "Shoes"}},
    }  # fmt: skip


@contextmanager
def bare_server() -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of uvicorn with an application that reads the body and answers."""
    process = Popen([sys.executable, "-c", BARE], stdout=PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield int(told["url"].rsplit(":", 1)[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def doors(folder: Path, partitions: int, bootstrap: str) -> Iterator[tuple[House, int, psutil.Process]]:
    """A door with fresh topics and keys; its house, port and process."""
    house = House(Ground(folder, bootstrap=bootstrap, partitions=partitions))
    uvloop.run(house.prepare())
    [door] = house.of("ingest")
    with closing(house):
        door.launch()
        door.wait_until_ready()
        yield house, door.port, psutil.Process(door.pid)


async def measured(
    port: int,
    processes: list[psutil.Process],
    prepared: list[bytes],
    connections: int,
    seconds: float,
    new_words: int = 0,
) -> Measured:
    """A closed loop for so long. `processes`: the server, then the store where it is another one."""
    load = Load(prepared, new_words)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Poster(load), "127.0.0.1", port)
    await asyncio.sleep(seconds / 4)
    load.reset()
    before, began = [_cpu(process) for process in processes], time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    cpu = [_cpu(process) - earlier for process, earlier in zip(processes, before, strict=True)]
    result = Measured(load.answered, load.refused, took, cpu[0], sum(cpu[1:]), list(load.latencies))
    load.over = True
    await asyncio.sleep(0.2)
    return result


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def flush_seconds(folder: Path) -> float:
    """Median time of an append and its fdatasync on this disk."""
    times = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 300)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--kafka", action="store_true", help="on a broker of its own as well")
    parser.add_argument("--new-words", action="store_true", help="no event tells what another told")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        bare = stack.enter_context(bare_server())
        _give_processors(bare[1])
        print(f"flush (append + fdatasync): {flush_seconds(folder) * 1e6:.0f} µs; {chosen.partitions} partitions")
        compare("SQLite", folder / "embedded", "", None, bare, chosen)
        if chosen.kafka:
            broker = Broker(folder / "kafka")
            stack.callback(broker.kill9)
            broker.start()
            compare("Kafka", folder / "on-kafka", broker.bootstrap, broker.pid, bare, chosen)


def _give_processors(server: psutil.Process) -> None:
    """One to the server, another to this process, where there are two."""
    own = psutil.Process().cpu_affinity() or []
    if len(own) > 1:
        server.cpu_affinity(own[:1])


def compare(
    name: str,
    folder: Path,
    bootstrap: str,
    store: int | None,
    bare: tuple[int, psutil.Process],
    chosen: argparse.Namespace,
) -> None:
    """Print every round of every shape, then the medians."""
    folder.mkdir()
    with doors(folder, chosen.partitions, bootstrap) as (house, port, process):
        _give_processors(process)
        processes = [process] if store is None else [process, psutil.Process(store)]
        if store is not None:  # a broker's first half minute is spent on compiling its own code
            warming = requests(house.access.write_key, 1)
            uvloop.run(measured(port, processes, warming, chosen.connections, WARM_SECONDS))
        single = requests(house.access.write_key, 1)
        for size in SIZES:
            prepared = requests(house.access.write_key, size, chosen.new_words)
            words = size if chosen.new_words else 0
            connections = chosen.connections if size == 1 else max(1, chosen.connections // 4)
            ratios, costs = [], []
            for _ in range(chosen.rounds):
                # Beside each other, since the machine's own speed swings: one request of one event, then the shape.
                bare_single = uvloop.run(measured(bare[0], [bare[1]], single, chosen.connections, chosen.seconds))
                print(f"   1 a request  {'bare':<7} {bare_single.line(1)}")
                door = uvloop.run(measured(port, processes, prepared, connections, chosen.seconds, words))
                print(f"{size:>4} a request  {name:<7} {door.line(size)}")
                ratios.append(door.answered * size / door.seconds / (bare_single.answered / bare_single.seconds))
                costs.append(door.cpu_seconds / max(1, door.answered * size) * 1e6)
            print(
                f"{size:>4} a request  {name}: events/s over bare requests/s {statistics.median(ratios):.2f}; "
                f"server CPU s/M {statistics.median(costs):.1f}\n"
            )


if __name__ == "__main__":
    main()
