"""The normaliser and the leaf hash: golden values for ever, one leaf for every spelling, placeholders refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidField
from shared.identifiers import NORMALISER_VERSION, PLACEHOLDERS, RANK_NAMES, RANKS, leaf_of, normalise, rank_of
from shared.ids import leaf_rank

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "identifiers.json").read_text())
SECRET = bytes.fromhex(GOLDEN["secret"])
KINDS = ["user", "email", "phone", "provider:zendesk", "anonymous"]


@pytest.mark.parametrize("case", GOLDEN["identifiers"], ids=lambda case: f"{case['kind']}-{case['value']!a}")
def test_golden_values_never_change(case: dict[str, str]) -> None:
    assert GOLDEN["normaliser_version"] == NORMALISER_VERSION
    found = normalise(case["kind"], case["value"], case["region"])
    assert found == case["normalised"]
    assert leaf_of(SECRET, GOLDEN["workspace"], case["kind"], found).hex() == case["leaf"]


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        ("phone", ["09121234567", "۰۹۱۲۱۲۳۴۵۶۷", "٠٩١٢ ١٢٣ ٤٥٦٧", "+98 912 123 4567", "0098-912-123-4567"]),
        ("email", ["ali@example.com", " ALI@Example.Com ", "ali@example.com.", "\u200eali @example.com"]),
        ("user", ["\u0639\u0644\u06cc ۱", "\u0639\u0644\u064a 1", " \u0639\u200c\u0644\u064a\u00a0\u00a0١ "]),
        ("email", ["info@مثال.ایران", "info@xn--mgbh0fb.xn--mgba3a4f16a"]),
    ],
)  # fmt: skip
def test_all_spellings_are_one_identifier(kind: str, spellings: list[str]) -> None:
    assert len({normalise(kind, spelling, "IR") for spelling in spellings}) == 1


def test_ids_keep_their_case_and_leading_zeros() -> None:
    assert normalise("user", "Ab") != normalise("user", "ab")
    assert normalise("user", "007") == "007"


def test_two_extensions_of_one_switchboard_are_two() -> None:
    assert normalise("phone", "021 88776655 ext 5", "IR") != normalise("phone", "021 88776655 ext 6", "IR")


@pytest.mark.parametrize("kind", ["user", "anonymous", "provider:zendesk"])
@pytest.mark.parametrize(
    "value",
    ["", " ", "\u200c", "0", "00", "null", "NULL", " Null ", "undefined", "None", "NaN", "anonymous", "[object Object]",
     "-", "-1", "...", "00000000-0000-0000-0000-000000000000", "۰", "{{ user.id }}", "${userId}", "%USER_ID%",
     "<user_id>", "true", "ｎｕｌｌ", "nu\u200dll"],
)  # fmt: skip
def test_placeholders_of_buggy_clients_are_refused(kind: str, value: str) -> None:
    with pytest.raises(InvalidField):
        normalise(kind, value)


@pytest.mark.parametrize("value", ["1", "10", "nullah", "nonesuch", "0x1", "anon-7f3a", "{8f14e45f-ceea-467f-a8a5}"])
def test_what_only_looks_like_a_placeholder_is_an_id(value: str) -> None:
    assert normalise("user", value) == value


@pytest.mark.parametrize(
    "value",
    ["ali", "ali@", "@example.com", "ali@localhost", "a@b@c.com", "ali reza@example.com", "ali@exa mple.com",
     "ali@-x.com", "ali@x..com", "ali@1.2.3.4", "<ali@example.com>", "null", "", "a" * 65 + "@example.com",
     "ali@" + "a" * 64 + ".com", "ali@" + "é" * 63 + ".com"],
)  # fmt: skip
def test_what_is_no_email_is_refused(value: str) -> None:
    with pytest.raises(InvalidField):
        normalise("email", value)


@pytest.mark.parametrize(
    ("value", "region", "reason"),
    [
        ("09121234567", "", "no region"),
        ("0098 912 123 4567", "", "no region"),
        ("09121234567", "ZZ", "international form"),
        ("hello", "IR", "not a phone"),
        ("12", "IR", "few"),
        ("555-2671", "US", "few"),
        ("000010", "IR", "few"),
        ("+98912123456789012", "", "phone"),
        ("+1 111 111 1111", "", "placeholder"),
        ("", "IR", "empty"),
    ],
)
def test_what_is_no_phone_is_refused(value: str, region: str, reason: str) -> None:
    with pytest.raises(InvalidField, match=reason):
        normalise("phone", value, region)


def test_bounds_and_broken_text() -> None:
    assert normalise("user", "a" * 512) == "a" * 512
    for value in ["a" * 513, "ی" * 257, "\ufdfa" * 30, "half \ud800"]:
        with pytest.raises(InvalidField):
            normalise("user", value)


def test_errors_name_the_path_the_caller_sent() -> None:
    with pytest.raises(InvalidField) as caught:
        normalise("email", "x", field="batch[3].traits.email")
    assert caught.value.field == "batch[3].traits.email"
    with pytest.raises(InvalidField) as caught:
        normalise("email", "x")
    assert caught.value.field == "email"


def test_kinds_and_ranks() -> None:
    assert [rank_of(kind) for kind in KINDS] == list(RANKS.values()) == [0, 1, 2, 3, 4]
    assert len(RANK_NAMES) == len(RANKS)
    for kind in ["", "provider", "provider:", "provider:Zendesk", "provider:a b", "User", "cookie"]:
        with pytest.raises(InvalidField, match="kind"):
            rank_of(kind)
    assert "null" in PLACEHOLDERS


def test_leaves_differ_by_everything_that_names_them() -> None:
    leaves = [
        leaf_of(SECRET, "main", "user", "1"),
        leaf_of(SECRET, "shop", "user", "1"),
        leaf_of(SECRET, "main", "user", "2"),
        leaf_of(SECRET, "main", "anonymous", "1"),
        leaf_of(SECRET, "main", "provider:a", "1"),
        leaf_of(SECRET, "main", "provider:b", "1"),
        leaf_of(bytes(32), "main", "user", "1"),
    ]
    assert len(set(leaves)) == len(leaves)
    assert [leaf_rank(leaf) for leaf in leaves] == [0, 0, 0, 4, 3, 3, 0]
    assert {len(leaf) for leaf in leaves} == {16}


def test_a_secret_of_another_length_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        leaf_of(b"short", "main", "user", "1")


@given(st.sampled_from(KINDS), st.text(max_size=60), st.sampled_from(["", "IR", "DE", "US"]))
def test_normalising_twice_changes_nothing(kind: str, value: str, region: str) -> None:
    try:
        once = normalise(kind, value, region)
    except InvalidField:
        return
    assert normalise(kind, once, region) == once
    assert 1 <= len(once.encode()) <= 512


@given(
    st.text(alphabet="abcXYZ019._+-é\u0130ßΣ\u064a۳", min_size=1, max_size=20),
    st.text(alphabet="abcXYZ019-.é\u0130ßΣ۳\u3002", min_size=1, max_size=20),
)
def test_normalising_an_email_twice_changes_nothing(local: str, domain: str) -> None:
    try:
        once = normalise("email", f"{local}@{domain}.Example")
    except InvalidField:
        return
    assert normalise("email", once) == once


@given(
    st.from_regex(r"[+0]?[0-9 ()-]{5,16}( ?(ext|x) ?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["IR", "DE", "US", "IT", "BR"]),
)
def test_normalising_a_phone_twice_changes_nothing(value: str, region: str) -> None:
    try:
        once = normalise("phone", value, region)
    except InvalidField:
        return
    assert normalise("phone", once) == once
