"""Erased is erased: no file of the house, its databases and its log holds a plain value, and the log's copy is shut.

A person who was not erased is found where values are legitimately kept: the search itself is shown to work.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import asyncpg
import httpx
import msgspec
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
from tests.support.searching import Wanted, found, wanted

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


def searched_for(who: dict[str, str], token: str) -> dict[str, Wanted]:
    """Each value in all its forms; all but two hold the token."""
    return {
        field: wanted(value) if field in ("phone", "ip") else wanted(value, token, token.title())
        for field, value in who.items()
    }


async def live(house: House, who: dict[str, str], moment: str) -> None:
    """Three touchpoints that bring every value: from the back office, from the website, and a complaint."""
    bought = {
        "kind": "identified", "id": f"i-{moment}-{who['user']}", "user_id": who["user"], "email": who["email"],
        "phone": who["phone"], "properties": {"traits": {"name": who["name"]}},
    }  # fmt: skip
    complained = {
        "kind": "complained", "id": f"x-{moment}-{who['user']}", "user_id": who["user"],
        "properties": {"complaint_id": f"x-{moment}-{crc32(who['user'].encode())}", "text": who["text"]},
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


async def nothing_open(client: httpx.AsyncClient) -> None:
    """Discard every event that did not count."""
    while items := (await client.get("/v1/failed", params={"limit": 200})).raise_for_status().json()["items"]:
        for item in items:
            (await client.delete(f"/v1/failed/{item['id']}")).raise_for_status()


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
    values = {f"gone.{field}": one for field, one in searched_for(gone, f"a{token}").items()}
    values |= {f"stays.{field}": one for field, one in searched_for(stays, f"z{token}").items()}
    await live(house, gone, "first")
    await live(house, stays, "first")
    for who in (gone, stays):
        shown = await eventually(lambda who=who: view(house, who), PATIENCE_SECONDS, "the customer in REST")  # type: ignore[misc]
        assert shown["personal"]["traits"]["name"] == who["name"]
    async with house.client("profiles", seconds=60) as client:
        customer_id = (await view(house, gone) or {})["customer_id"]
        first = (await client.get("/v1/sealing-keys")).json()["keys"][-1]["name"]
        await emptied_write_ahead(house)
        before = found(folders, values)
        assert {name for name, files in before.items() if files} == values.keys()

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

        await nothing_open(client)  # of other tests in this house: what waits for a replay needs its key

        async def destroyed() -> bool:
            return (await client.delete(f"/v1/sealing-keys/{first}")).status_code == 200

        await eventually(destroyed, PATIENCE_SECONDS, "the destruction of the first key")
        await settled(house)
        assert (await client.get(f"/v1/customers/{customer_id}")).status_code == 404
        assert not (await client.get(f"/v1/erasures/{receipt['id']}")).json()["sealed_copy"]["readable"]

    await emptied_write_ahead(house)
    hits = found(folders, values)
    assert {name: files for name, files in hits.items() if name.startswith("gone") and files} == {}
    assert {name for name, files in hits.items() if files} == {name for name in values if name.startswith("stays")}

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


# --- by the command line --------------------------------------------------------------------------------------


def raftar(house: House, *words: str, status: int = 0) -> Any:
    """One command with `--json`, as a script calls it; returns its document."""
    urls = {f"RAFTAR_{room.upper()}_URL": house.of(room)[0].url for room in ("ingest", "profiles", "scoring")}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *words, "--json"],
        env=house.ground.environment | urls,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
    return msgspec.json.decode(done.stdout) if done.stdout else done.stderr


async def test_the_command_line_mends_replays_erases_and_reinstates(embedded_house: House, tmp_path: Path) -> None:
    house, who = embedded_house, person(f"k{_clock.now_ms():x}")
    user = who["user"]
    bad = {"id": f"b-{user}", "kind": "shoe", "user_id": user}
    async with house.client("ingest") as office:
        answer = await office.post(
            "/v1/touchpoints", json=[bad, {"id": f"g-{user}", "kind": "page_viewed", "user_id": user}]
        )
        assert answer.json()["failed"] == 1
    await settled(house)

    def listed() -> list[dict[str, Any]]:
        return [
            one
            for one in raftar(house, "failed", "list", "--limit", "1000")
            if (one["item"] or {}).get("id") == bad["id"]
        ]

    failed = (await eventually(lambda: asyncio.to_thread(listed), PATIENCE_SECONDS, "the failed item"))[0]["id"]
    [still] = raftar(house, "failed", "replay", failed, status=1)
    assert (still["status"], "kind" in still["reason"]) == ("still_failing", True)
    mended = tmp_path / "item.json"
    mended.write_bytes(msgspec.json.encode(bad | {"kind": "page_viewed"}))
    [done] = raftar(house, "failed", "replay", failed, "--item", str(mended))
    assert done["status"] == "replayed"

    async def closed() -> bool:
        [again] = await asyncio.to_thread(raftar, house, "failed", "replay", failed)
        return bool(again["status"] == "closed")

    await eventually(closed, PATIENCE_SECONDS, "the closed item")  # asked until it was read: repeats count nothing
    await settled(house)
    found_ = raftar(house, "customer", f"user:{user}")["customer"]
    assert sum(found_["profile"]["counts"]["page_viewed"].values()) == 2

    receipt = raftar(house, "erase", f"user:{user}", "--yes")
    assert (receipt["state"], receipt["customer_id"]) == ("erased", found_["customer_id"])
    assert raftar(house, "receipt", receipt["id"])["bodies"] == 2
    assert receipt["id"] in {one["id"] for one in raftar(house, "receipt")}
    assert "no such customer" in raftar(house, "customer", f"user:{user}", status=1)
    assert "1 identifier" in raftar(house, "reinstate", f"user:{user}")["consequence"]
    keys = raftar(house, "keys", "sealing")
    in_use = [key["name"] for key in keys if key["state"] == "in_use"]
    assert "replace it first" in raftar(house, "keys", "destroy", *in_use, "--yes", status=1)
    assert [key["state"] for key in raftar(house, "keys", "rotate")][-1] == "in_use"
