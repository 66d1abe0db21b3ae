"""The profile is a commutative monoid: order, splits, merges and copies never show in its bytes."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Touchpoint
from shared.profile import Profile, bad_experience, decode, encode, fold, merge, money, new, purchases, summary
from tests.builders import NOON_MS, a_leaf, a_touchpoint
from tests.property.strategies import histories, leaves, moments, touchpoints, trusts

History = list[tuple[Touchpoint, int]]


def folded(history: History) -> Profile:
    profile = new()
    for touchpoint, trust in history:
        fold(profile, touchpoint, "shop", trust)
    return profile


def merged_as_tree(parts: list[Profile], dice: random.Random) -> Profile:
    parts = [*parts, new()]
    while len(parts) > 1:
        dice.shuffle(parts)
        parts.append(merge(parts.pop(), parts.pop()))
    return parts[0]


@settings(max_examples=400)
@given(histories, st.randoms(use_true_random=False))
def test_order_does_not_show(history: History, dice: random.Random) -> None:
    shuffled = list(history)
    dice.shuffle(shuffled)
    assert encode(folded(shuffled)) == encode(folded(history))


@settings(max_examples=400)
@given(histories, st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_split_and_merge_tree_gives_the_same_bytes(history: History, ways: int, dice: random.Random) -> None:
    parts: list[History] = [[] for _ in range(ways)]
    for item in history:
        dice.choice(parts).append(item)
    assert encode(merged_as_tree([folded(part) for part in parts], dice)) == encode(folded(history))


@given(histories, histories, histories)
def test_merge_is_associative_commutative_and_has_a_neutral_element(a: History, b: History, c: History) -> None:
    one, two, three = folded(a), folded(b), folded(c)
    assert encode(merge(one, two)) == encode(merge(two, one))
    assert encode(merge(merge(one, two), three)) == encode(merge(one, merge(two, three)))
    assert encode(merge(one, new())) == encode(merge(new(), one)) == encode(one)


@given(histories, histories, histories)
def test_merge_is_pure_and_shares_nothing_that_can_change(a: History, b: History, more: History) -> None:
    one, two = folded(a), folded(b)
    before = encode(one), encode(two)
    both = merge(one, two)
    for touchpoint, trust in more:
        fold(both, touchpoint, "shop", trust)
    assert (encode(one), encode(two)) == before
    assert encode(both) == encode(folded([*a, *b, *more]))


@given(histories)
def test_bytes_round_trip(history: History) -> None:
    profile = folded(history)
    data = encode(profile)
    again = decode(data)
    assert again == profile
    assert encode(again) == data
    assert summary(again, NOON_MS) == summary(profile, NOON_MS)


@given(histories, histories)
def test_folding_goes_on_from_decoded_bytes(a: History, b: History) -> None:
    profile = decode(encode(folded(a)))
    for touchpoint, trust in b:
        fold(profile, touchpoint, "shop", trust)
    assert encode(profile) == encode(folded([*a, *b]))


KEYED = ("purchased", "refunded", "ticket_opened", "call_made", "complained", "email_opened", "subscription_started")


@given(st.lists(touchpoints(KEYED), max_size=8), st.integers(1, 3))
def test_reports_of_one_thing_repeated_change_nothing(history: History, times: int) -> None:
    keyed = [(t, trust) for t, trust in history if any(name.endswith("_id") for name in t.properties)]
    keyed = [(t, trust) for t, trust in keyed if t.kind != "email_opened" or "message_id" in t.properties]
    assert encode(folded(keyed * (times + 1))) == encode(folded(keyed))


@given(st.lists(st.tuples(moments, leaves, trusts, st.integers(0, 900)), min_size=1, max_size=5))
def test_one_order_from_many_sources_counts_once(reports: list[tuple[int, bytes, int, int]]) -> None:
    history = [
        (a_touchpoint("purchased", at=at, leaf=leaf, order_id="7", amount=amount, currency="EUR", id=f"{n}"), trust)
        for n, (at, leaf, trust, amount) in enumerate(reports)
    ]
    profile = folded(history)
    (purchase,) = purchases(profile)
    assert (purchase.at, purchase.leaf) == min((at, leaf) for at, leaf, _, _ in reports)
    assert purchase.key == "order:7"
    assert purchase.trust == max(trust for _, _, trust, _ in reports)
    assert money(profile) == {"EUR": purchase.amount_minor}
    best = max((trust, at) for at, _, trust, _ in reports)
    assert purchase.amount_minor in [amount * 100 for at, _, trust, amount in reports if (trust, at) == best]


@given(histories)
def test_reading_never_fails_and_never_changes_the_state(history: History) -> None:
    profile = folded(history)
    before = encode(profile)
    shown = summary(profile, NOON_MS)
    assert bad_experience(profile) == sorted(bad_experience(profile), key=lambda bad: bad.at)
    assert (shown["first_at"], shown["last_at"]) == (profile.first_at, profile.last_at)
    assert encode(profile) == before


@given(histories)
def test_first_and_last_are_the_bounds_of_all_times(history: History) -> None:
    times = [touchpoint.occurred_at for touchpoint, _ in history]
    profile = folded(history)
    assert (profile.first_at, profile.last_at) == (min(times, default=None), max(times, default=None))


def test_untrusted_reports_cannot_move_an_order_for_who_asks_for_trust() -> None:
    shop = a_touchpoint("purchased", at=NOON_MS, order_id="7", amount=10, currency="EUR", leaf=a_leaf("a"))
    forged = a_touchpoint("purchased", at=NOON_MS - 5, order_id="7", amount=1, currency="EUR", leaf=a_leaf("b", 4))
    cancelled = a_touchpoint("refunded", at=NOON_MS + 5, order_id="7")
    profile = folded([(shop, 2), (forged, 0), (cancelled, 0)])
    assert purchases(profile) == []
    (purchase,) = purchases(profile, trust_min=2)
    assert (purchase.at, purchase.leaf, purchase.amount_minor) == (NOON_MS, a_leaf("a"), 1000)
