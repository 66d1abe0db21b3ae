"""The event routes as SDKs and people meet them: what is taken, what is kept, and what is answered."""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.door import ROUTES
from shared.clock import FrozenClock
from shared.errors import OutcomeUnknown
from shared.events import TouchpointsRecorded
from shared.log.port import Outgoing
from shared.log.sqlite import SqliteLog
from shared.sealing import Opener
from shared.topics import TOUCHPOINTS
from tests.service.ingest_house import NOW_MS, House, basic, flat, house, track


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


@pytest.mark.parametrize("path", sorted(path for path, route in ROUTES.items() if not route.native))
async def test_every_route_answers_200_with_json(door: House, path: str) -> None:
    call = track(userId="u-1", previousId="a-9", groupId=7, timestamp="2026-09-21T10:00:00Z")
    body = {"batch": [call]} if ROUTES[path].batch else call
    answer = await door.client.post(path, json=body, headers=basic(door.secret_key))
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert len(await door.touchpoints()) == 1


async def test_the_path_decides_the_kind(door: House) -> None:
    for path in ("page", "p", "identify", "i", "screen", "s", "group", "g", "track", "t"):
        call = {"anonymousId": path, "userId": "u", "groupId": "g", "event": "E", "messageId": path, "name": "N"}
        assert (await door.client.post(f"/v1/{path}", json=call, headers=basic(door.write_key))).status_code == 200
    kinds = sorted(touchpoint.kind for touchpoint in await door.touchpoints())
    assert kinds == sorted(["page_viewed", "identified", "screen_viewed", "grouped", "custom"] * 2)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
        {"content-type": "application/octet-stream"},
    ],
)
@pytest.mark.parametrize("squeezed", [True, False])
async def test_neither_content_type_nor_encoding_is_believed(
    door: House, headers: dict[str, str], squeezed: bool
) -> None:
    body = json.dumps({"batch": [track()]}).encode()
    sent = gzip.compress(body) if squeezed else body
    answer = await door.client.post("/v1/batch", content=sent, headers=headers | basic(door.write_key))
    assert (answer.status_code, answer.content) == (200, b'{"success":true}')
    assert len(await door.touchpoints()) == 1


async def test_a_beacon_sends_a_form_with_its_key_in_the_url(door: House) -> None:
    data = base64.b64encode(json.dumps({"batch": [track()]}).encode())
    path = f"/beacon/v1/batch?writeKey={door.write_key}"
    answer = await door.client.post(path, content=b"data=" + data, headers={"content-type": "text/plain"})
    assert answer.status_code == 200
    assert len(await door.touchpoints()) == 1


async def test_the_key_is_found_wherever_sdks_put_it(door: House) -> None:
    key = door.write_key
    bare = base64.b64encode(key.encode()).decode()
    for headers in (
        basic(key), {"authorization": f"Basic {bare}"}, {"authorization": f"bearer {key}"}, {"x-write-key": key},
        {"x-write-key": f"{key}:ignored"}, basic("rk_w_unknown") | {"x-write-key": key},
    ):  # fmt: skip
        assert (await door.client.post("/v1/track", json=track(), headers=headers)).status_code == 200, headers
    assert (await door.client.post("/v1/track", json=track(writeKey=key))).status_code == 200
    assert (await door.client.post("/v1/batch", json={"writeKey": key, "batch": [track()]})).status_code == 200
    assert (await door.client.post(f"/v1/track?writeKey={key}", json=track())).status_code == 200


@pytest.mark.parametrize("authorization", ["", "Basic", "Basic !!!", "Basic " + "=" * 9, "Bearer", "Digest x", "\xff"])
async def test_without_a_good_key_it_is_401_and_flat(door: House, authorization: str) -> None:
    headers = {"authorization": authorization.encode("latin-1")}
    answer = await door.client.post("/v1/batch", json={"batch": [track()]}, headers=headers)
    assert answer.status_code == 401
    assert flat(answer)["code"] == "not_allowed"
    assert await door.touchpoints() == []


async def test_one_bad_item_never_sinks_a_batch_and_is_kept_whole(door: House) -> None:
    bad = {"type": "track", "event": "Lost", "messageId": "m-9", "properties": {"note": "call +98 912 000 0000"}}
    body = {"batch": [track(messageId="m-1"), bad, track(messageId="m-2"), 5]}
    answer = await door.client.post("/v1/batch", json=body, headers=basic(door.write_key))
    assert answer.status_code == 200
    told = answer.json()
    assert told["success"] is True
    assert [failed["index"] for failed in told["failed"]] == [1, 3]
    assert all(failed["field"].startswith("batch[") and failed["reason"] for failed in told["failed"])
    assert len(await door.touchpoints()) == 2
    kept = await door.failed()
    assert [json.loads(door.opened(one)) for one in kept] == [bad, 5]
    assert {one.source for one in kept} == {"website"}
    assert b"+98 912" not in b"".join(one.item.box for one in kept)


@pytest.mark.parametrize("odd", [b'{"x":NaN}', b'{"x":"\\ud800"}', b'{"x":' + b"9" * 5000 + b"}", b'{"x":1e999}',
                                 b'{"x":"\\u0000"}', b'{"x":' + b"[" * 500 + b"]" * 500 + b"}"])  # fmt: skip
async def test_odd_json_inside_one_item_is_that_items_failure(door: House, odd: bytes) -> None:
    item = b'{"type":"track","event":"E","anonymousId":"a","messageId":"m","properties":%s}' % odd
    body = b'{"batch":[%s,%s]}' % (item, json.dumps(track()).encode())
    answer = await door.client.post("/v1/batch", content=body, headers=basic(door.write_key))
    assert answer.status_code == 200
    assert [failed["index"] for failed in answer.json()["failed"]] == [0]
    assert len(await door.touchpoints()) == 1
    assert len(await door.failed()) == 1


async def test_a_bad_single_call_is_400_with_its_field_and_nothing_is_appended(door: House) -> None:
    answer = await door.client.post("/v1/track", json={"event": "E"}, headers=basic(door.write_key))
    assert answer.status_code == 400
    assert flat(answer)["message"]
    answer = await door.client.post(
        "/v1/touchpoints", json={"kind": "purchased", "user_id": "u", "properties": {"amount": "x"}, "id": "1"},
        headers=basic(door.secret_key),
    )  # fmt: skip
    assert answer.status_code == 400
    assert flat(answer)["field"].startswith("properties")
    assert (await door.touchpoints(), await door.failed()) == ([], [])


async def test_native_touchpoints_get_one_result_each(door: House) -> None:
    body = [
        {"kind": "page_viewed", "anonymous_id": "a", "id": "1"},
        {"kind": "page_vieved", "anonymous_id": "a", "id": "2"},
        {"kind": "page_viewed", "anonymous_id": "a"},
        {"kind": "page_viewed", "id": "4"},
    ]
    told = (await door.client.post("/v1/touchpoints", json=body, headers=basic(door.secret_key))).json()
    assert (told["accepted"], told["failed"]) == (2, 2)
    first, second, third, fourth = told["results"]
    assert first["status"] == "accepted"
    assert first["id"]
    assert second["field"] == "[1].kind"
    assert "page_viewed" in second["reason"]
    assert third["deduplicable"] is False
    assert fourth["status"] == "failed"
    single = await door.client.post("/v1/touchpoints", json=body[0], headers=basic(door.secret_key))
    assert single.json()["results"] == [first]


async def test_a_call_that_cannot_be_deduplicated_is_told_so(door: House) -> None:
    body = {"batch": [track(), {"type": "track", "event": "E", "anonymousId": "a"}]}
    answer = await door.client.post("/v1/batch", json=body, headers=basic(door.write_key))
    assert answer.json() == {"success": True, "not_deduplicable": [1]}


async def test_the_same_batch_twice_gives_the_same_ids(door: House) -> None:
    body = {"batch": [track(), {"type": "page", "anonymousId": "a", "timestamp": "2026-09-21T10:00:00Z"}]}
    for _ in range(2):
        await door.client.post("/v1/batch", json=body, headers=basic(door.write_key))
    kept = [(touchpoint.id, touchpoint.day) for touchpoint in await door.touchpoints()]
    assert len(kept) == 4
    assert len(set(kept)) == 2


async def test_the_clients_clock_is_corrected_by_envelope_or_header(door: House) -> None:
    slow = {"timestamp": "2026-09-20T00:00:00Z"}
    for sent in ({"sentAt": "2026-09-20T00:00:05Z"}, {}):
        headers = basic(door.write_key) | ({} if sent else {"SentAt": "2026-09-20T00:00:05.000Z"})
        await door.client.post("/v1/batch", json={"batch": [track(**slow)]} | sent, headers=headers)
    assert [touchpoint.occurred_at for touchpoint in await door.touchpoints()] == [NOW_MS - 5000] * 2


async def test_the_envelopes_context_lies_under_the_items_own(door: House) -> None:
    body = {"context": {"locale": "fa-IR"}, "batch": [track(context={"timezone": "Asia/Tehran"})]}
    await door.client.post("/v1/batch", json=body, headers=basic(door.write_key))
    [touchpoint] = await door.touchpoints()
    assert {"locale": "fa-IR", "timezone": "Asia/Tehran"}.items() <= touchpoint.context.items()


async def test_only_a_websites_address_is_a_customers_address(door: House) -> None:
    for key in (door.write_key, door.secret_key):
        await door.client.post("/v1/track", json=track(), headers=basic(key))
    records = [fact for fact in await door.facts(TOUCHPOINTS) if isinstance(fact, TouchpointsRecorded)]
    opener = Opener(door.keyring.private_keys("shop"))
    seen = {record.source: opener.open(record.personal)[0] for record in records if record.personal}
    assert "127.0.0.1" in repr(seen["website"])
    assert "127.0.0.1" not in repr(seen["erp"])


async def test_an_empty_batch_is_a_good_batch(door: House) -> None:
    answer = await door.client.post("/v1/batch", json={"batch": []}, headers=basic(door.write_key))
    assert answer.status_code == 200


# --- browsers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/t", "/v1/batch", "/v1/touchpoints"])
async def test_a_browser_may_ask_first_and_send_then(door: House, path: str) -> None:
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    answer = await door.client.options(path, headers=asked)
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert answer.status_code == 204
    assert {"authorization", "content-type", "x-write-key", "x-retry-count", "anonymousid", "sentat"} <= allowed
    assert answer.headers["access-control-allow-origin"] == "*"
    assert int(answer.headers["access-control-max-age"]) > 0
    answer = await door.client.post("/v1/t", json=track(), headers=basic(door.write_key) | asked)
    assert answer.headers["access-control-expose-headers"] == "Retry-After"


async def test_other_methods_are_405_and_flat(door: House) -> None:
    answer = await door.client.get("/v1/track")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    flat(answer)


async def test_an_unforeseen_fault_is_json_inside_cors(door: House) -> None:
    secret = next(Path(door.settings.data_dir).glob("keys/shop/leaf.secret"))
    secret.unlink()
    secret.mkdir()
    answer = await door.client.post("/v1/track", json=track(), headers=basic(door.write_key))
    assert answer.status_code == 500
    assert flat(answer)["code"] == "internal"


async def test_a_lost_key_folder_is_503_and_not_ready(door: House) -> None:
    next(Path(door.settings.data_dir).glob("keys/shop/leaf.secret")).unlink()
    answer = await door.client.post("/v1/track", json=track(), headers=basic(door.write_key))
    assert (answer.status_code, flat(answer)["code"]) == (503, "stopped")
    assert answer.headers["retry-after"].isdigit()
    assert str(door.settings.data_dir) not in answer.text
    ready = await door.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["secrets"]["missing_workspaces"]) == (503, ["shop"])


# --- the log says no --------------------------------------------------------------------------------------------


class LosesAnswers(SqliteLog):
    """A log whose acknowledgements of touchpoints get lost: written, and nobody knows."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        positions = await super().append(topic, records)
        if topic == TOUCHPOINTS:
            raise OutcomeUnknown("broker-7.internal did not answer")
        return positions


async def test_an_unknown_outcome_is_503_and_its_retry_deduplicable(tmp_path: Path) -> None:
    async with house(tmp_path, log=LosesAnswers(tmp_path / "log", FrozenClock(NOW_MS))) as door:
        for _ in range(2):
            answer = await door.client.post("/v1/track", json=track(), headers=basic(door.write_key))
            assert answer.status_code == 503
            assert answer.headers["retry-after"].isdigit()
            assert flat(answer)["code"] == "outcome_unknown"
            assert "broker-7" not in answer.text
        kept = await door.touchpoints()
        assert len({(touchpoint.id, touchpoint.day) for touchpoint in kept}) == 1


async def test_a_log_that_takes_nothing_is_503_and_never_400(tmp_path: Path) -> None:
    async with house(tmp_path, log=SqliteLog(tmp_path / "log", FrozenClock(NOW_MS))) as door:
        await door.log.close()
        answer = await door.client.post("/v1/batch", json={"batch": [track(), 5]}, headers=basic(door.write_key))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert flat(answer)["code"] == "log_not_accepting"
        assert (await door.client.get("/readyz")).status_code == 503


class LosesTopic(SqliteLog):
    """A log that does not know the topic of touchpoints any more."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        return await super().append("gone" if topic == TOUCHPOINTS else topic, records)


async def test_a_log_that_rejects_our_records_never_makes_a_client_drop_its_own(tmp_path: Path) -> None:
    async with house(tmp_path, log=LosesTopic(tmp_path / "log", FrozenClock(NOW_MS))) as door:
        answer = await door.client.post("/v1/t", json=track(), headers=basic(door.write_key))
        assert (answer.status_code, flat(answer)["code"]) == (503, "log_not_accepting")


# --- odd input --------------------------------------------------------------------------------------------------

ODD_BODIES = [
    b"", b"null", b"[]", b"{}", b"5", b'"x"', b"\x00", b"\xff" * 9, b"{" * 2000, b"[" * 100_000, b'{"a":' * 100_000,
    b"data=", b"data=e30=", b"data=%7B%7D", b"\x1f\x8b", b"\x1f\x8b\x08" + b"\x00" * 30,
    gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), gzip.compress(b"data=e30=", mtime=0),
    '{"event":"é"}'.encode("utf-16"), b'{"batch":[[]]}', b'{"batch":{}}',
    b'{"batch":[null,1]}',
    b'{"anonymousId":"a","event":"x","properties":{"n":1%s}}' % (b"0" * 400), b'{"anonymousId":{"a":1}}',
    b'{"anonymousId":"a","event":"x","timestamp":[1],"context":7,"properties":[1],"integrations":0}',
    b'{"anonymousId":"a","event":"x","timestamp":"9999-12-31T23:59:59+00:00"}', b'{"userId":"\\udfff","event":"x"}',
    b'{"kind":"purchased","user_id":"u","properties":{"amount":1e308,"currency":"EUR"}}', b'{"writeKey":{"a":[]}}',
    b'{"kind":"page_viewed","user_id":"u","occurred_at":123456789012345678901234567890}',
]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/v1/track", "/v1/identify", "/v1/alias", "/v1/group", "/v1/batch", "/v1/touchpoints"]
)
async def test_odd_input_is_never_a_500(door: House, path: str) -> None:
    for body in ODD_BODIES:
        for wrapped in (body, gzip.compress(body), b'{"batch":[%s]}' % body, b"[%s]" % body):
            answer = await door.client.post(path, content=wrapped, headers=basic(door.secret_key))
            assert answer.status_code in (200, 400, 413), (path, wrapped[:80], answer.text)
            assert isinstance(answer.json(), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["type", "event", "userId", "anonymousId", "messageId", "timestamp", "originalTimestamp", "sentAt", "context",
          "properties", "traits", "previousId", "groupId", "name", "kind", "user_id", "occurred_at", "id", "import_id",
          "email", "phone", "identifiers", "channel"]  # fmt: skip
CALLS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS | JSON, max_size=4))
async def test_arbitrary_fields_are_answered_200_in_a_batch(door: House, calls: list[Any]) -> None:
    for path, body in (("/v1/batch", {"batch": calls}), ("/v1/touchpoints", calls)):
        answer = await door.client.post(path, content=json.dumps(body).encode(), headers=basic(door.secret_key))
        assert answer.status_code == 200, answer.text
