"""Erased is erased: no file of the house, its databases and its log holds a plain value, and the log's copy is shut.

A person who was not erased is found where values are legitimately kept: the search itself is shown to work.
"""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.first_start import open_log
from services.profiles.digest import digest, refold
from shared.clock import SystemClock
from shared.codec import decode
from shared.events import TouchpointsRecorded
from shared.keyring import Keyring
from shared.sealing import Opener
from shared.topics import TOUCHPOINTS
from tests.e2e.evidence import Quiet, eventually, records
from tests.support.house import WORKSPACE, House
from tests.support.searching import forms, found

PATIENCE_SECONDS = 90.0

_clock = SystemClock()


def person(token: str) -> dict[str, str]:
    """Values nobody else has."""
    digits = "".join(str(ord(letter) % 10) for letter in token)[:8]
    return {
        "user": f"u-{token}",
        "cookie": f"c-{token}",
        "email": f"Sara.{token}@example.com",
        "phone": f"+9891{digits}",
        "name": f"Sára {token.title()}",
        "ip": f"198.51.100.{17 if token < 'm' else 71}",
        "text": f"the parcel for {token} never came",
    }


async def live(house: House, who: dict[str, str], moment: str) -> None:
    """Three touchpoints that bring every value: from the back office, from the website, and a complaint."""
    bought = {
        "kind": "identified", "id": f"i-{moment}-{who['user']}", "user_id": who["user"], "email": who["email"],
        "phone": who["phone"], "properties": {"traits": {"name": who["name"]}},
    }  # fmt: skip
    complained = {
        "kind": "complained", "id": f"x-{moment}-{who['user']}", "user_id": who["user"],
        "properties": {"complaint_id": f"x-{moment}", "text": who["text"]},
    }  # fmt: skip
    seen = {
        "type": "page", "messageId": f"p-{moment}-{who['user']}", "userId": who["user"], "anonymousId": who["cookie"],
        "context": {"ip": who["ip"]},
    }  # fmt: skip
    async with house.client("ingest") as office:
        answer = (await office.post("/v1/touchpoints", json=[bought, complained])).raise_for_status().json()
        assert answer["failed"] == 0, answer
    async with house.client("ingest", key=house.access.write_key) as website:
        (await website.post("/v1/batch", json={"batch": [seen]})).raise_for_status()


async def view(house: House, who: dict[str, str]) -> dict[str, Any] | None:
    """The customer in REST, once all three touchpoints are there."""
    async with house.client("profiles") as client:
        answer = await client.get("/v1/customers", params={"identifier": f"user:{who['user']}"})
    if answer.status_code != 200:
        return None
    found_: dict[str, Any] = answer.json()
    return found_ if len(found_["identifiers"]) == 4 and len(found_["profile"]["counts"]) >= 3 else None


async def settled(house: House) -> None:
    """Everything in the log went all the way."""
    quiet = Quiet(house)
    await eventually(quiet.reached, PATIENCE_SECONDS, "a quiet house")


async def same_as_refolded(house: House) -> None:
    """Live profiles are what the log folds to."""
    await settled(house)
    database = house.database("profiles")
    try:
        async with open_log(house.ground.settings, _clock) as log:
            assert await digest(database) == (await refold(log)).digest
    finally:
        await database.close()


@pytest.fixture(params=["embedded", "kafka"])
def searched(request: pytest.FixtureRequest) -> tuple[House, list[Path]]:
    """A house and every folder its parts write into."""
    house: House = request.getfixturevalue(f"{request.param}_house")
    folders = [house.ground.folder]
    if request.param == "kafka":
        folders += [request.getfixturevalue("house_broker").folder, asyncio.run(_data_folder(house))]
    return house, folders


async def _data_folder(house: House) -> Path:
    connection = await asyncpg.connect(house.ground.database_url)
    try:
        return Path(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()


async def emptied_write_ahead(house: House) -> None:
    """As far as a superuser can: old segments are deleted, not kept for later use, and a fresh one is begun."""
    if not house.ground.database_url:
        return
    connection = await asyncpg.connect(house.ground.database_url)
    try:
        for setting in ("wal_recycle = off", "min_wal_size = '32MB'"):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
        for _ in range(2):
            await connection.execute("SELECT pg_switch_wal()")
            await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def test_an_erased_person_is_found_nowhere_and_the_logs_copy_is_shut(
    searched: tuple[House, list[Path]],
) -> None:
    house, folders = searched
    token = f"{_clock.now_ms():x}"[::-1].replace("0", "g").replace("1", "h")
    gone, stays = person(f"a{token}"), person(f"z{token}")
    both = {"gone": gone, "stays": stays}
    wanted = {f"{who}.{field}": forms(value) for who, values in both.items() for field, value in values.items()}
    await live(house, gone, "first")
    await live(house, stays, "first")
    for who in (gone, stays):
        shown = await eventually(lambda who=who: view(house, who), PATIENCE_SECONDS, "the customer in REST")  # type: ignore[misc]
        assert shown["personal"]["traits"]["name"] == who["name"]
    async with house.client("profiles", seconds=60) as client:
        customer_id = (await view(house, gone) or {})["customer_id"]
        first = (await client.get("/v1/sealing-keys")).json()["keys"][-1]["name"]
        await emptied_write_ahead(house)
        before = found(folders, wanted)
        assert {name for name, files in before.items() if files} == wanted.keys()

        receipt = (await client.delete(f"/v1/customers/{customer_id}")).raise_for_status().json()

        async def done() -> Any:
            told = (await client.get(f"/v1/erasures/{receipt['id']}")).json()
            return told if told["state"] == "erased" and told["freed_space_overwritten_at"] else None

        told = await eventually(done, PATIENCE_SECONDS, "the receipt")
        assert len(told["leaves"]) == 4
        assert told["personal_values"] >= 6
        assert told["sealed_copy"]["readable"]

        (await client.post("/v1/sealing-keys/rotate", json={})).raise_for_status()
        await live(house, gone, "later")  # dropped
        await live(house, stays, "later")

        async def destroyed() -> bool:
            return (await client.delete(f"/v1/sealing-keys/{first}")).status_code == 200

        await eventually(destroyed, PATIENCE_SECONDS, "the destruction of the first key")
        await settled(house)
        assert (await client.get(f"/v1/customers/{customer_id}")).status_code == 404
        assert not (await client.get(f"/v1/erasures/{receipt['id']}")).json()["sealed_copy"]["readable"]

    await emptied_write_ahead(house)
    hits = found(folders, wanted)
    assert {name: files for name, files in hits.items() if name.startswith("gone") and files} == {}
    assert {name for name, files in hits.items() if files} == {name for name in wanted if name.startswith("stays")}

    opener = Opener(Keyring(house.ground.folder).private_keys(WORKSPACE))
    facts = [decode(record.value) for record in await records(house.ground, TOUCHPOINTS)]
    sealed = [fact.personal for fact in facts if isinstance(fact, TouchpointsRecorded) and fact.personal is not None]
    assert {one.key for one in sealed} >= {first}
    assert all(opener.open(one) == {} for one in sealed if one.key == first)
    assert any(opener.open(one) for one in sealed if one.key != first)
    assert not [*house.ground.folder.rglob(f"{first}.private")]

    await same_as_refolded(house)
    async with house.client("profiles") as client:
        (await client.post(f"/v1/customers/{customer_id}/reinstate")).raise_for_status()
        await settled(house)
        await live(house, gone, "again")
        back = await eventually(lambda: view(house, gone), PATIENCE_SECONDS, "the reinstated customer")
        assert sum(back["profile"]["counts"]["complained"].values()) == 1
    await same_as_refolded(house)
