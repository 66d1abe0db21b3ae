"""The scoring service as a real process on real time: alerts within a second of their crossing, an orderly end."""

import asyncio
import json
import os
import signal
import statistics
import sys
from pathlib import Path

import httpx

from migrations import migrate
from services.scoring.defaults import default_rules
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import open_database
from shared.events import DefinitionPublished, Statement, WatermarkStated, WorkspaceDefined
from shared.ids import partition_of
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.topics import DEFINITIONS, PROFILE_CHANGES, WATERMARKS, topics
from tests.service.scoring_house import PARTITIONS, PATIENCE_SECONDS, Customer, a_key
from tests.service.test_ingest_socket import listening_line

CUSTOMERS = 40
SILENCE_MS = 2_000


async def prepared(log: SqliteLog, folder: Path, clock: SystemClock) -> str:
    """A house's log and database, as `python -m services` leaves them; returns a secret key."""
    await log.ensure(topics(PARTITIONS))
    rules = default_rules()
    rules["alerts"]["silence"]["when"] = ["orders >= 1", f"silence >= {SILENCE_MS}ms"]
    fact, key = a_key("shop")
    defined = WorkspaceDefined("shop", "UTC", "", "k", b"", clock.now_ms())
    facts = (defined, fact, DefinitionPublished("shop", 1, 0, rules, {}))
    await log.append(DEFINITIONS, [Outgoing(0, encode(one)) for one in facts])
    database = open_database("", folder, "scoring")
    await migrate(database, "scoring")
    await database.close()
    return key


async def state_watermarks(log: SqliteLog, clock: SystemClock) -> None:
    """What profiles does at rest: a statement every quarter of a second."""
    while True:
        now, bounds = clock.now_ms(), await log.bounds(PROFILE_CHANGES)
        statements = tuple(Statement(one, bounds[one].end) for one in range(PARTITIONS))
        await log.append(WATERMARKS, [Outgoing(0, encode(WatermarkStated(statements, (now,) * PARTITIONS)))])
        await asyncio.sleep(0.25)


async def buy(log: SqliteLog, clock: SystemClock) -> None:
    """Customers buy, one after the other."""
    for number in range(CUSTOMERS):
        customer, at = Customer(f"c{number}"), clock.now_ms()
        change = customer.change(customer.bought(at), at=at)
        where = partition_of(customer.id, PARTITIONS)
        await log.append(PROFILE_CHANGES, [Outgoing(where, encode(change), customer.id)])
        await asyncio.sleep(0.02)


async def delays_heard(url: str, key: str, clock: SystemClock) -> list[int]:
    """Milliseconds from each crossing to its event in our hands."""
    delays: list[int] = []
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client,
        client.stream("GET", "/v1/alerts/stream", params={"from": "start"}, headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and line != "data: {}":
                delays.append(clock.now_ms() - json.loads(line[6:])["data"]["crossed_at"])
                if len(delays) == CUSTOMERS:
                    return delays
    raise AssertionError("the stream ended early")


async def test_alerts_come_at_their_crossing_and_the_process_ends_in_order(tmp_path: Path) -> None:
    clock = SystemClock()
    log = SqliteLog(tmp_path / "log", clock)
    key = await prepared(log, tmp_path, clock)
    environment = os.environ | {
        "RAFTAR_DATA_DIR": str(tmp_path), "RAFTAR_PARTITIONS": str(PARTITIONS), "RAFTAR_SCORING_PORT": "0",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scoring", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    stating = asyncio.create_task(state_watermarks(log, clock))
    try:
        assert process.stdout is not None
        seen: list[str] = []
        url = await listening_line(process.stdout, seen)
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, delays = await asyncio.gather(buy(log, clock), delays_heard(url, key, clock))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 200
        assert min(delays) >= 0
        print(f"crossing to client: median {statistics.median(delays):.0f} ms, worst {max(delays)} ms of {CUSTOMERS}")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            rest = (await process.stdout.read()).decode()
            assert await process.wait() == 0
        said = "".join(seen) + rest
        assert key not in said
        assert all(json.loads(line)["level"] in ("info", "warning") for line in said.splitlines())
    finally:
        stating.cancel()
        await asyncio.wait([stating])
        if process.returncode is None:
            process.kill()
            await process.wait()
        await log.close()
