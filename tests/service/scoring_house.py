"""Scoring on a real log and database behind a real socket, fed by appending what profiles would append."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from migrations import migrate
from services.scoring.app import build
from services.scoring.settings import ScoringSettings
from shared import profile
from shared.access import KEY_RANDOM_BYTES, SCOPES, SECRET_KEY, new_key
from shared.clock import FrozenClock
from shared.codec import encode
from shared.database import open_database
from shared.definitions import DefinitionsFeed
from shared.events import (
    SECRET,
    DefinitionPublished,
    Fact,
    FactRef,
    ProfileChanged,
    Statement,
    Touchpoint,
    WatermarkStated,
    WorkspaceDefined,
)
from shared.ids import partition_of
from shared.log.ownership import AllPartitions
from shared.log.port import Log, Outgoing
from shared.log.sqlite import SqliteLog
from shared.profile import Profile
from shared.topics import CHURN_ALERTS, DEFINITIONS, PROFILE_CHANGES, WATERMARKS, topics
from shared.vocabulary import business_key
from tests.builders import a_leaf, a_touchpoint
from tests.service.ingest_house import listening

PARTITIONS = 4
NOW_MS = 1_790_000_000_000
PATIENCE_SECONDS = 20.0


@dataclass
class Customer:
    """One customer of one leaf, as profiles would know them."""

    name: str
    workspace: str = "shop"
    version: int = 0
    state: Profile = field(default_factory=profile.new)

    @property
    def id(self) -> bytes:
        return a_leaf(f"{self.workspace}/{self.name}")

    @property
    def text(self) -> str:
        return self.id.hex()

    def change(self, *touchpoints: Touchpoint, at: int, import_id: str = "") -> ProfileChanged:
        """The change that these touchpoints make, recorded at `at`."""
        for one in touchpoints:
            profile.fold(self.state, one, "erp", SECRET)
        self.version += 1
        refs = tuple(
            FactRef(
                one.id, self.id, one.kind, one.occurred_at, SECRET, business_key(one.kind, one.properties) or "",
                one.properties.get("score"), one.channel, str(one.properties.get("metric", "")),
            )
            for one in touchpoints
        )  # fmt: skip
        state = profile.encode(self.state)
        return ProfileChanged(self.workspace, self.id, self.version, at, state, refs, (), import_id)

    def touchpoint(self, kind: str, at: int, **properties: Any) -> Touchpoint:
        """A touchpoint of this customer."""
        return a_touchpoint(kind, at=at, leaf=self.id, **properties)

    def bought(self, at: int) -> Touchpoint:
        """A purchase."""
        order = f"{self.name}-{at}"
        return self.touchpoint("purchased", at, order_id=order, amount=10, currency="EUR")


@dataclass
class House:
    """A scoring service, a client of it, and the log around it."""

    url: str
    client: httpx.AsyncClient
    log: Log
    clock: FrozenClock
    feed: DefinitionsFeed
    keys: dict[str, str]

    async def change(self, *changes: ProfileChanged) -> None:
        """Profiles appends these changes."""
        records = [Outgoing(partition_of(one.customer, PARTITIONS), encode(one), one.customer) for one in changes]
        await self.log.append(PROFILE_CHANGES, records)

    async def watermark(self, frontier: int | Sequence[int]) -> None:
        """Profiles states how far everything is relayed: to the end of every partition, up to `frontier`."""
        bounds = await self.log.bounds(PROFILE_CHANGES)
        vector = (frontier,) * PARTITIONS if isinstance(frontier, int) else tuple(frontier)
        statements = tuple(Statement(partition, bounds[partition].end) for partition in range(PARTITIONS))
        await self.log.append(WATERMARKS, [Outgoing(0, encode(WatermarkStated(statements, vector)))])

    async def time_passes(self, milliseconds: int) -> None:
        """The clock moves, definitions are read again, the watermark follows up to now, and that is heard."""
        self.clock.advance(milliseconds)
        await until(lambda: self.feed.age_seconds() < 1)
        heard = await self.metric("raftar_scoring_statements_total")
        await self.watermark(self.clock.now_ms())
        await self.until_metric("raftar_scoring_statements_total", heard + 1)

    async def define(self, *facts: Fact) -> None:
        """Append to `definitions` and wait until it is read."""
        positions = await self.log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in facts])
        assert await self.feed.reached(positions[-1])

    async def get(self, path: str, workspace: str = "shop", **params: Any) -> Any:
        """The body of a GET that must work."""
        answer = await self.client.get(path, params=params, headers=self.bearer(workspace))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, method: str, path: str, workspace: str = "shop", **more: Any) -> tuple[int, Any]:
        """Status and body."""
        answer = await self.client.request(method, path, headers=self.bearer(workspace), **more)
        return answer.status_code, answer.json()

    def bearer(self, workspace: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[workspace]}"}

    async def events(self, topic: str = CHURN_ALERTS) -> list[dict[str, Any]]:
        """Every event on a topic, partition after partition."""
        found = []
        for partition, bounds in sorted((await self.log.bounds(topic)).items()):
            position = bounds.earliest
            while position < bounds.end:
                batch = await self.log.read(topic, partition, position)
                found += [json.loads(record.value) for record in batch.records]
                position = batch.next_position
        return found

    async def until_said(self, count: int, topic: str = CHURN_ALERTS) -> list[dict[str, Any]]:
        """The events of a topic once there are `count`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found := await self.events(topic)) < count:
                await asyncio.sleep(0.01)
        assert len(found) == count, [event["type"] for event in found]
        return found

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    async def until_owned(self) -> None:
        """Wait until every partition is in the worker's hands, so that a statement is heard for all of them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                text = (await self.client.get("/metrics")).text
                if text.count("raftar_scoring_watermark_unheard_seconds{") == PARTITIONS:
                    return
                await asyncio.sleep(0.01)

    async def until_metric(self, name: str, value: float) -> None:
        """Wait until a metric is at least `value`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.metric(name) < value:
                await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def a_key(workspace: str, scopes: Sequence[str] = SCOPES, seed: int = 1) -> tuple[Fact, str]:
    """A secret key of a workspace: the fact and its text."""
    random = (workspace.encode() + bytes([seed]) * KEY_RANDOM_BYTES)[:KEY_RANDOM_BYTES]
    return new_key(SECRET_KEY, workspace, "erp", tuple(scopes), "", NOW_MS, random)


@contextlib.asynccontextmanager
async def house(
    folder: Path,
    database_url: str = "",
    clock: FrozenClock | None = None,
    definitions: Sequence[DefinitionPublished] = (),
    **settings: Any,
) -> AsyncIterator[House]:
    """Scoring with workspaces `shop` and `rival` and a key for each. Opening it again on the folder resumes it."""
    clock = clock or FrozenClock(NOW_MS)
    chosen = ScoringSettings(data_dir=folder, partitions=PARTITIONS, database_url=database_url, **settings)
    log = SqliteLog(folder / "log", clock)
    await log.ensure(topics(PARTITIONS))
    made = {workspace: a_key(workspace) for workspace in ("shop", "rival")}
    keys = {workspace: text for workspace, (_, text) in made.items()}
    if not (await log.bounds(DEFINITIONS))[0].end:
        facts: list[Fact] = [WorkspaceDefined(w, "Asia/Tehran", "IR", "k", b"", NOW_MS) for w in made]
        facts += [fact for fact, _ in made.values()]
        await log.append(DEFINITIONS, [Outgoing(0, encode(fact)) for fact in (*facts, *definitions)])
    database = open_database(database_url, folder, "scoring")
    await migrate(database, "scoring")
    feed = DefinitionsFeed(log, clock)
    app = build(chosen, log=log, database=database, clock=clock, feed=feed, ownership=lambda: AllPartitions(PARTITIONS))
    try:
        async with listening(app) as port:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
                made_house = House(url, client, log, clock, feed, keys)
                await made_house.until_owned()
                yield made_house
    finally:
        await database.close()
        await log.close()
