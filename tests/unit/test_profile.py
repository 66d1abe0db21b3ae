"""What a profile says of a customer: orders, money, tickets, answers, subscriptions, counts."""

from typing import Any

import pytest

from shared.errors import NewerVersion, Poison
from shared.events import Touchpoint
from shared.profile import (
    COMPONENTS,
    Profile,
    active_days,
    activity,
    bad_experience,
    calls,
    counts,
    decode,
    encode,
    fold,
    messages,
    money,
    new,
    purchases,
    subscription,
    summary,
    surveys,
    tickets,
    traits,
)
from shared.vocabulary import KINDS
from tests.builders import DAY_MS, NOON_MS, a_leaf, a_touchpoint

DAY = NOON_MS // DAY_MS


def a_profile(*history: Touchpoint, trust: int = 2) -> Profile:
    profile = new()
    for touchpoint in history:
        fold(profile, touchpoint, "shop", trust)
    return profile


def bought(order: str, amount: float, at: int = NOON_MS, currency: str = "EUR") -> Touchpoint:
    return a_touchpoint("purchased", at=at, order_id=order, amount=amount, currency=currency)


def test_an_empty_profile_says_nothing() -> None:
    shown = summary(new(), NOON_MS)
    assert (shown["first_at"], shown["last_at"], shown["counts"], shown["money"]) == (None, None, {}, {})
    assert (new().first_at, new().last_at, activity(new()), subscription(new())) == (None, None, [], None)


def test_one_page_view_is_small() -> None:
    assert len(encode(a_profile(a_touchpoint()))) <= 100


def test_keyless_behaviour_is_counted_per_kind_and_channel() -> None:
    profile = a_profile(a_touchpoint(id="1"), a_touchpoint(id="2", channel="app"), a_touchpoint("searched", query="q"))
    assert counts(profile) == {"page_viewed": {"app": 1, "web": 1}, "searched": {"web": 1}}


def test_orders_and_money_per_currency() -> None:
    profile = a_profile(bought("1", 10), bought("2", 5, NOON_MS - 1), bought("3", 700, currency="IRR"))
    assert [purchase.key for purchase in purchases(profile)] == ["order:2", "order:1", "order:3"]
    assert money(profile) == {"EUR": 1500, "IRR": 70000}
    assert counts(profile) == {"purchased": {"web": 3}}


def test_a_purchase_without_an_order_id_goes_by_its_own_id() -> None:
    one = a_touchpoint("purchased", amount=1, currency="EUR", leaf=a_leaf("x", 4))
    (purchase,) = purchases(a_profile(one))
    assert (purchase.key, purchase.leaf) == ("id:" + one.id.hex(), a_leaf("x", 4))


@pytest.mark.parametrize(
    ("refunds", "stands", "left"),
    [
        ([{"refund_id": "r", "amount": 4}], True, 600),
        ([{"refund_id": "r", "amount": 4}, {"refund_id": "r", "amount": 4}], True, 600),
        ([{"refund_id": "r", "amount": 4}, {"refund_id": "s", "amount": 4}], True, 200),
        ([{"refund_id": "r", "amount": 10}], False, 0),
        ([{"amount": 12}], False, 0),
        ([{"refund_id": "r"}], False, 0),
        ([{"refund_id": "r"}, {"refund_id": "r", "amount": 4}], True, 600),
    ],
)
def test_refunds_take_back_once_each(refunds: list[dict[str, Any]], stands: bool, left: int) -> None:
    back = [
        a_touchpoint("refunded", id=f"{n}", order_id="1", at=NOON_MS + n, **{"currency": "EUR", **refund})
        for n, refund in enumerate(refunds)
    ]
    for history in ([bought("1", 10), *back], [*back, bought("1", 10)]):
        profile = a_profile(*history)
        assert [purchase.key for purchase in purchases(profile)] == (["order:1"] if stands else [])
        assert money(profile).get("EUR", 0) == left


def test_a_refund_waits_for_its_order_and_one_without_any_is_taken_off_its_currency() -> None:
    waiting = a_touchpoint("refunded", order_id="9", amount=4, currency="EUR")
    assert money(a_profile(waiting)) == {}
    loose = [
        a_touchpoint("refunded", id=f"{n}", refund_id="r", amount=4, currency="EUR", at=NOON_MS + n) for n in range(2)
    ]
    assert money(a_profile(bought("1", 10), *loose)) == {"EUR": 600}


def test_a_report_without_an_amount_does_not_hide_one_with() -> None:
    profile = a_profile(bought("1", 10), a_touchpoint("purchased", order_id="1", at=NOON_MS + 5))
    assert (purchases(profile)[0].amount_minor, purchases(profile)[0].currency) == (1000, "EUR")


def test_tickets_open_resolve_and_reopen() -> None:
    opened = a_touchpoint("ticket_opened", ticket_id="5", channel="email")
    resolved = a_touchpoint("ticket_resolved", ticket_id="5", at=NOON_MS + 10)
    reopened = a_touchpoint("ticket_reopened", ticket_id="5", at=NOON_MS + 20)
    states = [a_profile(*history) for history in ([opened], [resolved, opened], [reopened, resolved, opened])]
    assert [tickets(profile)[0][1].is_open for profile in states] == [True, False, True]
    assert summary(states[2], NOON_MS)["tickets"] == {"count": 1, "open": 1, "reopened": 1}
    assert [(bad.reason, bad.key, bad.at) for bad in bad_experience(states[2])] == [
        ("ticket_reopened", "ticket:5", NOON_MS + 20)
    ]


def test_the_latest_16_reopenings_are_kept() -> None:
    reopenings = [a_touchpoint("ticket_reopened", ticket_id="5", at=NOON_MS + n) for n in range(20)]
    forward, backward = a_profile(*reopenings), a_profile(*reversed(reopenings))
    assert encode(forward) == encode(backward)
    assert tickets(forward)[0][1].reopened_at == tuple(NOON_MS + n for n in range(4, 20))


def test_one_call_from_two_sources() -> None:
    ringing = a_touchpoint("call_made", call_id="c", direction="in")
    ended = a_touchpoint("call_made", call_id="c", direction="in", answered=True, duration=90, at=NOON_MS + 90_000)
    ((key, call),) = calls(a_profile(ended, ringing))
    assert (key, call.at, call.answered, call.duration_seconds) == ("call:c", NOON_MS, True, 90)


def test_survey_answers_by_their_last_report() -> None:
    def answer(score: int, at: int, metric: str = "csat", response: str = "a") -> Touchpoint:
        return a_touchpoint("survey_answered", metric=metric, score=score, response_id=response, at=at)

    profile = a_profile(answer(2, NOON_MS), answer(5, NOON_MS + 1), answer(6, NOON_MS, "nps", "b"))
    assert [(key, survey.metric, survey.score) for key, survey in surveys(profile)] == [
        ("response:b", "nps", 6),
        ("response:a", "csat", 5),
    ]
    assert summary(profile, NOON_MS)["surveys"]["csat"] == {
        "count": 1,
        "latest": 5,
        "latest_at": NOON_MS + 1,
        "mean": 5.0,
    }
    assert [(bad.reason, bad.score) for bad in bad_experience(profile)] == [("nps", 6)]


def test_bad_experience_knows_complaints_and_intended_cancellations() -> None:
    history = [
        a_touchpoint("complained", complaint_id="k", at=NOON_MS + 3),
        a_touchpoint("complained", complaint_id="k", at=NOON_MS + 1),
        a_touchpoint("cancellation_intended", at=NOON_MS + 2),
    ]
    assert [(bad.reason, bad.key, bad.at) for bad in bad_experience(a_profile(*history))] == [
        ("complaint", "complaint:k", NOON_MS + 1),
        ("cancellation_intended", "", NOON_MS + 2),
    ]


def test_messages_count_once_with_an_id_and_as_they_come_without() -> None:
    history = [
        a_touchpoint("email_opened", id=f"{n}", message_id="m", campaign="spring", at=NOON_MS - n) for n in range(3)
    ]
    loose = [a_touchpoint("email_opened", id=f"loose {n}") for n in range(2)]
    profile = a_profile(*history, *loose, a_touchpoint("email_delivered", message_id="m", at=NOON_MS - 9))
    assert counts(profile) == {"email_delivered": {"email": 1}, "email_opened": {"email": 3}}
    ((key, message),) = messages(profile)
    assert (key, message.first("email_opened"), message.first("email_clicked")) == ("m", NOON_MS - 2, None)
    assert message.campaign == "spring"


def test_a_subscription_runs_until_its_term_ends() -> None:
    started = a_touchpoint("subscription_started", subscription_id="s", plan="pro", ends_at=NOON_MS + DAY_MS)
    renewed = [
        a_touchpoint("subscription_renewed", subscription_id="s", at=NOON_MS + n, ends_at=NOON_MS + 2 * DAY_MS)
        for n in (1, 2)
    ]
    cancelled = a_touchpoint("subscription_cancelled", subscription_id="s", at=NOON_MS + 5)
    known = subscription(a_profile(cancelled, *renewed, started))
    assert known is not None
    assert (known.ends_at, known.is_cancelled, len(known.renewed_days)) == (NOON_MS + 2 * DAY_MS, True, 1)
    assert [known.is_active(NOON_MS + n * DAY_MS) for n in (0, 1, 2)] == [True, True, False]


def test_a_subscription_without_a_term_ends_when_cancelled() -> None:
    started, cancelled = a_touchpoint("subscription_started"), a_touchpoint("subscription_cancelled", at=NOON_MS + 5)
    again = a_touchpoint("subscription_started", at=NOON_MS + 9)
    ends = [
        subscription(a_profile(*history)) for history in ([started], [started, cancelled], [started, cancelled, again])
    ]
    assert [known.ends_at if known else "none" for known in ends] == [None, NOON_MS + 5, None]


def test_traits_by_their_last_writer() -> None:
    old = a_touchpoint("identified", traits={"plan": "free", "city": "Yazd"})
    newer = a_touchpoint("identified", traits={"plan": "pro", "city": None}, at=NOON_MS + 1)
    profile = a_profile(newer, old, a_touchpoint("grouped", group_id="acme"))
    assert traits(profile) == {"group_id": "acme", "plan": "pro"}


def test_writers_of_one_id_and_time_agree_in_any_order() -> None:
    two = [a_touchpoint("identified", id="same", traits={"plan": plan}) for plan in ("free", "pro")]
    assert encode(a_profile(*two)) == encode(a_profile(*reversed(two)))


def test_activity_counts_keyed_facts_once_and_nothing_the_house_did() -> None:
    profile = a_profile(
        a_touchpoint(),
        bought("1", 5, NOON_MS - DAY_MS),
        bought("1", 5, NOON_MS),
        a_touchpoint("email_delivered", at=NOON_MS - 2 * DAY_MS),
        a_touchpoint("ticket_replied", ticket_id="5", by="agent", at=NOON_MS - 3 * DAY_MS),
        a_touchpoint("call_made", direction="out", at=NOON_MS - 4 * DAY_MS),
        a_touchpoint(at=NOON_MS - 400 * DAY_MS),
    )
    assert activity(profile)[1:] == [(DAY - 1, 1, 1), (DAY, 1, 1)]
    assert activity(profile)[0][1:] == (8, 1)
    assert active_days(profile, NOON_MS, 30) == 2
    assert active_days(profile, NOON_MS + 30 * DAY_MS, 30) == 0


def test_an_unknown_kind_is_kept_and_counted() -> None:
    stranger = Touchpoint(b"1" * 16, 0, "teleported", "web", (a_leaf(),), NOON_MS, None, {}, {})
    assert counts(a_profile(stranger)) == {"teleported": {"web": 1}}


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("purchased", {"amount_minor": "ten"}),
        ("purchased", {"amount_minor": 2**70, "currency": "EUR"}),
        ("purchased", {"order_id": 7}),
        ("survey_answered", {"metric": "csat"}),
        ("survey_answered", {"metric": "joy", "score": 1}),
        ("identified", {"traits": 3}),
        ("email_opened", {"message_id": [1]}),
    ],
)
def test_a_broken_touchpoint_is_poison(kind: str, properties: dict[str, object]) -> None:
    broken = Touchpoint(b"1" * 16, 0, kind, "web", (a_leaf(),), NOON_MS, None, dict(properties), {})
    with pytest.raises(Poison):
        a_profile(broken)


def test_a_touchpoint_without_a_leaf_is_poison() -> None:
    with pytest.raises(Poison):
        a_profile(Touchpoint(b"1" * 16, 0, "purchased", "web", (), NOON_MS, None, {}, {}))


def test_bytes_that_are_no_state_and_newer_states_are_told_apart() -> None:
    for broken in (b"", b"\x01", b"\x01\xff", b"\x01\x91\x01"):
        with pytest.raises(ValueError, match="state"):
            decode(broken)
    with pytest.raises(NewerVersion):
        decode(b"\xff" + encode(new())[1:])


def test_every_kind_is_folded_by_behaviour_and_names_are_stable() -> None:
    behaviour = COMPONENTS[0]
    assert set(behaviour.folds) == set(KINDS)
    assert [component.name for component in COMPONENTS] == [
        "behaviour", "orders", "tickets", "calls", "complaints", "surveys", "messages", "subscriptions", "traits",
    ]  # fmt: skip
