"""`python -m tests.bench.bench_door`: the door against SQLite on loopback beside a bare uvicorn, in one run.

Prints events/s, CPU µs per event of the server process, p50/p99 of an answer, and the ratio of CPU per request to the
bare server's. Events/s swing with the machine; CPU and ratios are what to compare.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

import psutil
import uvloop

from tests.service.test_ingest_socket import prepared

SIZES = (1, 20, 100)
BODIES = 64
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
    """One run: requests answered 200, other answers, seconds, server CPU seconds, answer times."""

    answered: int
    refused: int
    seconds: float
    cpu_seconds: float
    latencies: list[float]

    def line(self, size: int) -> str:
        events = self.answered * size
        cpu_us = self.cpu_seconds / max(1, events) * 1e6
        ranked = sorted(self.latencies)
        p50, p99 = statistics.median(ranked) * 1e3, ranked[int(len(ranked) * 0.99)] * 1e3
        return f"{events / self.seconds:>10,.0f} ev/s {cpu_us:>8.1f} µs/ev {p50:>7.2f} {p99:>7.2f} ms" + (
            f"  REFUSED {self.refused}" if self.refused else ""
        )


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
    """Posts prepared requests over `connections` connections until told to stop."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests, self.at, self.over = requests, 0, False
        self.reset()

    def reset(self) -> None:
        self.answered = self.refused = 0
        self.latencies: list[float] = []

    def next_request(self) -> bytes:
        self.at += 1
        return self.requests[self.at % len(self.requests)]

    def done(self, ok: bool, seconds: float) -> None:
        if ok:
            self.answered += 1
            self.latencies.append(seconds)
        else:
            self.refused += 1


def requests(key: str, size: int) -> list[bytes]:
    authorization = base64.b64encode(f"{key}:".encode()).decode()
    made = []
    for number in range(BODIES):
        calls = [call(number * size + i) for i in range(size)]
        path = "/v1/track" if size == 1 else "/v1/batch"
        value = calls[0] if size == 1 else {"batch": calls, "sentAt": "2026-11-22T10:00:01.000Z"}
        body = json.dumps(value, separators=(",", ":")).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Basic {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
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
def server(command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, psutil.Process]]:
    process = Popen(command, env=os.environ | environment, stdout=PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "listening":
                yield int(told["url"].rsplit(":", 1)[1]), psutil.Process(process.pid)
                break
    finally:
        process.terminate()
        process.wait(20)


async def measured(
    port: int, process: psutil.Process, prepared: list[bytes], connections: int, seconds: float
) -> Measured:
    load = Load(prepared)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Poster(load), "127.0.0.1", port)
    await asyncio.sleep(seconds / 4)
    load.reset()
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, took = process.cpu_times(), time.perf_counter() - began
    result = Measured(load.answered, load.refused, took, _cpu(after) - _cpu(before), list(load.latencies))
    load.over = True
    await asyncio.sleep(0.2)
    return result


def _cpu(times: object) -> float:
    return float(times.user + times.system)  # type: ignore[attr-defined]


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
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = asyncio.run(prepared(folder))
        settings = {"RAFTAR_DATA_DIR": name, "RAFTAR_PARTITIONS": "2", "RAFTAR_INGEST_PORT": "0"}
        print(f"flush (append + fdatasync): {flush_seconds(folder) * 1e6:.0f} µs; {chosen.connections} connections")
        ours = [sys.executable, "-m", "services.ingest"]
        with server([sys.executable, "-c", BARE], {}) as bare, server(ours, settings) as door:
            for size in SIZES:
                compare(size, requests(key, size), bare, door, chosen)


def compare(size: int, prepared: list[bytes], bare: tuple, door: tuple, chosen: argparse.Namespace) -> None:  # type: ignore[type-arg]
    ratios = []
    connections = chosen.connections if size == 1 else max(1, chosen.connections // 4)
    for _ in range(chosen.rounds):
        found = {}
        for name, (port, process) in (("bare", bare), ("door", door)):
            run = measured(port, process, prepared, connections, chosen.seconds)
            found[name] = uvloop.run(run)
            print(f"{size:>4} a request  {name}  {found[name].line(size)}")
        per_request = {name: one.cpu_seconds / max(1, one.answered) for name, one in found.items()}
        ratios.append(per_request["bare"] / per_request["door"])
    print(f"{size:>4} a request  CPU of bare / CPU of door, a request: {statistics.median(ratios):.2f}\n")


if __name__ == "__main__":
    main()
