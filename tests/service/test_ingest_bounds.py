"""Every bound of the door, one below, at and over it: what is too much is refused with the bound's name."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.ingest_house import House, basic, flat, house, track


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def test_body_bytes_one_below_at_and_over_the_bound(tmp_path: Path) -> None:
    async with house(tmp_path, ingest_body_bytes_max=2000) as door:
        for size, status in ((1999, 200), (2000, 200), (2001, 413)):
            body = json.dumps(track()).encode()
            body += b" " * (size - len(body))
            answer = await door.client.post("/v1/track", content=body, headers=basic(door.write_key))
            assert answer.status_code == status
        assert flat(answer)["code"] == "too_large"
        assert "RAFTAR_INGEST_BODY_BYTES_MAX" in answer.text


async def test_inflated_bytes_at_and_over_the_bound(tmp_path: Path) -> None:
    async with house(tmp_path, ingest_inflated_bytes_max=5000) as door:
        for size, status in ((5000, 200), (5001, 413)):
            body = json.dumps(track()).encode().ljust(size)
            answer = await door.client.post("/v1/t", content=gzip.compress(body), headers=basic(door.write_key))
            assert answer.status_code == status
        assert "RAFTAR_INGEST_INFLATED_BYTES_MAX" in answer.text


async def test_a_gzip_bomb_is_413_and_holds_nothing(door: House) -> None:
    bomb = gzip.compress(b"0" * (64 << 20), 9)
    answer = await door.client.post("/v1/batch", content=bomb, headers=basic(door.write_key))
    assert (answer.status_code, flat(answer)["code"]) == (413, "too_large")
    ready = (await door.client.get("/readyz")).json()
    assert ready["checks"]["log"]["inflight_bytes"] == 0


@pytest.mark.parametrize(("count", "status"), [(500, 200), (501, 413)])
async def test_items_at_and_over_the_bound(door: House, count: int, status: int) -> None:
    body = {"batch": [track(messageId=str(i)) for i in range(count)]}
    answer = await door.client.post("/v1/batch", json=body, headers=basic(door.write_key))
    assert answer.status_code == status
    assert len(await door.touchpoints()) == (count if status == 200 else 0)


async def test_an_item_over_its_bound_is_that_items_failure(door: House) -> None:
    filled = len(json.dumps(track(properties={"x": ""}), separators=(",", ":")))
    bound = door.settings.ingest_item_bytes_max
    fits, over = (track(properties={"x": "y" * (bound - filled + more)}) for more in (0, 1))
    huge = track(properties={"x": "y" * (1 << 20)})
    body = json.dumps({"batch": [fits, over, huge]}, separators=(",", ":"))
    answer = await door.client.post("/v1/batch", content=body, headers=basic(door.write_key))
    assert answer.status_code == 200
    assert [failed["index"] for failed in answer.json()["failed"]] == [1, 2]
    kept = await door.failed()
    assert json.loads(door.opened(kept[0])) == over
    assert "without the tail" in kept[1].reason


async def test_requests_in_progress_are_bounded_together(tmp_path: Path) -> None:
    async with house(tmp_path, ingest_inflight_bytes_max=1 << 20) as door:
        body = json.dumps(track()).encode().ljust(700_000)
        headers = basic(door.write_key)
        rest = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:690_000]
            await rest.wait()
            yield body[690_000:]

        # httpx's in-process transport hands the parts over as the door asks for them
        slow = asyncio.create_task(door.client.post("/v1/t", content=slowly(), headers=headers))
        async with asyncio.timeout(5):
            while (await door.client.get("/readyz")).json()["checks"]["log"]["inflight_bytes"] < 690_000:
                await asyncio.sleep(0)
        answer = await door.client.post("/v1/t", content=body, headers=headers)
        assert (answer.status_code, flat(answer)["code"]) == (503, "too_busy")
        assert answer.headers["retry-after"].isdigit()
        rest.set()
        assert (await slow).status_code == 200
