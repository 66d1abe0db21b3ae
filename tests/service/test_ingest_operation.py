"""What operators see of the door: probes, metrics, documents, the feed of definitions, an orderly stop."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi.responses import StreamingResponse

from services.ingest.domain.native import EXAMPLES
from shared.clock import FrozenClock
from shared.codec import encode
from shared.definitions import DefinitionsFeed
from shared.errors import NewerVersion, NotAccepting
from shared.events import DefinitionPublished, ImportStarted, TouchpointsRecorded, WatermarkStated
from shared.httpd import Life, finish, new_app
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.sealing import Opener
from shared.telemetry import Telemetry, masked, where
from shared.topics import DEFINITIONS, TOUCHPOINTS, WATERMARKS
from tests.service.ingest_house import NOW_MS, House, house, listening, track

OUTSIDE = re.compile(r"""(?:src|href|url)\s*[=(:]\s*["']?(?:https?:)?//""")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def ready(door: House) -> tuple[int, dict[str, Any]]:
    answer = await door.client.get("/readyz")
    return answer.status_code, answer.json()["checks"]


# --- probes and metrics ---------------------------------------------------------------------------------------


async def test_alive_and_ready_say_so(door: House) -> None:
    assert (await door.client.get("/livez")).json() == {"alive": True}
    status, checks = await ready(door)
    assert status == 200
    assert all(check["ok"] for check in checks.values())
    assert checks["log"]["inflight_bytes"] == 0


async def test_not_ready_when_definitions_were_not_read_for_long(door: House) -> None:
    await door.feed.close()
    door.clock.advance(11_000)
    status, checks = await ready(door)
    assert (status, checks["definitions"]["ok"]) == (503, False)


async def test_readiness_shows_how_far_folding_is_behind_and_stays_ready(door: House) -> None:
    assert (await ready(door))[1]["backlog"] == {"ok": True, "folded_until_seconds_ago": None}
    for frontiers, shown in [((NOW_MS, -1, NOW_MS, NOW_MS), None), ((NOW_MS, NOW_MS - 7_500, NOW_MS, NOW_MS), 7.5)]:
        await door.log.append(WATERMARKS, [Outgoing(0, encode(WatermarkStated((), frontiers)))])
        status, checks = await ready(door)
        assert (status, checks["backlog"]) == (200, {"ok": True, "folded_until_seconds_ago": shown})


class SometimesFull(SqliteLog):
    """A log whose disk is full while `full` is set."""

    full = False

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        if topic == TOUCHPOINTS and self.full:
            raise NotAccepting("/var/secret/disk full")
        return await super().append(topic, records)


async def test_a_failed_append_means_not_ready_until_traffic_may_try_again(tmp_path: Path) -> None:
    log = SometimesFull(tmp_path / "log", FrozenClock(NOW_MS))
    async with house(tmp_path, log=log, ingest_feed_stale_seconds=1e9) as door:
        log.full = True
        answer = await door.client.post("/v1/t", json=track(), headers={"x-write-key": door.write_key})
        assert (answer.status_code, "secret" in answer.text) == (503, False)
        status, checks = await ready(door)
        assert (status, checks["log"]["reason"]) == (503, "log_not_accepting")
        door.clock.advance(5_000)
        assert (await ready(door))[0] == 200
        log.full = False
        answer = await door.client.post("/v1/t", json=track(), headers={"x-write-key": door.write_key})
        assert answer.status_code == 200
        metrics = (await door.client.get("/metrics")).text
        assert 'raftar_ingest_append_failures_total{code="log_not_accepting"} 1.0' in metrics


async def test_metrics_count_what_happened_and_name_nobody(door: House) -> None:
    headers = {"x-write-key": door.write_key}
    body = {"batch": [track(userId="secret-person"), {"type": "track"}, {"type": "track", "event": "E", "userId": "u"}]}
    await door.client.post("/v1/batch", json=body, headers=headers)
    await door.client.post("/v1/batch", content=b"{", headers=headers)
    text = (await door.client.get("/metrics")).text
    for line in (
        'raftar_ingest_requests_total{route="batch",status="200"} 1.0',
        'raftar_ingest_requests_total{route="batch",status="400"} 1.0',
        "raftar_ingest_accepted_total 2.0",
        "raftar_ingest_not_deduplicable_total 1.0",
        "raftar_ingest_append_seconds_count 2.0",
        "raftar_ingest_imports_open 0.0",
        "raftar_ingest_log_ok 1.0",
    ):
        assert line in text, line
    assert re.search(r'raftar_ingest_failed_total\{code="\w+"\} 1\.0', text)
    assert "secret-person" not in text
    assert door.write_key not in text


# --- documents ------------------------------------------------------------------------------------------------


async def test_the_docs_page_and_all_it_loads_come_from_here(door: House) -> None:
    page = await door.client.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not OUTSIDE.search(page.text)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        answer = await door.client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.content
    assert (await door.client.get("/docs/../pyproject.toml")).status_code == 404


async def test_openapi_documents_the_event_routes_with_bodies_that_work(door: House) -> None:
    document = (await door.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/touchpoints", "/v1/track", "/v1/batch", "/v1/keys", "/v1/imports"} <= set(document["paths"])
    refs = set(re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert refs <= set(document["components"]["schemas"])
    posted = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in content.get("examples", {}).values():
            answer = await door.client.post(path, json=example["value"], headers={"x-write-key": door.secret_key})
            assert answer.status_code == 200, (path, example, answer.text)
            assert "failed" not in answer.json() or answer.json()["failed"] == 0
            posted += 1
    assert posted > len(EXAMPLES)


async def test_a_browser_source_finds_its_settings(door: House) -> None:
    answer = await door.client.get(f"/v1/projects/{door.write_key}/settings")
    destination = answer.json()["integrations"]["Segment.io"]
    assert destination == {"apiKey": door.write_key, "apiHost": "127.0.0.1/v1", "protocol": "http"}
    assert answer.headers["access-control-allow-origin"] == "*"
    missing = await door.client.get("/v1/projects/nobody/settings")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_the_public_url_goes_into_the_settings(tmp_path: Path) -> None:
    async with house(tmp_path, ingest_public_url="https://track.example.com/") as door:
        answer = await door.client.get(f"/v1/projects/{door.write_key}/settings")
        destination = answer.json()["integrations"]["Segment.io"]
        assert (destination["apiHost"], destination["protocol"]) == ("track.example.com/v1", "https")


async def test_an_unknown_path_is_a_flat_404(door: House) -> None:
    answer = await door.client.get("/nothing/here")
    assert (answer.status_code, set(answer.json())) == (404, {"code", "message", "detail"})


# --- the feed of definitions ----------------------------------------------------------------------------------


async def test_the_feed_gives_every_fact_in_order_from_the_first_on(door: House) -> None:
    feed, seen = DefinitionsFeed(door.log, door.clock), []
    feed.on(ImportStarted, lambda fact: seen.append(fact.import_id))
    feed.on(DefinitionPublished, lambda fact: seen.append(str(fact.version)))
    await door.say(ImportStarted("shop", "a", "erp", 1), DefinitionPublished("shop", 1, 1, {}, {}))
    assert feed.age_seconds() == float("inf")
    await feed.start()
    assert seen == ["a", "1"]
    assert feed.access.key(door.write_key) is not None
    await door.say(ImportStarted("shop", "b", "erp", 1))
    async with asyncio.timeout(5):
        while seen != ["a", "1", "b"]:
            await asyncio.sleep(0)
    await feed.close()


async def test_the_feed_stays_fresh_while_nothing_is_said_and_ages_when_closed(door: House) -> None:
    door.clock.advance(3_000)
    async with asyncio.timeout(5):
        while door.feed.age_seconds() > 0:
            await asyncio.sleep(0)
    await door.feed.close()
    door.clock.advance(2_500)
    assert door.feed.age_seconds() == 2.5


async def test_a_fault_in_a_callback_ends_the_feed_visibly(tmp_path: Path) -> None:
    def fail(_fact: ImportStarted) -> None:
        raise ValueError("sara@example.com")

    async with house(tmp_path) as door:
        feed = DefinitionsFeed(door.log, door.clock)
        feed.on(ImportStarted, fail)
        await feed.start()
        await door.log.append(DEFINITIONS, [Outgoing(0, encode(ImportStarted("shop", "i", "erp", NOW_MS)))])
        async with asyncio.timeout(10):
            while feed.failure is None:
                await asyncio.sleep(0)
        assert str(feed.failure) == "definitions cannot be read: ValueError"
        await feed.close()


async def test_a_fact_of_newer_code_stops_the_feed_visibly(door: House) -> None:
    newer = msgspec.msgpack.encode(("key.created", 99, []))
    [position] = await door.log.append(DEFINITIONS, [Outgoing(0, newer)])
    async with asyncio.timeout(5):
        while door.feed.failure is None:
            await asyncio.sleep(0)
    assert isinstance(door.feed.failure, NewerVersion)
    assert not await door.feed.reached(position, timeout_seconds=0)
    with pytest.raises(NewerVersion):
        await DefinitionsFeed(door.log, door.clock).start()


# --- what all services share ----------------------------------------------------------------------------------


async def shared_app() -> httpx.AsyncClient:
    life = Life()

    async def fine() -> dict[str, Any]:
        return {}

    app = new_app(title="t", description="d", version="1", telemetry=Telemetry(), life=life, ready=fine)

    @app.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("sara@example.com has rk_s_secret")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("broken in the middle")

        return StreamingResponse(parts())

    transport = httpx.ASGITransport(app=finish(app, life))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def test_a_fault_in_a_route_is_a_json_500_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    async with await shared_app() as client:
        answer = await client.get("/breaks")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["x-content-type-options"] == "nosniff"
    said = answer.text + capsys.readouterr().out
    assert "sara@example.com" not in said
    assert "rk_s_secret" not in said


async def test_half_an_answer_breaks_the_connection_instead_of_looking_whole() -> None:
    async with await shared_app() as client:
        with pytest.raises(RuntimeError, match="in the middle"):
            await client.get("/half")


def test_keys_and_addresses_are_masked_and_frames_hold_no_message() -> None:
    assert masked("rk_w_0102_abc of sara@example.com") == "rk_*** of ***@***"
    with pytest.raises(ValueError, match="sara") as caught:
        int("sara")
    assert where(caught.value)[-1].startswith("test_ingest_operation.py:")
    assert "sara" not in where(caught.value)[-1]


# --- an orderly stop ------------------------------------------------------------------------------------------


class HeldLog(SqliteLog):
    """A log that lets touchpoints wait until the test says go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FrozenClock(NOW_MS))
        self.go, self.waiting = asyncio.Event(), asyncio.Event()

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        if topic == TOUCHPOINTS:
            self.waiting.set()
            await self.go.wait()
        return await super().append(topic, records)


async def test_stopping_finishes_what_was_being_appended(tmp_path: Path) -> None:
    log = HeldLog(tmp_path / "log")
    async with house(tmp_path, log=log) as door:
        async with httpx.AsyncClient(timeout=20) as client:
            async with listening(door.app) as port:
                url = f"http://127.0.0.1:{port}"
                headers = {"x-write-key": door.write_key}
                posting = asyncio.create_task(client.post(f"{url}/v1/t", json=track(), headers=headers))
                await log.waiting.wait()
                door.app.life.stop()
                assert (await client.get(f"{url}/readyz")).status_code == 503
                asyncio.get_running_loop().call_later(0.3, log.go.set)
            assert (await posting).status_code == 200
        assert len(await door.touchpoints()) == 1


async def test_what_a_stop_cuts_short_hears_503_and_when_to_come_back(tmp_path: Path) -> None:
    log = HeldLog(tmp_path / "log")
    async with house(tmp_path, log=log) as door:
        async with httpx.AsyncClient(timeout=20) as client:
            async with listening(door.app, stop_seconds=1) as port:
                headers = {"x-write-key": door.write_key}
                posting = asyncio.create_task(
                    client.post(f"http://127.0.0.1:{port}/v1/t", json=track(), headers=headers)
                )
                await log.waiting.wait()
            answer = await posting
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_route_that_a_stop_cuts_short_answers_503() -> None:
    life = Life()
    asked = asyncio.Event()

    async def fine() -> dict[str, Any]:
        return {}

    app = new_app(title="t", description="d", version="1", telemetry=Telemetry(), life=life, ready=fine)

    @app.get("/waits")
    async def waits() -> None:
        asked.set()
        await asyncio.Event().wait()

    async with httpx.AsyncClient(timeout=20) as client:
        async with listening(finish(app, life), stop_seconds=1) as port:
            asking = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/waits"))
            await asked.wait()
        answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_forwarded_addresses_are_believed_from_named_proxies_only(tmp_path: Path) -> None:
    for trusted, believed in (("", False), ("127.0.0.1", True), ("10.0.0.1", False)):
        async with house(tmp_path / f"case{trusted}") as door:
            async with listening(door.app, trusted_proxies=trusted) as port, httpx.AsyncClient() as client:
                headers = {"x-write-key": door.write_key, "x-forwarded-for": "203.0.113.7"}
                await client.post(f"http://127.0.0.1:{port}/v1/t", json=track(), headers=headers)
            [record] = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, TouchpointsRecorded)]
            assert record.personal is not None
            opened = Opener(door.keyring.private_keys("shop")).open(record.personal)
            assert ("203.0.113.7" in repr(opened)) is believed, trusted
