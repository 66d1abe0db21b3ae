"""The vocabulary: one form for what clients send, clear reasons for what they may not, and a current reference page."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import InvalidField
from shared.events import PUBLIC, SECRET
from shared.vocabulary import (
    CHANNELS,
    KINDS,
    business_key,
    fact_key,
    fact_ref,
    known_channel,
    known_kind,
    normalise,
    score_of,
    split_personal,
)
from shared.vocabulary.kinds import Kind
from shared.vocabulary.reference import reference
from tests.builders import a_leaf, a_touchpoint

EUR = {"currency": "EUR"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_example_is_accepted_and_stays_the_same_when_normalised_twice(kind: Kind) -> None:
    once = normalise(kind.name, kind.example)
    assert normalise(kind.name, once) == once
    assert kind.channel in CHANNELS


@pytest.mark.parametrize(
    ("sent", "minor"),
    [
        ({"amount": 39.8, **EUR}, 3980),
        ({"amount": "39.80", **EUR}, 3980),
        ({"amount": 0.1 + 0.2, **EUR}, 30),
        ({"total": 12, "currency": "eur"}, 1200),
        ({"revenue": 12, "currency": "JPY"}, 12),
        ({"value": "1.2345", "currency": "KWD"}, 1234),
        ({"amount_minor": 77, **EUR}, 77),
        ({"amount_minor": 77.0, "amount": 1, **EUR}, 77),
        ({"amount": 0, **EUR}, 0),
    ],
)
def test_money_becomes_minor_units(sent: dict[str, Any], minor: int) -> None:
    kept = normalise("purchased", sent)
    assert kept["amount_minor"] == minor
    assert kept["currency"] == kept["currency"].upper()
    assert "amount" not in kept


def test_an_amount_takes_the_default_currency_of_the_workspace() -> None:
    assert normalise("purchased", {"amount": 5}, "IRR") == {"amount_minor": 500, "currency": "IRR"}
    assert normalise("purchased", {"amount": 5, **EUR}, "IRR")["currency"] == "EUR"


def test_the_declared_name_wins_and_what_loses_stays_beside_it() -> None:
    kept = normalise("purchased", {"revenue": 10, "total": 12, "orderId": 7, "coupon": "SPRING", **EUR})
    assert kept == {"revenue": 10, "amount_minor": 1200, "order_id": "7", "coupon": "SPRING", "currency": "EUR"}
    assert normalise("purchased", {"total": 12, "revenue": 10, **EUR})["amount_minor"] == 1200


@pytest.mark.parametrize(
    ("kind", "sent", "path", "reason"),
    [
        ("purchased", {"amount": 5}, "properties.currency", "currency"),
        ("purchased", {"amount": 5, "currency": "XXL"}, "properties.currency", "ISO 4217"),
        ("purchased", {"amount": 5, "currency": "IRT"}, "properties.currency", "rial"),
        ("purchased", {"revenue": "ten", **EUR}, "properties.revenue", "decimal"),
        ("purchased", {"amount": -1, **EUR}, "properties.amount", "negative"),
        ("purchased", {"amount": float("nan"), **EUR}, "properties.amount", "finite"),
        ("purchased", {"amount": 10**15, **EUR}, "properties.amount", "2^53"),
        ("purchased", {"amount": True, **EUR}, "properties.amount", "number"),
        ("purchased", {"amount_minor": 1.5, **EUR}, "properties.amount_minor", "whole"),
        ("purchased", {"order_id": ""}, "properties.order_id", "characters"),
        ("purchased", {"order_id": ["1"]}, "properties.order_id", "text"),
        ("survey_answered", {"metric": "csat", "score": 6}, "properties.score", "1..5"),
        ("survey_answered", {"metric": "csat", "score": 0}, "properties.score", "1..5"),
        ("survey_answered", {"metric": "stars", "score": 3}, "properties.metric", "csat"),
        ("survey_answered", {"score": 3}, "properties.metric", "needs"),
        ("survey_answered", {"metric": "nps", "score": 7.5}, "properties.score", "whole"),
        ("ticket_reopened", {}, "properties.ticket_id", "needs"),
        ("call_made", {"direction": "up"}, "properties.direction", "in, out"),
        ("call_made", {"direction": "in", "answered": "maybe"}, "properties.answered", "true or false"),
        ("call_made", {"direction": "in", "duration": -1}, "properties.duration", "outside"),
        ("subscription_renewed", {"ends_at": "soon"}, "properties.ends_at", "ISO 8601"),
        ("identified", {"traits": [1]}, "properties.traits", "object"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path_and_reason(
    kind: str, sent: dict[str, Any], path: str, reason: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        normalise(kind, sent)
    assert refused.value.field == path
    assert reason in refused.value.reason


def test_friendly_forms() -> None:
    call = normalise("call_made", {"direction": "IN", "answered": "yes", "duration": "90", "callId": 12.0})
    assert call == {"direction": "in", "answered": True, "duration_seconds": 90, "call_id": "12"}
    survey = normalise("survey_answered", {"metric": "NPS", "score": "9", "comment": None})
    assert survey == {"metric": "nps", "score": 9}
    ends = [normalise("subscription_started", {"ends_at": at})["ends_at"] for at in ("2025-02-01", 1_738_368_000_000)]
    assert ends == [1_738_368_000_000] * 2


def test_the_input_is_not_changed() -> None:
    sent = {"total": 12, "orderId": 7, **EUR}
    normalise("purchased", sent)
    assert sent == {"total": 12, "orderId": 7, **EUR}


@pytest.mark.parametrize(
    ("kind", "hint"), [("page_view", "page_viewed"), ("Purchased", "purchased"), ("zzz", "custom")]
)
def test_an_unknown_kind_is_refused_with_the_nearest_one(kind: str, hint: str) -> None:
    for refuse in (known_kind, lambda name: normalise(name, {})):
        with pytest.raises(InvalidField, match=hint) as refused:
            refuse(kind)
        assert (refused.value.field, refused.value.code) == ("kind", "unknown_kind")


def test_channels_are_known_or_the_kind_s_own() -> None:
    assert known_channel("", "email_opened") == "email"
    assert known_channel("store", "purchased") == "store"
    with pytest.raises(InvalidField, match="fax"):
        known_channel("fax", "purchased")


def test_business_keys_tie_copies_together() -> None:
    order = {"order_id": "7"}
    assert business_key("purchased", order) == business_key("refunded", order) == "order:7"
    assert business_key("ticket_reopened", {"ticket_id": "5"}) == "ticket:5"
    assert business_key("purchased", {}) == business_key("page_viewed", order) == ""


def test_a_fact_reference_carries_key_score_and_trust() -> None:
    answer = a_touchpoint("survey_answered", metric="csat", score=2, response_id="a", leaf=a_leaf("b"))
    ref = fact_ref(answer, PUBLIC)
    assert (ref.key, ref.score, ref.trust, ref.leaf) == ("response:a", 2, PUBLIC, a_leaf("b"))
    assert (ref.id, ref.kind, ref.occurred_at, ref.channel) == (answer.id, answer.kind, answer.occurred_at, "survey")
    keyless = fact_ref(a_touchpoint("purchased"), SECRET)
    assert fact_key(ref) == "response:a"
    assert fact_key(keyless) == "id:" + keyless.id.hex()
    assert score_of("purchased", {"score": 3}) is None


def test_personal_data_is_parted_from_the_rest() -> None:
    kept, personal = split_personal("survey_answered", {"metric": "csat", "comment": "slow", "Email": "a@b.c"})
    assert (kept, personal) == ({"metric": "csat"}, {"comment": "slow", "Email": "a@b.c"})
    kept, personal = split_personal("identified", {"traits": {"plan": "pro", "firstName": "Sara", "phone": "1"}})
    assert kept == {"traits": {"plan": "pro"}}
    assert personal == {"traits": {"firstName": "Sara", "phone": "1"}}
    assert split_personal("product_viewed", {"name": "Shoe"}) == ({"name": "Shoe"}, {})


def test_no_business_key_is_personal() -> None:
    assert not [p for kind in KINDS.values() for p in kind.properties if p.key and p.personal]


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs/reference/touchpoints.md"
    assert page.read_text() == reference(), "run: python -m shared.vocabulary > docs/reference/touchpoints.md"
