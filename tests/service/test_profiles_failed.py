"""What did not count is shown with its reason: refused at the door and parked by the fold in one list."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.log.port import Outgoing
from shared.topics import SEGMENT_CHANGES
from tests.builders import a_touchpoint
from tests.service.profiles_house import NOW_MS, RIVAL, House, house, page_view


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


def unfoldable(name: str) -> Any:
    """A purchase whose amount is no number: it trips the fold."""
    good = a_touchpoint("purchased", id=name, order_id=name, amount=1, currency="EUR")
    return msgspec.structs.replace(good, properties={**good.properties, "amount_minor": "many"})


async def test_refused_and_parked_stand_in_one_list(home: House) -> None:
    """Newest first over all pages, each once, each readable by its id, of the own workspace only."""
    person = home.person(user="1")
    for number in range(3):
        await home.fail(b'{"kind":"shoe"}', at=NOW_MS + number)
        await home.track(person, unfoldable(f"o{number}"), page_view(id=f"p{number}"))
        home.clock.advance(1)
    foreign = await home.fail(b"{}", RIVAL)
    await home.settle()
    whole = (await home.shown("/v1/failed"))["items"]
    assert [one["what"] for one in whole] == ["refused", "parked"] * 3
    assert [one["at"] for one in whole] == sorted((one["at"] for one in whole), reverse=True)
    assert (whole[0]["item"], whole[0]["code"], whole[0]["path"]) == ({"kind": "shoe"}, "invalid_field", "kind")
    assert whole[1]["item"][0]["kind"] == "purchased"
    assert whole[1]["source"] == "shop"
    assert "amount_minor" in whole[1]["reason"]
    for limit in (1, 2, 4):
        paged, after = [], {}
        while True:
            page = await home.shown("/v1/failed", limit=limit, **after)
            paged += page["items"]
            if page["next"] is None:
                break
            after = {"next": page["next"]}
        assert paged == whole
    for one in whole:
        assert await home.shown(f"/v1/failed/{one['id']}") | {"personal": None} == one
        assert (await home.get(f"/v1/failed/{one['id']}", RIVAL)).status_code == 404
    missing = await home.get("/v1/failed/00000000-0000-0000-0000-000000000000")
    for path in (foreign, "touchpoints.0.99.0", "touchpoints.0.99999999999999999999.0", "x", "%00", "a.b.c.d"):
        answer = await home.get(f"/v1/failed/{path}")
        assert (answer.status_code, answer.json()) == (404, missing.json())
    assert len((await home.shown("/v1/failed", RIVAL))["items"]) == 1
    counts = (await home.shown(f"/v1/customers/{person.id}"))["profile"]["counts"]
    assert counts == {"page_viewed": {"web": 3}}


async def test_items_that_are_no_json_and_names_with_nul_are_shown(home: House) -> None:
    """An item is whatever was sent; a path quotes what a client made up."""
    await home.fail(b"\xff\x00not json", path="properties.a\0b")
    await home.fail(b'{"n": 1e999, "deep": ' + b"[" * 3000 + b"]" * 3000 + b"}", at=NOW_MS + 1)
    await home.settle()
    deep, odd = (await home.shown("/v1/failed"))["items"]
    assert isinstance(deep["item"], str)
    assert odd["item"] == "\ufffd\x00not json"
    assert odd["path"] == "properties.a\ufffdb"


async def test_a_destroyed_key_reads_as_absent(home: House, tmp_path: Path) -> None:
    """After a private key is gone the list stands; only what was sealed to it is not told any more."""
    identity = await home.fail(b"{}")
    person = home.person(user="1")
    await home.settle()
    for key in (tmp_path / "keys" / "main" / "sealing").glob("*.private"):
        key.unlink()
    home.clock.advance(61_000)
    assert (await home.shown(f"/v1/failed/{identity}"))["item"] is None
    await home.track(person, page_view())
    await home.settle()
    view = await home.shown(f"/v1/customers/{person.id}")
    assert [one["value"] for one in view["identifiers"]] == [None]
    assert view["profile"]["counts"] == {"page_viewed": {"web": 1}}


async def test_failed_items_are_forgotten_with_their_topic(home: House) -> None:
    """The table keeps no longer than the topic does: thirty days."""
    await home.fail(b"{}", at=NOW_MS - 31 * 86_400_000)
    await home.settle()
    await home.fail(b"{}", at=NOW_MS)
    await home.settle()
    assert len((await home.shown("/v1/failed"))["items"]) == 1


async def test_what_is_no_decision_is_parked_and_the_rest_goes_on(home: House) -> None:
    """A stranger's record on a decision topic stops nothing."""
    person = home.person(user="1")
    await home.track(person, page_view())
    odd: tuple[bytes, ...] = (b"", b"{}", b"[]", b'{"type":"raftar.segment.changed","subject":"x","workspace":"main"}')
    await home.log.append(SEGMENT_CHANGES, [Outgoing(partition, value) for value in odd for partition in range(4)])
    await home.stage(person, "active", 1)
    await home.settle()
    assert (await home.shown(f"/v1/customers/{person.id}"))["stage"] == "active"
    assert (await home.rows("SELECT count(*) AS n FROM parked"))[0].n == 16
