"""Both rebuilds in both modes, under traffic: whoever does one is killed with -9 on the way, and nothing differs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx
import pytest

from shared.clock import SystemClock
from tests.e2e.test_end_to_end import post, purchase, somebody
from tests.support.house import House

PATIENCE_SECONDS = 90.0
PEOPLE = 300
SEED = 11

_clock = SystemClock()


@pytest.mark.parametrize("room", ["profiles", "scoring"])
async def test_a_rebuild_killed_with_9_goes_on_and_equals_live(house: House, room: str) -> None:
    people = [somebody() for _ in range(PEOPLE)]
    for start in range(0, PEOPLE, 100):
        await post(house, *(purchase(user, _clock.now_ms()) for user in people[start : start + 100]))
    async with _traffic(house, people), _of(house, room) as client:
        await _none(client)
        began = await client.post("/v1/rebuild", json={"switch_when_equal": True})
        assert began.status_code == 202, began.text
        await asyncio.sleep(Random(SEED).uniform(0.05, 0.4))
        [worker] = house.of(room)
        worker.kill9()
        worker.launch()  # in this thread: it dies with the thread that starts it, and the house is shared
        await asyncio.to_thread(worker.wait_until_ready)
        shown = await _until(client, "switched", "failed")
        assert (shown["phase"], shown["equal"], shown["why"]) == ("switched", True, ""), shown
        await _none(client)


@asynccontextmanager
async def _of(house: House, room: str) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client(room, seconds=30.0) as client:
        yield client
        with contextlib.suppress(httpx.TransportError):
            await client.delete("/v1/rebuild")  # nothing is left for whoever shares the house


@asynccontextmanager
async def _traffic(house: House, people: list[str]) -> AsyncIterator[None]:
    """Purchases of these people and of new ones, some every moment."""

    async def buy() -> None:
        dice = Random(SEED)
        while True:
            users = (*dice.sample(people, 5), somebody())
            await post(house, *(purchase(user, _clock.now_ms()) for user in users))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(buy())
    try:
        yield
        assert not task.done(), "the traffic ended"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _none(client: httpx.AsyncClient) -> None:
    """Let go of what there is of a rebuild."""
    if (await _shown(client)).get("phase") != "none":
        assert (await client.delete("/v1/rebuild")).status_code in (202, 404)
        await _until(client, "none")


async def _until(client: httpx.AsyncClient, *phases: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (shown := await _shown(client)).get("phase") not in phases:
            await asyncio.sleep(0.1)
        return shown


async def _shown(client: httpx.AsyncClient) -> dict[str, Any]:
    """The rebuild as it stands; {} while nobody answers."""
    try:
        answer = await client.get("/v1/rebuild")
    except httpx.TransportError:
        return {}
    return dict(answer.json()) if answer.status_code == 200 else {}
