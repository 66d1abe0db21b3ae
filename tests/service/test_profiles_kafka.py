"""Profiles on a real Kafka broker and PostgreSQL, put together by its own composition root from settings alone."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrations import migrate
from services.first_start import first_start
from services.profiles.app import from_settings
from services.profiles.settings import ProfilesSettings
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import open_database
from shared.identifiers import leaf_of
from shared.ids import leaf_text, partition_of
from shared.keyring import Keyring
from shared.log.kafka import KafkaLog
from shared.log.port import Outgoing
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_record, a_touchpoint
from tests.service.ingest_house import listening
from tests.support.broker import NewBroker

PARTITIONS = 4


async def met(client: httpx.AsyncClient, path: str, condition: Any) -> Any:
    """The body of a GET once it is 200 and meets the condition."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.get(path)
            if answer.status_code == 200 and condition(answer.json()):
                return answer.json()
            await asyncio.sleep(0.05)


@pytest.mark.kafka
@pytest.mark.postgres
async def test_two_workers_share_the_partitions_and_end_in_time(
    new_broker: NewBroker, postgres_url: str, tmp_path: Path
) -> None:
    """What is appended before and after the second one joins is folded once; a link sent to either is carried out."""
    broker = await asyncio.to_thread(new_broker)
    settings = ProfilesSettings(
        data_dir=tmp_path,
        partitions=PARTITIONS,
        kafka_bootstrap=broker.bootstrap,
        database_url=postgres_url,
        profiles_port=0,
        _env_file=None,
    )
    started = await first_start(settings, SystemClock())
    database = open_database(postgres_url, tmp_path, "profiles")
    await migrate(database, "profiles")
    await database.close()
    log = KafkaLog(broker.bootstrap, SystemClock())
    leaves = [leaf_of(Keyring(tmp_path).leaf_secret("main"), "main", "user", f"u{n}") for n in range(12)]
    key = {"authorization": f"Bearer {started.access.secret_key}"}

    async def view_pages(round_number: int) -> None:
        records = [a_record(a_touchpoint(at=NOON_MS + round_number, leaf=leaf)) for leaf in leaves]
        out = [
            Outgoing(partition_of(record.touchpoints[0].leaves[0], PARTITIONS), encode(record)) for record in records
        ]
        await log.append(TOUCHPOINTS, out)

    def partitions(body: Any) -> int:
        return int(body["checks"]["touchpoints"]["partitions"])

    try:
        async with listening(from_settings(settings)) as port, _client(port, key) as one:
            await view_pages(1)
            await met(one, "/v1/customers", lambda body: len(body["items"]) == 12)
            async with listening(from_settings(settings)) as second, _client(second, key) as two:
                await met(two, "/readyz", lambda body: partitions(body) == 2)
                await met(one, "/readyz", lambda body: partitions(body) == 2)
                await view_pages(2)
                tie = await two.post("/v1/customers/link", json={"a": "user:u0", "b": "user:u1"})
                assert tie.status_code == 202, tie.text
                root = min(leaves[0], leaves[1])
                path = f"/v1/customers/{leaf_text(max(leaves[0], leaves[1]))}"
                await met(one, path, lambda body: body["profile"]["counts"] == {"page_viewed": {"web": 4}})
                assert (await one.get(path)).json()["customer_id"] == leaf_text(root)
                leaving = time.monotonic()
            assert time.monotonic() - leaving < 10
            await met(one, "/readyz", lambda body: partitions(body) == 4)
            await view_pages(3)
            for leaf in leaves[2:]:
                path = f"/v1/customers/{leaf_text(leaf)}"
                await met(one, path, lambda body: body["profile"]["counts"] == {"page_viewed": {"web": 3}})
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 10
    finally:
        await log.close()


def _client(port: int, headers: dict[str, str]) -> httpx.AsyncClient:
    url = f"http://127.0.0.1:{port}"
    return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20)
