"""Admission: kinds, identity and trust, dedup, limits, and refusals that name path and reason."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.ingest.domain.admission import AdmittedLink, Limits, Refused, Result, Sender
from services.ingest.domain.native import EXAMPLES, FIELDS, touchpoint_schema
from services.ingest.domain.segment import EVENT_KINDS, kind_of_event
from shared.events import PUBLIC
from shared.identifiers import leaf_of
from shared.ids import Leaf, derived_id, touchpoint_id
from shared.vocabulary import KINDS
from tests.support.door import ARRIVAL, NOW, PUBLIC_SENDER, SECRET_SENDER, native, refused, segment, taken

CLIENTS = sorted((Path(__file__).parents[1] / "golden" / "clients").glob("*.json"))


def leaf(kind: str, value: str) -> Leaf:
    return leaf_of(SECRET_SENDER.leaf_secret, "main", kind, value)


def kind_of(result: Result) -> str:
    return "link" if isinstance(result, AdmittedLink) else taken(result).touchpoint.kind


# --- what real clients send -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_bodies_of_real_clients_are_admitted_and_leave_nothing_personal_readable(path: Path) -> None:
    recorded = json.loads(path.read_text())
    sender = SECRET_SENDER if recorded["trust"] == "secret" else PUBLIC_SENDER
    items = recorded["body"].get("batch", [recorded["body"]])
    results = [segment(recorded["call"], item, sender) for item in items]
    assert [kind_of(result) for result in results] == recorded["becomes"]
    for result in results:
        assert not isinstance(result, Refused)
        touchpoint = result.touchpoint if not isinstance(result, AdmittedLink) else result.command
        readable = msgspec.msgpack.encode(touchpoint)
        assert b"canary" not in readable.lower(), touchpoint
        assert b"u-1001" not in readable


def test_an_order_of_the_browser_is_normalised() -> None:
    item = json.loads(CLIENTS[1].read_text())["body"]["batch"][1]
    touchpoint = taken(segment(None, item)).touchpoint
    assert touchpoint.properties["order_id"] == "50314"
    assert (touchpoint.properties["amount_minor"], touchpoint.properties["currency"]) == (2750, "USD")
    assert touchpoint.channel == "web"
    assert touchpoint.leaves == (
        leaf("user", "u-1001"),
        leaf("anonymous", "5d0d1f36-6e1b-47d6-8f0a-0b3a6a1f2c11"),
    )


# --- kinds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("Order Completed", "purchased"), ("order completed", "purchased"), ("Order Refunded", "refunded"),
        ("Email Delivered", "email_delivered"), ("Email Opened", "email_opened"),
        ("Email Link Clicked", "email_clicked"), ("Email Bounced", "email_bounced"),
        ("Email Marked as Spam", "email_marked_spam"), ("Unsubscribed", "email_unsubscribed"),
        ("Product Viewed", "product_viewed"), ("Products Searched", "searched"), ("Product Added", "cart_updated"),
        ("Checkout Started", "checkout_started"), ("ticket_opened", "ticket_opened"), ("Logged In", "logged_in"),
        ("Wishlist Shared", "custom"), ("identified", "custom"), ("custom", "custom"), ("Grouped", "custom"),
    ],
)  # fmt: skip
def test_names_of_track_events(event: str, kind: str) -> None:
    assert kind_of_event(event) == kind
    assert set(EVENT_KINDS.values()) <= KINDS.keys()


def test_any_other_event_is_custom_and_keeps_its_name() -> None:
    touchpoint = taken(segment("track", {"event": " Wishlist Shared ", "anonymousId": "a"})).touchpoint
    assert (touchpoint.kind, touchpoint.name, touchpoint.channel) == ("custom", "Wishlist Shared", "web")


def test_a_cancelled_order_is_a_refund_without_amount() -> None:
    item = {"event": "Order Cancelled", "userId": "u", "properties": {"order_id": "1", "total": 9, "currency": "EUR"}}
    properties = taken(segment("track", item)).touchpoint.properties
    assert properties == {"order_id": "1", "currency": "EUR"}


def test_names_of_the_email_spec_become_ours() -> None:
    item = {"event": "Email Link Clicked", "userId": "u",
            "properties": {"email_id": "m-1", "link_url": "https://shop.example/a?x=1"}}  # fmt: skip
    touchpoint = taken(segment("track", item)).touchpoint
    assert touchpoint.properties == {"message_id": "m-1", "link": "https://shop.example/a"}
    assert touchpoint.channel == "email"


def test_the_page_of_the_context_fills_what_the_call_leaves_out() -> None:
    item = {"anonymousId": "a", "name": "Sale", "properties": {"title": "Our sale"},
            "context": {"page": {"url": "https://shop.example/sale", "title": "x"}}}  # fmt: skip
    touchpoint = taken(segment("page", item)).touchpoint
    assert touchpoint.properties == {"url": "https://shop.example/sale", "title": "Our sale", "name": "Sale"}
    assert touchpoint.context == {}


def test_a_batch_item_says_its_type_and_the_path_wins_over_it() -> None:
    assert refused(segment(None, {"userId": "u"})).path == "type"
    wrong = refused(segment(None, {"type": "trak", "userId": "u"}))
    assert wrong.path == "type"
    assert "did you mean track?" in wrong.reason
    assert kind_of(segment("screen", {"type": "page", "userId": "u"})) == "screen_viewed"


def test_traits_come_from_both_places_and_the_calls_own_win() -> None:
    item = {"userId": "u", "traits": {"plan": "pro"}, "context": {"traits": {"plan": "free", "size": 3}}}
    assert taken(segment("identify", item)).touchpoint.properties == {"traits": {"plan": "pro", "size": 3}}


def test_the_batchs_context_lies_under_the_items_own() -> None:
    item = {"userId": "u", "event": "Seen", "context": {"locale": "fa-IR"}}
    context = {"locale": "en-US", "app": {"name": "Shop"}}
    assert taken(segment("track", item, context=context)).touchpoint.context == {
        "locale": "fa-IR",
        "app": {"name": "Shop"},
    }
    assert context == {"locale": "en-US", "app": {"name": "Shop"}}


def test_where_it_happened() -> None:
    def channel(sender: Sender, item: dict[str, Any]) -> str:
        return taken(segment("track", {"event": "Seen", "userId": "u", **item}, sender)).touchpoint.channel

    assert channel(PUBLIC_SENDER, {}) == "web"
    assert channel(SECRET_SENDER, {}) == "server"
    assert channel(SECRET_SENDER, {"channel": "mobile"}) == "app"
    assert channel(SECRET_SENDER, {"context": {"page": {"path": "/"}}}) == "web"
    assert channel(SECRET_SENDER, {"event": "Email Opened"}) == "email"
    assert taken(native({"kind": "purchased", "user_id": "u", "channel": "store"})).touchpoint.channel == "store"


# --- identity and trust ---------------------------------------------------------------------------------------

ALL_OF_THEM = {
    "kind": "logged_in", "user_id": 17, "email": " Sara@Example.com", "phone": "۰۹۱۲ ۳۴۵ ۶۷۸۹", "anonymous_id": "a-1",
    "identifiers": {"zendesk": 88120},
}  # fmt: skip


def test_a_secret_key_ties_all_identifiers_to_the_highest_ranked_one() -> None:
    admitted = taken(native(ALL_OF_THEM))
    said = [["user", "17"], ["email", "sara@example.com"], ["phone", "+989123456789"],
            ["provider:zendesk", "88120"], ["anonymous", "a-1"]]  # fmt: skip
    assert admitted.personal["identifiers"] == said
    assert admitted.touchpoint.leaves == tuple(leaf(kind, value) for kind, value in said)


def test_a_public_key_ties_anonymous_to_user_only() -> None:
    admitted = taken(native(ALL_OF_THEM, PUBLIC_SENDER))
    assert admitted.touchpoint.leaves == (leaf("user", "17"), leaf("anonymous", "a-1"))
    assert admitted.personal["traits"] == {
        "email": " Sara@Example.com", "phone": "۰۹۱۲ ۳۴۵ ۶۷۸۹", "provider:zendesk": 88120,
    }  # fmt: skip
    alone = refused(native({"kind": "logged_in", "email": "sara@example.com"}, PUBLIC_SENDER))
    assert (alone.path, alone.code) == ("user_id", "missing")
    assert "secret key" in alone.reason


def test_traits_identify_only_when_a_secret_key_sends_them() -> None:
    item = {"userId": "u", "traits": {"email": "sara@example.com", "phone": "not a phone"}}
    trusted, public = taken(segment("identify", item, SECRET_SENDER)), taken(segment("identify", item, PUBLIC_SENDER))
    assert trusted.touchpoint.leaves == (leaf("user", "u"), leaf("email", "sara@example.com"))
    assert public.touchpoint.leaves == (leaf("user", "u"),)
    for admitted in (trusted, public):
        assert admitted.personal["traits"] == {"email": "sara@example.com", "phone": "not a phone"}


def test_nobody_is_refused() -> None:
    assert refused(segment("track", {"event": "Seen", "userId": None, "anonymousId": ""})).path == "userId"
    assert refused(native({"kind": "logged_in"})).path == "user_id"


def test_a_placeholder_is_left_out_where_another_id_stays_and_refused_where_none_does() -> None:
    item = {"event": "Seen", "userId": "undefined", "anonymousId": "a-1"}
    admitted = taken(segment("track", item))
    assert admitted.touchpoint.leaves == (leaf("anonymous", "a-1"),)
    assert admitted.personal["left_out"] == {"userId": "undefined"}
    assert refused(segment("track", {"event": "Seen", "userId": "null"})).path == "userId"
    assert refused(native({"kind": "logged_in", "user_id": "null", "anonymous_id": "a-1"})).path == "user_id"
    assert refused(native({"kind": "logged_in", "user_id": "u", "email": "nobody"})).path == "email"


def test_an_alias_of_a_secret_key_joins_users() -> None:
    item = {"userId": "new", "previousId": "old", "messageId": "m-1", "timestamp": NOW - 5}
    link = segment("alias", item, SECRET_SENDER)
    assert isinstance(link, AdmittedLink)
    assert {link.command.a, link.command.b} == {leaf("user", "new"), leaf("user", "old")}
    assert link.command.a < link.command.b
    assert (link.command.alias, link.command.operator, link.command.occurred_at) == (True, False, NOW - 5)
    assert link.command.id == touchpoint_id("m-1")
    assert link.touchpoint is not None
    assert link.touchpoint.touchpoint.leaves == (leaf("user", "new"), leaf("anonymous", "old"))


def test_an_alias_of_a_public_key_ties_an_anonymous_id_and_no_user() -> None:
    admitted = taken(segment("alias", {"userId": "new", "previousId": "old"}, PUBLIC_SENDER))
    assert admitted.touchpoint.leaves == (leaf("user", "new"), leaf("anonymous", "old"))


def test_an_alias_to_itself_ties_nothing() -> None:
    admitted = taken(segment("alias", {"userId": "u1", "previousId": "u1"}, SECRET_SENDER))
    assert admitted.touchpoint.leaves == (leaf("user", "u1"),)
    for missing in ("userId", "previousId"):
        item = {"userId": "a", "previousId": "b", "anonymousId": "c"}
        del item[missing]
        assert refused(segment("alias", item)).path == missing


def test_history_is_marked_by_secret_keys_only() -> None:
    item = {"kind": "logged_in", "user_id": "u", "id": "1", "import_id": "i-1"}
    assert taken(native(item)).import_id == "i-1"
    assert refused(native(item, PUBLIC_SENDER)).path == "import_id"


# --- dedup ---------------------------------------------------------------------------------------------------


def test_the_clients_id_is_the_id() -> None:
    uuid = "7c1f7e0e-5a0d-4a63-9f9e-0c0a2c7c8d01"
    assert taken(native({"kind": "logged_in", "user_id": "u", "id": uuid})).touchpoint.id.hex() == uuid.replace("-", "")
    by_number = taken(native({"kind": "logged_in", "user_id": "u", "id": 17}))
    assert by_number.touchpoint.id == touchpoint_id("17")
    assert by_number.deduplicable


def test_without_an_id_the_event_as_sent_is_hashed_and_sending_it_again_later_changes_nothing() -> None:
    item = {"event": "Seen", "userId": "u", "timestamp": "2026-03-21T09:29:59Z"}
    first = taken(segment("track", {**item, "sentAt": NOW - 5}))
    again = taken(segment("track", {**item, "sentAt": NOW + 5}))
    other = taken(segment("track", {**item, "properties": {"n": 1}}))
    assert first.touchpoint.id == again.touchpoint.id != other.touchpoint.id
    assert first.deduplicable


def test_with_neither_id_nor_time_a_retry_cannot_be_told() -> None:
    item = {"kind": "logged_in", "user_id": "u"}
    first, again = taken(native(item)), taken(native(item))
    assert not first.deduplicable
    assert first.touchpoint.id != again.touchpoint.id


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "path", "word"),
    [
        ({"kind": "logged_in", "user_id": "u", "user": "x"}, "user", "did you mean user_id?"),
        ({"user_id": "u"}, "kind", "missing"),
        ({"kind": 3, "user_id": "u"}, "kind", "Expected str"),
        ({"kind": "pageviewed", "user_id": "u"}, "kind", "page_viewed"),
        ({"kind": "logged_in", "user_id": True}, "user_id", "Expected"),
        ({"kind": "logged_in", "user_id": "u", "properties": []}, "properties", "Expected object"),
        ({"kind": "logged_in", "user_id": "u", "channel": "webb"}, "channel", "web"),
        ({"kind": "logged_in", "user_id": "u", "occurred_at": "soon"}, "occurred_at", "ISO 8601"),
        ({"kind": "custom", "user_id": "u"}, "name", "missing"),
        ({"kind": "logged_in", "user_id": "u", "name": "x"}, "name", "custom"),
        ({"kind": "purchased", "user_id": "u", "properties": {"amount": 3}}, "properties.currency", "currency"),
        ({"kind": "survey_answered", "user_id": "u", "properties": {"metric": "csat", "score": 9}}, "properties.score",
         "1..5"),
        ({"kind": "logged_in", "user_id": "u", "id": "x" * 513}, "id", "512"),
        ({"kind": "logged_in", "user_id": "x" * 513}, "user_id", "512"),
        ({"kind": "custom", "user_id": "u", "name": "é" * 129}, "name", "256"),
        ({"kind": "logged_in", "identifiers": {"Zen Desk": "1"}}, "kind", "provider"),
        ({"kind": "logged_in", "user_id": "u", "properties": {"a": "x\0"}}, "properties.a", "NUL"),
        ({"kind": "logged_in", "user_id": "u", "properties": {"a": [1, {"b": 2**64}]}}, "properties.a[1].b", "64-bit"),
        ({"kind": "logged_in", "user_id": "u", "properties": {"a": "\ud800"}}, "properties.a", "surrogate"),
        ({"kind": "logged_in", "user_id": "u", "properties": {"a": float("nan")}}, "properties.a", "number"),
        ([], "$", "object"), (None, "$", "object"), ("x", "$", "object"),
    ],
)  # fmt: skip
def test_a_refusal_names_path_and_reason(item: Any, path: str, word: str) -> None:
    result = refused(native(item))
    assert result.path == path
    assert word in result.reason
    assert result.item


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"userId": "u"}, "event"),
        ({"event": 7, "userId": "u"}, "event"),
        ({"event": "Seen", "userId": {}}, "userId"),
        ({"event": "Seen", "userId": "u", "properties": "x"}, "properties"),
        ({"event": "Seen", "userId": "u", "context": []}, "context"),
        ({"event": "Seen", "userId": "u", "context": {"traits": 1}}, "context.traits"),
        ({"event": "Seen", "userId": "u", "messageId": {}}, "messageId"),
        ({"event": "Seen", "userId": "u", "timestamp": "x"}, "timestamp"),
        ({"event": "Seen", "userId": "u", "timestamp": NOW, "sentAt": []}, "sentAt"),
        ({"event": "Order Completed", "userId": "u", "properties": {"total": "x", "currency": "EUR"}},
         "properties.total"),
    ],
)  # fmt: skip
def test_refusals_of_segment_calls(item: Any, path: str) -> None:
    assert refused(segment("track", item)).path == path
    assert refused(segment("group", {"userId": "u"})).path == "groupId"


def test_a_refusal_quotes_nothing_personal() -> None:
    for item in (
        {"kind": "logged_in", "user_id": "u", "sara@example.com": 1},
        {"kind": "survey_answered", "user_id": "u", "properties": {"metric": "csat", "score": "Sara Canary"}},
        {"kind": "survey_answered", "user_id": "u", "properties": {"metric": "csat", "score": "Sara Canary " * 9}},
        {"kind": "survey_answered", "user_id": "u", "properties": {"metric": "csat", "score": "a'b\"Sara\"c'd Canary"}},
        {"kind": "purchased", "user_id": "u", "properties": {"amount": 1, "currency": {"firstName": "Canary"}}},
        {"kind": "logged_in", "user_id": "<sara canary>"},
        {"kind": "logged_in", "user_id": "u", "properties": {"+989123456789": "\0"}},
        {"kind": "sara@example.com", "user_id": "u"},
    ):
        result = refused(native(item))
        said = f"{result.path} {result.reason}".lower()
        assert not any(word in said for word in ("sara", "canary", "98912")), said


def test_limits_hold_at_their_edge() -> None:
    def nested(depth: int) -> dict[str, Any]:
        """An item whose containers nest `depth` deep."""
        inner: dict[str, Any] = {}
        for _ in range(depth - 2):
            inner = {"a": inner}
        return {"kind": "logged_in", "user_id": "u", "properties": inner}

    taken(native(nested(32)))
    assert refused(native(nested(33))).code == "too_deep"
    wide: dict[str, Any] = {"kind": "logged_in", "user_id": "u", "properties": {f"k{n}": n for n in range(256)}}
    taken(native(wide))
    wide["properties"]["one more"] = 1
    assert (refused(native(wide)).code, refused(native(wide)).path) == ("too_many_keys", "properties")
    fits = len(msgspec.json.encode(wide))
    assert refused(native(wide, limits=Limits(item_bytes=fits - 1))).code == "too_large"
    taken(native(wide, limits=Limits(item_bytes=fits, object_keys=257)))


def test_the_batchs_context_counts_with_every_item() -> None:
    item = {"event": "Seen", "userId": "u"}
    assert refused(segment("track", item, context={"a": "x" * 33_000})).code == "too_large"
    assert refused(segment("track", item, context={"a": "\0"})).path == "context.a"


# --- the native format's documentation ------------------------------------------------------------------------


def test_every_documented_example_is_admitted() -> None:
    for item in EXAMPLES.values():
        taken(native(item, arrival=ARRIVAL))


def test_the_schema_documents_every_field() -> None:
    schema = touchpoint_schema()["NativeTouchpoint"]
    assert set(schema["properties"]) == FIELDS
    assert schema["required"] == ["kind"]
    assert schema["additionalProperties"] is False
    assert all(field.get("description") for field in schema["properties"].values())


def test_a_source_is_not_part_of_an_id_but_the_workspace_is_of_a_leaf() -> None:
    other = Sender("second", "site", PUBLIC, PUBLIC_SENDER.leaf_secret)
    item = {"kind": "logged_in", "user_id": "u", "id": "1"}
    here, there = taken(native(item)).touchpoint, taken(native(item, other)).touchpoint
    assert here.id == there.id
    assert here.leaves != there.leaves
    assert derived_id("touchpoint", "1") == here.id
