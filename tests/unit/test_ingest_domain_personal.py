"""Nothing personal stays readable, and what is not personal does."""

from typing import Any

import msgspec
import pytest

from services.ingest.domain.traces import before_query, is_suspect, is_url, looks_personal
from tests.support.door import NOW, PUBLIC_SENDER, SECRET_SENDER, native, segment, taken


@pytest.mark.parametrize(
    "text",
    [
        "sara@example.com", "write to Sara@Example.com please", "sara%40example.com", "کاربر@مثال.ایران", "sara @ home",
        "+98 912 345 6789", "0912-345-6789", "۰۹۱۲۳۴۵۶۷۸۹", "call 0912 345 6789 now", "(202) 555-0123", "202.555.0123",
        "01.23.45.67.89", "12025550123", "tel:+12025550123", "192.168.1.100", "from 192.168.1.100", "2001:db8::1",
        "fe80:0:0:0:1:2:3:4", "aa:bb:cc:dd:ee:ff", "sara＠example.com",
    ],
)  # fmt: skip
def test_traces_of_a_person(text: str) -> None:
    assert is_suspect(text)
    assert looks_personal(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "Sale", "p-17", "2024-01-02", "2024-01-02 10:00:00", "2024-01-02T03:04:05.123Z", "12:30:45", "19.90",
        "12000000", "10.15.7", "120.0.6099.129", "550e8400-e29b-41d4-a716-446655440000", "GA1.2.1234567890.1234567890",
        "Europe/Berlin", "@handle", "100%", "1920x1080", "npm:next-1.84.3", "کفش قرمز", "01-02-2024",
    ],
)  # fmt: skip
def test_no_traces_of_a_person(text: str) -> None:
    assert not looks_personal(text)


def test_addresses_of_pages() -> None:
    assert is_url("https://shop.example/a?b=1")
    assert is_url("/a?b=1")
    assert is_url("?b=1")
    assert not is_url("Sale? Yes!")
    assert before_query("https://shop.example/a;v=1?b#c") == "https://shop.example/a"


def parted(item: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    admitted = taken(native({"kind": "custom", "name": "Seen", "user_id": "customer-1001", **item}))
    return admitted.touchpoint.properties, admitted.touchpoint.context, admitted.personal


def test_a_page_keeps_its_path_and_campaign() -> None:
    properties, context, personal = parted(
        {
            "properties": {
                "url": "https://shop.example/sale?utm_source=mail&utm_campaign=Spring%20sale&e=s@x.example#top"
            }
        }
    )
    assert properties == {"url": "https://shop.example/sale"}
    assert context == {"campaign": {"source": "mail", "name": "Spring sale"}}
    assert personal["url"].endswith("e=s@x.example#top")


def test_a_person_in_the_campaign_or_path_is_not_kept() -> None:
    properties, context, personal = parted({"properties": {"url": "/u/sara@example.com/x?utm_term=sara%40example.com"}})
    assert properties == {}
    assert context == {}
    assert personal["url"] == "/u/sara@example.com/x?utm_term=sara%40example.com"


def test_personal_names_at_any_depth_and_in_any_spelling() -> None:
    properties, _, personal = parted(
        {"properties": {"order": {"billingAddress": {"street": "1 Road"}, "Shipping Phone": "1", "lines": [
            {"First-Name": "Sara", "sku": "1"}]}, "stars": 4, "name": "Sara", "product": {"name": "Shoe"}}}
    )  # fmt: skip
    assert properties == {"order": {"lines": [{"sku": "1"}]}, "stars": 4, "product": {"name": "Shoe"}}
    assert personal["text"] == {
        "order.billingAddress": {"street": "1 Road"}, "order.Shipping Phone": "1", "order.lines[0].First-Name": "Sara",
        "name": "Sara",
    }  # fmt: skip


def test_free_text_of_the_vocabulary_is_sealed() -> None:
    admitted = taken(
        native({"kind": "complained", "user_id": "u", "properties": {"comment": "broken", "subject": "x"}})
    )
    assert admitted.touchpoint.properties == {}
    assert admitted.personal["text"] == {"comment": "broken", "subject": "x"}


def test_an_identifier_is_not_repeated_in_the_clear() -> None:
    properties, context, personal = parted(
        {"properties": {"author": "customer-1001", "account_id": "customer-1001", "lines": ["customer-1001", "ok"],
                        "path": "/of/customer-1001/cart", "for customer-1001": 1, "words": "hello customer-1001"},
         "context": {"who": "customer-1001"}}
    )  # fmt: skip
    assert properties["lines"] == ["ok"]
    assert properties["account_id"].startswith("h_")
    assert properties.keys() == {"lines", "account_id"}
    assert context == {}
    assert personal["context"] == {"who": "customer-1001"}


def test_a_business_key_is_the_same_from_every_source() -> None:
    item = {"kind": "subscription_started", "properties": {"subscription_id": "account-77"}}
    for who in ("account-77", "other"):
        assert taken(native({**item, "user_id": who})).touchpoint.properties == {"subscription_id": "account-77"}


def test_an_id_that_is_an_address_has_one_stand_in_per_workspace() -> None:
    item = {"kind": "email_opened", "properties": {"message_id": "<77@mail.example>"}}
    first = taken(native({**item, "user_id": "u"})).touchpoint.properties["message_id"]
    second = taken(native({**item, "user_id": "v"}, PUBLIC_SENDER)).touchpoint.properties["message_id"]
    assert first == second
    assert first.startswith("h_")


def test_traits_are_parted() -> None:
    traits = {"name": "Sara", "plan": "pro", "company": {"name": "Acme", "phone": "1"}, "id": 7, "motto": "a@b.example"}
    admitted = taken(native({"kind": "identified", "user_id": "u", "traits": traits}))
    assert admitted.touchpoint.properties == {"traits": {"plan": "pro", "company": {"name": "Acme"}}}
    assert admitted.personal["traits"] == {"name": "Sara", "company.phone": "1", "id": 7, "motto": "a@b.example"}


def test_a_groups_name_is_no_persons() -> None:
    item = {"userId": "u", "groupId": "acme", "traits": {"name": "Acme", "email": "office@acme.example"}}
    admitted = taken(segment("group", item, SECRET_SENDER))
    assert admitted.touchpoint.properties == {"group_id": "acme", "traits": {"name": "Acme"}}
    assert admitted.personal["traits"] == {"email": "office@acme.example"}


def test_ip_and_browser_are_personal_and_the_connection_counts_for_browsers_only() -> None:
    item = {"event": "Seen", "userId": "u", "context": {"userAgent": "Mozilla/5.0", "locale": "en"}}
    public, server = taken(segment("track", item)), taken(segment("track", item, SECRET_SENDER))
    assert public.touchpoint.context == {"locale": "en"}
    assert (public.personal["ip"], public.personal["user_agent"]) == ("192.0.2.7", "Mozilla/5.0")
    assert "ip" not in server.personal
    item["context"] = {"ip": "198.51.100.9"}
    assert taken(segment("track", item)).personal["ip"] == "198.51.100.9"


def test_a_personal_name_of_an_event_is_sealed() -> None:
    admitted = taken(segment("track", {"event": "mail to sara@example.com", "userId": "u", "timestamp": NOW}))
    assert admitted.touchpoint.name == ""
    assert admitted.personal["name"] == "mail to sara@example.com"


def test_keys_that_are_personal_take_their_values_along() -> None:
    properties, _, personal = parted({"properties": {"sara@example.com": {"a": 1}, "n": {"+989123456789": 2}}})
    assert properties == {"n": {}}
    assert personal["text"] == {"sara@example.com": {"a": 1}, "n.+989123456789": 2}


def test_the_input_is_not_changed() -> None:
    item = {"kind": "custom", "name": "Seen", "user_id": "u", "traits": {"email": "s@x.example"},
            "properties": {"a": {"email": "s@x.example"}, "traits": {"phone": "1"}}}  # fmt: skip
    before = msgspec.msgpack.encode(item)
    taken(native(item))
    assert msgspec.msgpack.encode(item) == before


@pytest.mark.parametrize("piece", [":", ":x", "1 ", "1(", "+", "a@", "%40", "/", "1.1.", "((", "1-1("])
def test_long_texts_made_to_be_slow_are_answered(piece: str) -> None:
    """A pattern that costs the square of a text's length would take minutes here."""
    text = piece * (12_000 // len(piece))
    properties, _, personal = parted({"properties": {"a": text + "x", "b": text}})
    assert set(properties) | set(personal.get("text", {})) == {"a", "b"}
