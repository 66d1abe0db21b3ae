"""Failed items taken in again: judged as of the time they arrived, under the id they would have had, closed behind."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.events import PUBLIC, TouchpointFailed, TouchpointFailureClosed, TouchpointsRecorded
from shared.ids import uuid_text
from shared.moments import moment_text
from shared.sealing import Opener
from shared.topics import TOUCHPOINTS, TOUCHPOINTS_FAILED
from tests.service.ingest_house import NOW_MS, House, basic, house, track

LATER_MS = 3 * 86_400_000


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    """A door on an empty log."""
    async with house(tmp_path) as made:
        yield made


def needs(door: House, failed: TouchpointFailed) -> dict[str, Any]:
    """What profiles show of a failed item for its replay."""
    opened = Opener(door.keyring.private_keys("shop")).open(failed.item)[0]
    at = moment_of(failed.received_at)
    return {
        "failed_id": uuid_text(failed.id),
        "source": failed.source,
        "trust": ("public", "provider", "secret")[opened["trust"]],
        "native": opened["native"],
        "received_at": at,
        "sent_at": None if opened["sent_at"] is None else moment_of(opened["sent_at"]),
        "context": opened.get("context", {}),
    }


def moment_of(at_ms: int) -> str:
    """A time as REST writes it."""
    return moment_text(datetime.fromtimestamp(at_ms / 1000, UTC))


async def replay(door: House, *items: dict[str, Any], key: str = "") -> list[dict[str, Any]]:
    """Replay items with the secret key; returns the results."""
    answer = await door.client.post("/v1/replay", json={"items": items}, headers=basic(key or door.secret_key))
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def refuse(door: House, body: Any, key: str = "", path: str = "/v1/touchpoints") -> TouchpointFailed:
    """Send a batch of which one item is refused; returns what was kept of it."""
    answer = await door.client.post(path, json=body, headers=basic(key or door.secret_key))
    assert answer.status_code == 200, answer.text
    return (await door.failed())[-1]


async def test_a_mended_item_is_taken_in_as_of_when_it_came(door: House) -> None:
    failed = await refuse(door, [{"id": "x-1", "kind": "shoe", "user_id": "u-1"}])
    door.clock.advance(LATER_MS)
    again = needs(door, failed) | {"item": {"id": "x-1", "kind": "page_viewed", "user_id": "u-1"}, "edited": True}
    for _ in range(2):
        [result] = await replay(door, again)
        assert result["status"] == "replayed"
    records = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, TouchpointsRecorded)]
    assert {(one.source, one.received_at) for one in records} == {("erp", NOW_MS)}
    assert len({(one.id, one.day) for record in records for one in record.touchpoints}) == 1  # a repeat for the fold
    own = await door.client.post(
        "/v1/touchpoints", json={"id": "x-1", "kind": "page_viewed", "user_id": "u-1"}, headers=basic(door.secret_key)
    )
    assert own.json()["results"][0]["id"] == uuid_text(records[0].touchpoints[0].id)  # and so is the client's own
    closed = [fact for fact in await door.facts(TOUCHPOINTS_FAILED) if isinstance(fact, TouchpointFailureClosed)]
    assert {(fact.id, fact.how) for fact in closed} == {(failed.id, "replayed")}


@pytest.mark.parametrize("time", [None, "2026-09-21T10:00:00Z"])
async def test_an_item_without_an_id_gets_the_failures(door: House, time: str | None) -> None:
    """However it is mended, a second replay is the same touchpoint."""
    failed = await refuse(door, [{"kind": "shoe", "user_id": "u-1"}])
    for url in ("/a", "/b"):
        item = {"kind": "page_viewed", "user_id": "u-1", "properties": {"path": url}} | (
            {"occurred_at": time} if time else {}
        )
        await replay(door, needs(door, failed) | {"item": item, "edited": True})
    assert len({(one.id, one.day) for one in await door.touchpoints()}) == 1


async def test_a_segment_call_keeps_its_envelope_and_its_trust(door: House) -> None:
    """The batch's context lies under it, its clock is corrected, and a public key may still say no email."""
    bad = {"type": "track", "userId": "u-1", "messageId": "m-9", "timestamp": "2026-09-20T00:00:00Z"}
    body = {"batch": [track(), bad], "context": {"locale": "fa-IR"}, "sentAt": "2026-09-20T00:00:05Z"}
    failed = await refuse(door, body, door.write_key, "/v1/batch")
    assert needs(door, failed)["trust"] == "public"
    door.clock.advance(LATER_MS)
    [result] = await replay(door, needs(door, failed) | {"item": bad | {"event": "Tried"}, "edited": True})
    assert result["status"] == "replayed"
    records = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, TouchpointsRecorded)]
    [(record, touchpoint)] = [(one, one.touchpoints[0]) for one in records if one.touchpoints[0].client_at]
    assert (record.trust, record.source, touchpoint.occurred_at) == (PUBLIC, "website", NOW_MS - 5_000)
    assert touchpoint.context["locale"] == "fa-IR"


async def test_what_is_wrong_still_stays_open_with_its_reason(door: House) -> None:
    failed = await refuse(door, [{"id": "x-1", "kind": "shoe", "user_id": "u-1"}])
    before = len(await door.facts(TOUCHPOINTS_FAILED))
    results = await replay(
        door,
        needs(door, failed) | {"item": {"id": "x-1", "kind": "shoes", "user_id": "u-1"}, "edited": True},
        needs(door, failed) | {"item": "no object"},
        needs(door, failed) | {"item": {"id": "x-1", "kind": "page_viewed", "user_id": "u-1", "import_id": "none"}},
    )
    assert [result["status"] for result in results] == ["refused"] * 3
    assert results[0]["field"] == "kind"
    assert results[2]["code"] == "import_not_open"
    assert len(await door.facts(TOUCHPOINTS_FAILED)) == before
    assert await door.touchpoints() == []


async def test_it_needs_the_scope_admin(door: House) -> None:
    failed = await refuse(door, [{"kind": "shoe", "user_id": "u-1"}])
    body = {"items": [needs(door, failed) | {"item": {}}]}
    writer = await door.key("secret", ("write", "read", "act"))
    for key, status in ((door.write_key, 403), (writer, 403), ("nobody", 401)):
        assert (await door.client.post("/v1/replay", json=body, headers=basic(key))).status_code == status
    for wrong in ({"items": []}, {"items": [{"failed_id": "x"}]}, {}):
        assert (await door.client.post("/v1/replay", json=wrong, headers=basic(door.secret_key))).status_code == 422
