"""Erasing over REST: the receipt, what is dropped, what comes back, sealing keys that are rotated and destroyed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.profiles_house import MAIN, RIVAL, House, Person, house, page_view

DEADLINE_SECONDS = 60.0


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


async def eventually(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Ask until the answer is true."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (answer := await ask()):
            await asyncio.sleep(0.02)
        return answer


async def erase(home: House, person: Person, key: str = MAIN) -> dict[str, Any]:
    """Ask for an erasure that must be taken."""
    answer = await home.client.delete(f"/v1/customers/{person.id}", headers=home._bearer(key))
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/erasures/{told['id']}"
    return told


async def forgotten(home: House, person: Person, sequence: int = 9) -> None:
    """Say on both topics what scoring says of every identifier that was erased."""
    for leaf in person.leaves:
        await home.erased(leaf, sequence)


async def test_an_erasure_leaves_nothing_and_its_receipt_says_so(home: House) -> None:
    person, other = home.person(user="1", email="sara@example.com"), home.person(user="2")
    traits = {"traits": {"name": "Sara Canary"}, "text": {"subject": "my canary"}}
    await home.track(person, page_view(id="a"), page_view(id="b"), personal=traits)
    await home.track(other, page_view(id="c"))
    await home.settle()
    await home.stage(person, "active", 1, risk=0.25)
    await home.alert(person, "aa" * 16, 1, "open")
    await home.settle()

    asked = await erase(home, person)
    assert (asked["state"], asked["customer_id"]) == ("requested", person.id)
    await home.settle()
    receipt = await home.shown(f"/v1/erasures/{asked['id']}")
    assert receipt["state"] == "erasing"
    assert {leaf["leaf"] for leaf in receipt["leaves"]} == {leaf.hex() for leaf in person.leaves}
    assert all(leaf["erased_at"] and not leaf["alerts_forgotten_at"] for leaf in receipt["leaves"])
    assert receipt["personal_values"] == 5  # two identifiers, a name, two texts
    assert receipt["bodies"] == 2

    await forgotten(home, person)
    await home.settle()
    receipt = await home.shown(f"/v1/erasures/{asked['id']}")
    assert receipt["state"] == "erased"
    assert sum(leaf["stages"] for leaf in receipt["leaves"]) == 1
    assert sum(leaf["alerts"] for leaf in receipt["leaves"]) == 1
    assert receipt["sealed_copy"]["readable"]
    assert receipt["sealed_copy"]["next_step"] == "raftar keys rotate"
    assert [one["id"] for one in await home.shown("/v1/erasures")] == [asked["id"]]
    for table in ("personal", "standing", "alert", "transition"):
        column = "leaf" if table == "personal" else "customer"
        left = {bytes(row[0]) for row in await home.rows(f"SELECT {column} FROM {table}")}
        assert not left & set(person.leaves), table
    assert (await home.get(f"/v1/customers/{person.id}")).status_code == 404
    assert (await home.get(f"/v1/customers/{other.id}")).status_code == 200
    assert [bytes(row[0]) for row in await home.rows("SELECT leaf FROM personal")] == [other.leaves[0]]


async def test_what_comes_later_is_dropped_until_reinstated(home: House) -> None:
    """Also an erased identifier that somebody else's event names: it is not written down again."""
    person, friend = home.person(user="1", email="sara@example.com"), home.person(user="2", email="sara@example.com")
    await home.track(person, page_view(id="a"))
    await home.settle()
    asked = await erase(home, person)
    await home.settle()
    await home.track(person, page_view(id="late"), personal={"traits": {"name": "Sara"}})
    await home.track(friend, page_view(id="friend"))
    await home.settle()
    assert (await home.get(f"/v1/customers/{person.id}")).status_code == 404
    kept = {bytes(row[0]) for row in await home.rows("SELECT leaf FROM personal")}
    assert kept == {friend.leaves[0]}
    again = await erase(home, person)
    assert again["id"] == asked["id"]  # a repeat is the same erasure

    by_name = await home.post("/v1/customers/reinstate", {"identifier": "email:sara@example.com"})
    assert (by_name.status_code, by_name.json()["leaves"]) == (202, [person.leaves[1].hex()])
    answer = await home.post(f"/v1/customers/{person.id}/reinstate", {})
    assert answer.status_code == 202, answer.text
    await home.settle()
    assert (await home.post(f"/v1/customers/{person.id}/reinstate", {})).status_code == 409
    await home.track(person, page_view(id="new"))
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert view["profile"]["counts"] == {"page_viewed": {"web": 1}}
    assert (await erase(home, person))["id"] != asked["id"]


async def test_only_ones_own_workspace_and_the_right_scope(home: House) -> None:
    person = home.person(user="1")
    await home.track(person, page_view(id="a"))
    await home.settle()
    for key, status in ((RIVAL, 404), ("reader", 403), ("website", 403)):
        answer = await home.client.delete(f"/v1/customers/{person.id}", headers=home._bearer(key))
        assert answer.status_code == status, key
    for path in (person.id[:-1], "00" * 16, "x"):
        assert (await home.client.delete(f"/v1/customers/{path}", headers=home._bearer(MAIN))).status_code == 404
    asked = await erase(home, person)
    for path in (asked["id"], "x", "00000000-0000-0000-0000-000000000000"):
        assert (await home.get(f"/v1/erasures/{path}", RIVAL)).status_code == 404
    assert (await home.get("/v1/sealing-keys", "reader")).status_code == 403
    assert (await home.post("/v1/customers/reinstate", {"identifier": "user:1"}, "reader")).status_code == 403
    assert (await home.post("/v1/customers/reinstate", {"identifier": "nothing"})).status_code == 400


async def test_keys_are_rotated_and_destroyed_when_nothing_needs_them(home: House, tmp_path: Path) -> None:
    person = home.person(user="1", email="sara@example.com")
    await home.track(person, page_view(id="a"))
    failed = await home.fail(b'{"kind":"shoe"}')
    await home.settle()
    [first] = (await home.shown("/v1/sealing-keys"))["keys"]
    assert (first["state"], first["is_here"]) == ("in_use", True)
    path = f"/v1/sealing-keys/{first['name']}"
    refused = await home.client.delete(path, headers=home._bearer(MAIN))
    assert (refused.status_code, "raftar keys rotate" in refused.json()["message"]) == (409, True)

    prepared = (await home.post("/v1/sealing-keys/rotate", {"prepare": True})).json()["keys"]
    assert [key["state"] for key in prepared] == ["in_use", "prepared"]
    rotated = (await home.post("/v1/sealing-keys/rotate", {})).json()["keys"]
    assert [key["state"] for key in rotated] == ["retired", "in_use"]
    assert [key["name"] for key in rotated] == [key["name"] for key in prepared]
    await home.track(person, page_view(id="b"), personal={"traits": {"name": "Sara"}})
    await home.settle()
    assert (await home.shown(f"/v1/customers/{person.id}"))["personal"]["traits"] == {"name": "Sara"}

    refused = await home.client.delete(path, headers=home._bearer(MAIN))
    assert "not long ago" in refused.json()["message"]
    assert "1 refused events" in refused.json()["message"]
    await home.discard(failed)
    home.clock.advance(3_600_000)
    await home.track(person, page_view(id="c"))  # the log's stamps move with the clock

    async def destroyed() -> bool:
        home.clock.advance(1_000)  # the frontier moves with the clock's pulses
        return (await home.client.delete(path, headers=home._bearer(MAIN))).status_code == 200

    await eventually(destroyed, "the destruction")
    keys = (await home.shown("/v1/sealing-keys"))["keys"]
    assert [(key["state"], key["is_here"]) for key in keys] == [("destroyed", False), ("in_use", True)]
    assert not list(tmp_path.rglob(f"{first['name']}.private"))
    view = await home.shown(f"/v1/customers/{person.id}")
    assert view["identifiers"][1]["value"] == "sara@example.com"  # the store of record stands
    asked = await erase(home, person)
    await home.settle()
    copy = (await home.shown(f"/v1/erasures/{asked['id']}"))["sealed_copy"]
    assert [key["state"] for key in copy["keys"]] == ["destroyed", "in_use"]
    assert (await home.client.delete("/v1/sealing-keys/none", headers=home._bearer(MAIN))).status_code == 404
