"""Due times among a million armed customers: what arming costs, how late a crossing is told, and a wave of them.

`python -m tests.bench.bench_due [--customers N]`: scoring runs as a process; its database is filled beforehand with
rows as its own step would write them. First crossings come one after the other, then 20,000 in one millisecond, while
decisions are read over REST (up to 50/s) and new complaints come in (20/s). Late = the alert's stamp in the log less
the crossing (the complaint).
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import psutil

from services.scoring import tables
from services.scoring.defaults import default_rules
from services.scoring.domain.definitions import definition_of
from services.scoring.domain.rows import DecisionRow
from services.scoring.domain.step import Book, Rules, Setting
from services.scoring.store import DECISION_COLUMNS
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import Database, insert_rows
from shared.events import DefinitionPublished, ProfileChanged, Statement, WatermarkStated, WorkspaceDefined
from shared.ids import partition_of
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.topics import CHURN_ALERTS, DEFINITIONS, PROFILE_CHANGES, WATERMARKS, topics
from tests.bench.bench_decide import on_postgresql
from tests.builders import a_leaf
from tests.service.scoring_house import Customer, a_key
from tests.support.steps import fresh_database

PARTITIONS = 16
WORKSPACE = "shop"
HOUR_MS = 3_600_000
STEADY, STEADY_SECONDS = 1_000, 10
WAVE = 20_000
LEAD_SECONDS = 8.0
PLACE_AT = 1_612_345_678_901
ORDER = "order-{:012d}"
PAGE = 4_000

Row = tuple[Any, ...]


def published() -> DefinitionPublished:
    """The default pack with a silence of one hour."""
    rules = default_rules()
    rules["alerts"]["silence"]["when"] = ["orders >= 1", "silence >= 1h"]
    return DefinitionPublished(WORKSPACE, 1, 0, rules, {})


class Mould:
    """Decision rows of customers with one order, cast from one that the step itself decided."""

    def __init__(self, settled: int) -> None:
        self._leaf, self._order = a_leaf("mould"), ORDER.format(0)
        definition = definition_of(published())
        setting = Setting(lambda _: Rules([definition], ZoneInfo("UTC")), settled, PARTITIONS)
        customer = Customer("mould", WORKSPACE)
        customer_id = customer.id
        touch = customer.touchpoint("purchased", PLACE_AT, order_id=self._order, amount=10, currency="EUR")
        fact = customer.change(touch, at=settled)
        book = Book(setting, {customer_id: DecisionRow(customer_id, WORKSPACE, 0)}, {})
        book.change(fact, None, {})
        [row] = book.rows()
        assert row.decision.stage, row.parked
        decided = msgspec.structs.replace(row.decision, settled=settled)
        self._state, self._decision = row.state, msgspec.msgpack.encode(decided, order="deterministic")
        self._id = customer_id

    def row(self, number: int, crosses_at: int, armed: bool = True) -> Row:
        """The row of customer `number`, whose silence crosses at `crosses_at` (epoch ms)."""
        who, order = customer_id(number), ORDER.format(number).encode()
        at, place = (crosses_at - HOUR_MS).to_bytes(8, "big"), PLACE_AT.to_bytes(8, "big")

        def cast(data: bytes) -> bytes:
            return data.replace(self._id, who).replace(self._order.encode(), order).replace(place, at)

        due_at = crosses_at if armed else None
        state, decision = cast(self._state), cast(self._decision)
        return who, WORKSPACE, partition_of(who, PARTITIONS), 1, state, decision, due_at, b"", "", 0, 1


def customer_id(number: int) -> bytes:
    """The id of customer `number`."""
    return a_leaf(f"{WORKSPACE}/n{number}")


async def insert(database: Database, rows: Iterator[Row]) -> tuple[int, float]:
    """(rows, seconds in the database), in pages."""
    count, seconds, page = 0, 0.0, []
    for row in rows:
        page.append(row)
        if len(page) == PAGE:
            seconds += await _insert(database, page)
            count, page = count + len(page), []
    if page:
        seconds += await _insert(database, page)
    return count + len(page), seconds


async def _insert(database: Database, page: list[Row]) -> float:
    before = time.perf_counter()
    async with database.transaction() as connection:
        await insert_rows(connection, tables.decision, DECISION_COLUMNS, page)
    return time.perf_counter() - before


async def state_watermarks(log: SqliteLog, clock: SystemClock) -> None:
    """What profiles does at rest: a statement every quarter of a second."""
    while True:
        now, bounds = clock.now_ms(), await log.bounds(PROFILE_CHANGES)
        statements = tuple(Statement(one, bounds[one].end) for one in range(PARTITIONS))
        await log.append(WATERMARKS, [Outgoing(0, encode(WatermarkStated(statements, (now,) * PARTITIONS)))])
        await asyncio.sleep(0.25)


class Alerts:
    """What arrives on `churn-alerts`: how late each alert was, by kind."""

    def __init__(self, log: SqliteLog) -> None:
        self._log_read = log
        self._positions = dict.fromkeys(range(PARTITIONS), 0)
        self.late_ms: dict[str, list[int]] = {"silence": [], "bad_experience": []}
        self.arrived_ms: list[int] = []

    async def follow(self) -> None:
        """Read until cancelled."""
        while True:
            moved = False
            for partition, position in self._positions.items():
                batch = await self._log_read.read(CHURN_ALERTS, partition, position, records_max=2_000)
                self._positions[partition] = batch.next_position
                moved = moved or bool(batch.records)
                for record in batch.records:
                    data = json.loads(record.value)["data"]
                    self.late_ms[data["policy"]].append(record.recorded_at - data["crossed_at"])
                    self.arrived_ms.append(record.recorded_at)
            await asyncio.sleep(0 if moved else 0.02)

    async def until(self, policy: str, count: int, seconds: float) -> None:
        """Wait until so many came."""
        async with asyncio.timeout(seconds):
            while len(self.late_ms[policy]) < count:
                await asyncio.sleep(0.05)


async def read(client: httpx.AsyncClient, spent: list[float], every_seconds: float) -> None:
    """Read decisions over REST, one after the other, until cancelled."""
    number = 0
    while True:
        number += 7_919
        before = time.perf_counter()
        answer = await client.get(f"/v1/customers/{customer_id(number % WAVE).hex()}/decision")
        spent.append((time.perf_counter() - before) * 1000)
        answer.raise_for_status()
        await asyncio.sleep(every_seconds)


async def complain(log: SqliteLog, clock: SystemClock, name: str, every_seconds: float) -> None:
    """New customers complain, one after the other, until cancelled; each is an alert at once."""
    number = 0
    while True:
        number += 1
        one, at = Customer(f"{name}{number}", WORKSPACE), clock.now_ms()
        fact: ProfileChanged = one.change(one.touchpoint("complained", at, ticket_id=f"{name}-{number}"), at=at)
        await log.append(PROFILE_CHANGES, [Outgoing(partition_of(one.id, PARTITIONS), encode(fact), one.id)])
        await asyncio.sleep(every_seconds)


@asynccontextmanager
async def scoring(folder: Path, url: str, key: str) -> Any:
    """Scoring as a process; a client of it."""
    environment = {
        **os.environ,
        "RAFTAR_DATA_DIR": str(folder),
        "RAFTAR_PARTITIONS": str(PARTITIONS),
        "RAFTAR_DATABASE_URL": url,
        "RAFTAR_SCORING_PORT": "0",
        "RAFTAR_KAFKA_BOOTSTRAP": "",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scoring", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            said = json.loads(line)
            if said.get("event") == "listening":
                break
        drained = asyncio.create_task(process.stdout.read())
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=said["url"], headers=headers, timeout=60) as client:
            yield client, process.pid
        process.send_signal(signal.SIGTERM)
        await process.wait()
        await drained
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def measure(name: str, url: str, customers: int, folder: Path) -> None:
    """One database."""
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    await log.ensure(topics(PARTITIONS))
    made, key = a_key(WORKSPACE)
    facts = (WorkspaceDefined(WORKSPACE, "UTC", "", "k", b"", clock.now_ms()), made, published())
    await log.append(DEFINITIONS, [Outgoing(0, encode(one)) for one in facts])
    async with fresh_database(url, folder, "scoring") as database:
        now = clock.now_ms()
        mould, far = Mould(now - 1), now + 30 * HOUR_MS
        bulk = range(WAVE + STEADY, customers)
        half = len(bulk) // 10
        bare = (mould.row(n, far, armed=False) for n in bulk[:half])
        count, seconds = await insert(database, bare)
        armed = (mould.row(n, far + n * 97) for n in bulk[half:])
        armed_count, armed_seconds = await insert(database, armed)
        print(
            f"{name:10} {customers:,} customers: a row without a due time {seconds / count * 1e6:5.1f} µs, "
            f"armed {armed_seconds / armed_count * 1e6:5.1f} µs",
            flush=True,
        )
        start = clock.now_ms() + round(LEAD_SECONDS * 1000)
        wave_at = start + (STEADY_SECONDS + 2) * 1000
        steady = (mould.row(WAVE + n, start + n * STEADY_SECONDS * 1000 // STEADY) for n in range(STEADY))
        await insert(database, steady)
        await insert(database, (mould.row(n, wave_at) for n in range(WAVE)))
        await _timed(name, log, clock, folder, url, key, wave_at)
    await log.close()


async def _timed(name: str, log: SqliteLog, clock: SystemClock, folder: Path, url: str, key: str, wave_at: int) -> None:
    alerts = Alerts(log)
    before: list[float] = []
    during: list[float] = []
    async with scoring(folder, url, key) as (client, pid):
        tasks = [asyncio.create_task(state_watermarks(log, clock)), asyncio.create_task(alerts.follow())]
        reading = asyncio.create_task(read(client, before, 0.02))
        try:
            await alerts.until("silence", STEADY, 60)
            print(
                f"{name:10} steady, {STEADY / STEADY_SECONDS:.0f}/s: late {_said(alerts.late_ms['silence'])}",
                flush=True,
            )
            reading.cancel()
            alerts.late_ms["silence"].clear()
            await asyncio.sleep(max(0.0, (wave_at - 500 - clock.now_ms()) / 1000))
            tasks.append(asyncio.create_task(read(client, during, 0.02)))
            tasks.append(asyncio.create_task(complain(log, clock, name, 0.05)))
            cpu = sum(psutil.Process(pid).cpu_times()[:2])
            await alerts.until("silence", WAVE, 120)
            cpu = sum(psutil.Process(pid).cpu_times()[:2]) - cpu
            took = (max(alerts.arrived_ms) - wave_at) / 1000
            print(f"{name:10} wave of {WAVE:,}: all told after {took:.2f} s, {cpu:.2f} s of CPU")
            print(f"{name:10} wave, told late       {_said(alerts.late_ms['silence'])}")
            print(f"{name:10} complaints meanwhile   {_said(alerts.late_ms['bad_experience'])}")
            print(f"{name:10} reads before the wave  {_said(before)}")
            print(f"{name:10} reads in the wave      {_said(during)}", flush=True)
        finally:
            for task in (*tasks, reading):
                task.cancel()
            await asyncio.gather(*tasks, reading, return_exceptions=True)


def _said(values: list[int] | list[float]) -> str:
    if len(values) < 2:
        return f"too few ({len(values)})"
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {cuts[49]:7.1f} ms   p99 {cuts[98]:7.1f} ms   most {max(values):7.1f} ms   ({len(values):,})"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    asked = parser.parse_args()

    def run(name: str, url: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(name, url, asked.customers, Path(folder)))

    if asked.only != "postgresql":
        run("sqlite", "")
    if asked.only != "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            on_postgresql(Path(folder), lambda url: run("postgresql", url))


if __name__ == "__main__":
    main()
