"""A door on a real SQLite log with real keys: what the service tests of ingest stand in."""

import asyncio
import base64
import contextlib
import gc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.ingest.app import build
from services.ingest.settings import IngestSettings
from shared.access import KEY_RANDOM_BYTES, SCOPES, SECRET_KEY, WRITE, WRITE_KEY, new_key
from shared.clock import FrozenClock
from shared.codec import Unknown, decode, encode
from shared.definitions import DefinitionsFeed
from shared.events import Fact, Touchpoint, TouchpointFailed, TouchpointsRecorded, WorkspaceDefined
from shared.httpd import HouseApp
from shared.keyring import Keyring
from shared.log.port import Log, Outgoing
from shared.log.sqlite import SqliteLog
from shared.sealing import Opener
from shared.serving import Serving, server
from shared.topics import DEFINITIONS, TOUCHPOINTS, TOUCHPOINTS_FAILED, topics

PARTITIONS = 4
NOW_MS = 1_790_000_000_000


@dataclass
class House:
    """The door, a client of it, and ways to look behind it."""

    app: HouseApp
    client: httpx.AsyncClient
    log: Log
    feed: DefinitionsFeed
    clock: FrozenClock
    keyring: Keyring
    settings: IngestSettings
    write_key: str
    secret_key: str

    async def facts(self, topic: str) -> list[Fact | Unknown]:
        """Everything on a topic, partition after partition."""
        found = []
        for partition, bounds in sorted((await self.log.bounds(topic)).items()):
            position = bounds.earliest
            while position < bounds.end:
                batch = await self.log.read(topic, partition, position)
                found += [decode(record.value) for record in batch.records]
                position = batch.next_position
        return found

    async def touchpoints(self) -> list[Touchpoint]:
        """All touchpoints in the log."""
        records = [fact for fact in await self.facts(TOUCHPOINTS) if isinstance(fact, TouchpointsRecorded)]
        return [touchpoint for record in records for touchpoint in record.touchpoints]

    async def failed(self) -> list[TouchpointFailed]:
        """All failed items in the log."""
        return [fact for fact in await self.facts(TOUCHPOINTS_FAILED) if isinstance(fact, TouchpointFailed)]

    def opened(self, failed: TouchpointFailed) -> bytes:
        """The failed item as it was sent."""
        opener = Opener(self.keyring.private_keys("shop"))
        return bytes(opener.open(failed.item)[0]["item"])

    async def key(self, kind: str, scopes: Sequence[str], workspace: str = "shop", seed: int = 50) -> str:
        """One more key, known to the door at once."""
        fact, text = new_key(kind, workspace, "other", tuple(scopes), "", NOW_MS, bytes([seed]) * KEY_RANDOM_BYTES)
        await self.say(fact)
        return text

    async def say(self, *facts: Fact) -> None:
        """Append to `definitions` and wait until the door read it."""
        positions = await self.log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in facts])
        assert await self.feed.reached(positions[-1])


def track(**fields: Any) -> dict[str, Any]:
    """A good Segment call."""
    return {"type": "track", "event": "Tried", "anonymousId": "a-1", "messageId": "m-1"} | fields


@contextlib.asynccontextmanager
async def house(folder: Path, log: Log | None = None, **settings: Any) -> AsyncIterator[House]:
    """A door with workspace `shop`, a write key and a secret key with every scope. `log`: another one than SQLite."""
    clock = FrozenClock(NOW_MS)
    chosen = IngestSettings(data_dir=folder, partitions=PARTITIONS, **settings)
    own_log: Log = log or SqliteLog(folder / "log", clock)
    await own_log.ensure(topics(PARTITIONS))
    keyring = Keyring(folder)
    for workspace in ("shop", "rival"):
        keyring.create(workspace)
    write, write_text = new_key(WRITE_KEY, "shop", "website", (WRITE,), "", NOW_MS, bytes(range(KEY_RANDOM_BYTES)))
    secret, secret_text = new_key(SECRET_KEY, "shop", "erp", SCOPES, "", NOW_MS, bytes(range(9, 9 + KEY_RANDOM_BYTES)))
    defined = [WorkspaceDefined(w, "UTC", "IR", *keyring.sealing_public(w), NOW_MS) for w in ("shop", "rival")]
    await own_log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in (*defined, write, secret)])
    feed = DefinitionsFeed(own_log, clock)
    app = build(chosen, log=own_log, clock=clock, keyring=keyring, feed=feed)
    await feed.start()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1")
    try:
        async with client:
            yield House(app, client, own_log, feed, clock, keyring, chosen, write_text, secret_text)
    finally:
        await feed.close()
        await own_log.close()


@contextlib.asynccontextmanager
async def listening(app: HouseApp, **serving: Any) -> AsyncIterator[int]:
    """The app behind a real socket on loopback; yields its port."""
    running = server(app, Serving(**serving))
    task = asyncio.create_task(running.serve())
    try:
        async with asyncio.timeout(10):
            while not running.started:
                await asyncio.sleep(0)
        yield running.port
    finally:
        running.stop()
        async with asyncio.timeout(15):
            await task
        gc.unfreeze()


def basic(key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def flat(answer: httpx.Response) -> dict[str, Any]:
    """An error's body: flat, with the three fields SDKs read, as JSON and inside CORS."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    body: dict[str, Any] = answer.json()
    assert {"code", "message", "detail"} <= set(body)
    assert all(isinstance(body[name], str) and body[name] for name in ("code", "message", "detail"))
    return body
