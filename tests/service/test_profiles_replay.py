"""Parked events are replayed once, whoever asks and however often, and failures can be discarded."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.codec import decode, encode
from shared.database import execute
from shared.events import TouchpointsRecorded
from shared.log.port import Outgoing
from shared.topics import SEGMENT_CHANGES, TOUCHPOINTS
from tests.builders import a_touchpoint
from tests.service.profiles_house import MAIN, RIVAL, House, Person, house, page_view

CONCURRENT = 10


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


async def parked(home: House, person: Person, name: str = "o1") -> str:
    """A purchase the fold trips over, between two good touchpoints of one record; returns the id of its failure."""
    good = a_touchpoint("purchased", id=name, order_id=name, amount=1, currency="EUR")
    bad = msgspec.structs.replace(good, properties={**good.properties, "amount_minor": "many"})
    text = {"traits": {"name": f"Sara {name}"}}
    await home.track(person, page_view(id=f"{name}-a"), bad, page_view(id=f"{name}-b"), personal=text)
    await home.settle()
    return str((await home.shown("/v1/failed", limit=1))["items"][0]["id"])


async def mend(home: House) -> None:
    """What is kept of every parked touchpoint becomes one the fold can count, as newer code would make of it."""
    for row in await home.rows("SELECT partition, position, place, bytes FROM parked WHERE place >= 0"):
        fact = decode(bytes(row.bytes))
        assert isinstance(fact, TouchpointsRecorded)
        [one] = fact.touchpoints
        whole = msgspec.structs.replace(one, properties={**one.properties, "amount_minor": 100})
        value = encode(msgspec.structs.replace(fact, touchpoints=(whole,)))
        async with home.database.transaction() as connection:
            statement = "UPDATE parked SET bytes = $4 WHERE partition = $1 AND position = $2 AND place = $3"
            await execute(connection, statement, row.partition, row.position, row.place, value)


async def replay(home: House, *ids: str, key: str = MAIN, **more: Any) -> list[dict[str, Any]]:
    """Replay and return the results."""
    answer = await home.post("/v1/failed/replay", {"ids": list(ids)} | more, key)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_a_parked_event_counts_once_however_often_and_by_whomever_it_is_replayed(home: House) -> None:
    person = home.person(user="1", email="sara@example.com")
    failed = await parked(home, person)
    shown = await home.shown(f"/v1/failed/{failed}")
    assert shown["personal"]["traits"] == {"name": "Sara o1"}
    assert [item["kind"] for item in shown["item"]] == ["purchased"]
    await mend(home)
    every = await asyncio.gather(*(replay(home, failed) for _ in range(CONCURRENT)))
    assert sorted(result[0]["status"] for result in every) == ["closed"] * (CONCURRENT - 1) + ["replayed"]
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert (view["profile"]["orders"]["count"], view["profile"]["money"]) == (1, {"EUR": 100})
    assert view["profile"]["counts"]["page_viewed"] == {"web": 2}
    assert view["personal"]["traits"] == {"name": "Sara o1"}
    assert (await home.shown("/v1/failed"))["items"] == []
    [closed] = (await home.shown("/v1/failed", state="closed"))["items"]
    assert (closed["id"], closed["state"]) == (failed, "replayed")
    assert closed["closed_at"]
    for row in await home.rows("SELECT partition, position FROM parked"):  # the record itself comes again: a repeat
        batch = await home.log.read(TOUCHPOINTS, row.partition, row.position, records_max=1)
        await home.log.append(TOUCHPOINTS, [Outgoing(row.partition, batch.records[0].value)])
    await home.settle()
    again = await home.shown(f"/v1/customers/{person.id}")
    assert again["profile"] == view["profile"]


async def test_what_is_not_mended_is_parked_again_and_shown(home: House) -> None:
    person = home.person(user="1")
    failed = await parked(home, person)
    assert (await replay(home, failed))[0]["status"] == "replayed"
    await home.settle()
    [new] = (await home.shown("/v1/failed"))["items"]
    assert new["id"] != failed
    assert (await home.shown(f"/v1/failed/{new['id']}"))["item"][0]["id"]


async def test_all_of_a_source_are_replayed_by_one_wish(home: House) -> None:
    person = home.person(user="1")
    for number in range(3):
        await parked(home, person, f"o{number}")
        home.clock.advance(1)
    await mend(home)
    assert await replay(home, all=True, source="nobody") == []
    assert [one["status"] for one in await replay(home, all=True, source="shop")] == ["replayed"] * 3
    await home.settle()
    assert (await home.shown(f"/v1/customers/{person.id}"))["profile"]["orders"]["count"] == 3
    for wish in ({}, {"all": True, "ids": ["x"]}):
        assert (await home.post("/v1/failed/replay", wish)).status_code == 400


async def test_an_erased_persons_parked_event_never_comes_back(home: House) -> None:
    """Not even after a reinstatement: what was parked before the erasure went with it."""
    person = home.person(user="1")
    failed = await parked(home, person)
    await mend(home)
    await home.client.delete(f"/v1/customers/{person.id}", headers=home._bearer(MAIN))
    await home.settle()
    assert (await home.shown(f"/v1/failed/{failed}"))["state"] == "erased"
    await home.post(f"/v1/customers/{person.id}/reinstate", {})
    await home.settle()
    assert (await replay(home, failed))[0] == {"id": failed, "status": "closed", "reason": "erased"}
    assert [bytes(row.bytes) for row in await home.rows("SELECT bytes FROM parked")] == [b""]


async def test_what_belongs_to_nobody_is_for_the_administrator_of_the_house(home: House) -> None:
    """A record that is no fact, and a decision that is none: they fail until newer code reads them."""
    await home.log.append(TOUCHPOINTS, [Outgoing(0, b"\xc1 no fact")])
    await home.log.append(SEGMENT_CHANGES, [Outgoing(0, b"{}")])
    await home.settle()
    ids = [one["id"] for one in (await home.shown("/v1/failed"))["items"]]
    assert sorted(ids) == ["segment-changes.0.0.-1", "touchpoints.0.0.-1"]
    assert [one["status"] for one in await replay(home, *ids)] == ["still_failing"] * 2
    assert (await home.shown("/v1/failed", "reader"))["items"] == []
    assert (await home.shown("/v1/failed", RIVAL))["items"] == []
    assert [one["status"] for one in await replay(home, *ids, key=RIVAL)] == ["missing"] * 2
    for one in ids:
        answer = await home.client.delete(f"/v1/failed/{one}", headers=home._bearer(MAIN))
        assert answer.json()["state"] == "discarded"
    assert (await home.shown("/v1/failed"))["items"] == []


async def test_items_are_for_administrators_alone(home: House) -> None:
    refused = await home.fail(b'{"kind":"shoe","email":"sara@example.com"}')
    person = home.person(user="1")
    held = await parked(home, person)
    for one in (refused, held):
        mine, theirs = await home.shown(f"/v1/failed/{one}"), await home.shown(f"/v1/failed/{one}", "reader")
        assert mine["item"]
        assert (theirs["item"], theirs["personal"], theirs["replay"]) == (None, None, None)
        assert theirs["reason"] == mine["reason"]
        denied = await home.client.delete(f"/v1/failed/{one}", headers=home._bearer("reader"))
        assert denied.status_code == 403
    assert (await home.post("/v1/failed/replay", {"ids": [held]}, "reader")).status_code == 403
    needs = (await home.shown(f"/v1/failed/{refused}"))["replay"]
    assert (needs["failed_id"], needs["source"], needs["native"]) == (refused, "website", True)
    assert (await replay(home, refused))[0]["status"] == "for_the_door"
    await home.discard(refused)
    [row] = await home.rows("SELECT item, closed FROM failed")
    assert (bytes(row.item), row.closed) == (b"", "discarded")
    assert (await replay(home, refused))[0] == {"id": refused, "status": "closed", "reason": "discarded"}
