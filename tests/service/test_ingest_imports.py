"""History imports at the door: started, fed, finished everywhere, and closed visibly when forgotten."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.ingest.imports import Imports
from shared.clock import FrozenClock
from shared.codec import decode
from shared.definitions import DefinitionsFeed
from shared.errors import NotAccepting
from shared.events import ImportClosed, ImportFinished, ImportStarted, TouchpointsRecorded
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.topics import DEFINITIONS, TOUCHPOINTS
from tests.service.ingest_house import NOW_MS, PARTITIONS, House, house

IDLE_MS = 3_600_000


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


def secret(door: House) -> dict[str, str]:
    return {"authorization": f"Bearer {door.secret_key}"}


async def started(door: House) -> str:
    answer = await door.client.post("/v1/imports", headers=secret(door))
    assert answer.status_code == 200
    return str(answer.json()["import_id"])


def old_purchase(import_id: str, number: int = 1) -> dict[str, Any]:
    return {
        "kind": "purchased", "id": f"o-{number}", "user_id": f"u-{number}", "occurred_at": "2020-01-01T00:00:00Z",
        "properties": {"order_id": str(number), "amount": 5, "currency": "EUR"}, "import_id": import_id,
    }  # fmt: skip


async def test_history_is_marked_and_ends_on_every_partition(door: House) -> None:
    import_id = await started(door)
    body = [old_purchase(import_id, number) for number in range(20)]
    told = (await door.client.post("/v1/touchpoints", json=body, headers=secret(door))).json()
    assert told["accepted"] == 20
    finished = await door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door))
    assert finished.json()["closed_at"] is not None
    assert finished.json()["idle"] is False
    for partition in range(PARTITIONS):
        batch = await door.log.read(TOUCHPOINTS, partition, 0)
        facts = [decode(record.value) for record in batch.records]
        assert isinstance(facts[-1], ImportFinished)
        assert {fact.import_id for fact in facts if isinstance(fact, TouchpointsRecorded)} <= {import_id}
    said = [fact for fact in await door.facts(DEFINITIONS) if isinstance(fact, ImportStarted | ImportClosed)]
    assert [type(fact) for fact in said] == [ImportStarted, ImportClosed]


async def test_a_finished_import_takes_nothing_more_and_finishing_again_is_quiet(door: House) -> None:
    import_id = await started(door)
    first = await door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door))
    again = await door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door))
    assert first.json() == again.json()
    ends = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, ImportFinished)]
    assert len(ends) == PARTITIONS
    answer = await door.client.post("/v1/touchpoints", json=[old_purchase(import_id)], headers=secret(door))
    [result] = answer.json()["results"]
    assert (result["code"], result["field"]) == ("import_not_open", "[0].import_id")


async def test_an_unknown_import_is_the_items_failure(door: House) -> None:
    answer = await door.client.post("/v1/touchpoints", json=old_purchase("nope"), headers=secret(door))
    assert (answer.status_code, answer.json()["field"]) == (400, "import_id")


async def test_a_public_key_cannot_write_history(door: House) -> None:
    import_id = await started(door)
    headers = {"authorization": f"Bearer {door.write_key}"}
    answer = await door.client.post("/v1/touchpoints", json=old_purchase(import_id), headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, "import_id")


async def test_imports_are_listed_with_their_end(door: House) -> None:
    first, second = await started(door), await started(door)
    await door.client.post(f"/v1/imports/{first}/finish", headers=secret(door))
    listed = (await door.client.get("/v1/imports", headers=secret(door))).json()["imports"]
    assert [(one["import_id"], one["closed_at"] is None) for one in listed] == [(first, False), (second, True)]


class HeldLog(SqliteLog):
    """A log that lets touchpoints wait until the test says go, as a slow disk would."""

    def __init__(self, folder: Path, clock: FrozenClock) -> None:
        super().__init__(folder, clock)
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        if topic == TOUCHPOINTS and not self.go.is_set():
            self.waiting.set()
            await self.go.wait()
        return await super().append(topic, records)


async def test_finishing_waits_for_history_in_flight_and_takes_nothing_new(tmp_path: Path) -> None:
    log = HeldLog(tmp_path / "log", FrozenClock(NOW_MS))
    async with house(tmp_path, log=log) as door:
        import_id = await started(door)
        body = [old_purchase(import_id)]
        slow = asyncio.create_task(door.client.post("/v1/touchpoints", json=body, headers=secret(door)))
        await log.waiting.wait()
        finish = asyncio.create_task(door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door)))
        async with asyncio.timeout(5):
            while (await door.client.get("/v1/imports", headers=secret(door))).json()["imports"][0]["state"] == "open":
                await asyncio.sleep(0)
        late = await door.client.post("/v1/touchpoints", json=old_purchase(import_id, 2), headers=secret(door))
        assert late.status_code == 400
        assert not finish.done()
        log.go.set()
        assert (await slow).json()["accepted"] == 1
        assert (await finish).status_code == 200
        facts = await door.facts(TOUCHPOINTS)
        recorded = next(fact for fact in facts if isinstance(fact, TouchpointsRecorded))
        assert facts.index(recorded) + 1 < len(facts)
        assert isinstance(facts[facts.index(recorded) + 1], ImportFinished)


class Idle:
    """The door's own imports without HTTP, so that its idle rule can be asked directly."""

    def __init__(self, door: House) -> None:
        self.feed = DefinitionsFeed(door.log, door.clock)
        self.imports = Imports(door.log, self.feed, door.clock, PARTITIONS, IDLE_MS / 1000)


async def test_an_import_idle_for_an_hour_is_closed_visibly(door: House) -> None:
    watcher = Idle(door)
    await watcher.feed.start()
    import_id = await started(door)
    closed: list[ImportClosed] = []
    async with asyncio.timeout(5):
        while not watcher.imports.of("shop"):
            await asyncio.sleep(0)
    door.clock.advance(IDLE_MS - 1)
    await watcher.imports.close_idle()
    assert watcher.imports.of("shop")[0].closed_at is None
    door.clock.advance(1)
    await watcher.imports.close_idle()
    closed = [fact for fact in await door.facts(DEFINITIONS) if isinstance(fact, ImportClosed)]
    assert [(fact.import_id, fact.idle) for fact in closed] == [(import_id, True)]
    assert watcher.imports.closed_idle == 1
    await watcher.feed.close()


async def test_what_comes_through_another_door_keeps_an_import_open(door: House) -> None:
    """Two doors on one log: the one that receives says so, the other does not close what is active elsewhere."""
    here, there = Idle(door), Idle(door)
    await here.feed.start()
    await there.feed.start()
    one = await here.imports.start("shop", "erp")
    async with asyncio.timeout(5):
        while not there.imports.of("shop"):
            await asyncio.sleep(0)
    for _ in range(8):
        door.clock.advance(IDLE_MS // 4)
        here.imports.enter("shop", {one.import_id})
        here.imports.leave("shop", {one.import_id})
        told_before = there.imports.of("shop")[0].told_at
        await here.imports.close_idle()
        async with asyncio.timeout(5):
            while there.imports.of("shop")[0].told_at == told_before:
                await asyncio.sleep(0)
        await there.imports.close_idle()
    assert there.imports.of("shop")[0].closed_at is None
    assert not [fact for fact in await door.facts(DEFINITIONS) if isinstance(fact, ImportClosed)]
    await here.feed.close()
    await there.feed.close()


class FullLog(SqliteLog):
    """A log whose disk is full for touchpoints while `full` is set."""

    full = False

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        if topic == TOUCHPOINTS and self.full:
            raise NotAccepting("disk full")
        return await super().append(topic, records)


async def test_finishing_can_be_tried_again_when_the_log_was_full(tmp_path: Path) -> None:
    log = FullLog(tmp_path / "log", FrozenClock(NOW_MS))
    async with house(tmp_path, log=log) as door:
        import_id = await started(door)
        log.full = True
        answer = await door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door))
        assert (answer.status_code, answer.json()["code"]) == (503, "log_not_accepting")
        log.full = False
        answer = await door.client.post(f"/v1/imports/{import_id}/finish", headers=secret(door))
        assert answer.status_code == 200
        assert json.loads(answer.content)["closed_at"]
