"""Whatever comes, the door answers: a touchpoint that leaks nothing, or a refusal that names a path."""

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.public import PrivateKey

from services.ingest.domain.admission import (
    Admitted,
    AdmittedLink,
    Refused,
    Result,
    Sender,
    admit_native,
    admit_segment,
)
from services.ingest.domain.familiar import recognise_call, recognise_native
from services.ingest.domain.native import EXAMPLES
from services.ingest.domain.packing import pack, pack_failed
from services.ingest.domain.segment import CALLS
from services.ingest.domain.shape import check_shape
from services.ingest.domain.terms import Limits
from services.ingest.wire import read_item, read_native, read_segment
from shared.codec import decode
from shared.errors import InvalidField
from shared.ids import dedup_scope
from shared.log.port import RECORD_BYTES_MAX
from shared.sealing import Sealer
from tests.support.door import ARRIVAL, CLOCK, PUBLIC_SENDER, SECRET_SENDER, native, segment

CLIENTS = Path(__file__).parents[1] / "golden" / "clients"
BODIES = [json.loads(path.read_text())["body"] for path in sorted(CLIENTS.glob("*.json"))]
SEGMENT_ITEMS: list[dict[str, Any]] = [item for body in BODIES for item in body.get("batch", [body])]
NATIVE_ITEMS = list(EXAMPLES.values())

LIMITS = Limits()
SEALER = Sealer("k1", bytes(PrivateKey(bytes(range(32))).public_key))

CANARIES = (
    "canary.person@example.com",
    "Canary.Person%40example.com",
    "write to canary@person.example please",
    "https://shop.example/canary@person.example",
    "https://shop.example/x?name=canary",
    "+98 912 345 6789",
    "+989123456789",
    "tel:+98-912-345-6789",
    "203.0.113.77",
    "2001:db8::ca:9a7e",
)
LEAKS = (b"canary", b"912 345 6789", b"9123456789", b"912-345-6789", b"203.0.113.77", b"2001:db8::ca:9a7e")
PERSONAL_NAMES = ("email", "firstName", "billing_phone", "Comment", "ip", "street", "user_id", "user-agent")
KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from([*EXAMPLES["purchase"], "properties", "traits", "url", "$", "a.b"])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=6),
    st.sampled_from(["", "null", "2026-03-21T09:30:00Z", "purchased", "track", "Order Completed", "0", "\0"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=15
)
SENDERS = st.sampled_from([PUBLIC_SENDER, SECRET_SENDER])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value inside `value`, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, below in inner for place in places(below, (*path, name)))]


def replaced(item: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of `item` with `value` at `place`."""
    if not place:
        return value
    changed = copy.deepcopy(item)
    target = changed
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return changed


@st.composite
def mutated(draw: st.DrawFn, items: list[dict[str, Any]], values: st.SearchStrategy[Any] = JSON) -> Any:
    """A good item with one to three of its values replaced, or one of its objects given another key."""
    item = copy.deepcopy(draw(st.sampled_from(items)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(item)))
        item = replaced(item, place, draw(values))
    if isinstance(item, dict) and draw(st.booleans()):
        item[draw(KEYS)] = draw(values)
    return item


def admit(item: Any, sender: Sender, call: str | None) -> Result:
    return native(item, sender) if call == "native" else segment(call, item, sender)


def check_answer(result: Result) -> None:
    if isinstance(result, Refused):
        assert result.path
        assert result.reason
        assert result.code
        records = pack_failed([result], PUBLIC_SENDER, ARRIVAL, 4, lambda fields: SEALER.seal(fields, 1), CLOCK.new_id)
    else:
        records = pack([result], PUBLIC_SENDER, ARRIVAL, 16, lambda fields: SEALER.seal(fields, 1))
        assert records
    for record in records:
        assert len(record.value) <= RECORD_BYTES_MAX
        decode(record.value)


DOORS = st.sampled_from([None, "native", *CALLS])


@given(JSON, SENDERS, DOORS)
@settings(max_examples=400)
def test_any_json_is_answered(item: Any, sender: Sender, call: str | None) -> None:
    check_answer(admit(item, sender, call))


@given(mutated(SEGMENT_ITEMS), SENDERS, st.sampled_from([None, *CALLS]))
@settings(max_examples=400)
def test_any_mutated_segment_call_is_answered(item: Any, sender: Sender, call: str | None) -> None:
    check_answer(segment(call, item, sender))


@given(mutated(NATIVE_ITEMS), SENDERS)
@settings(max_examples=400)
def test_any_mutated_touchpoint_is_answered(item: Any, sender: Sender) -> None:
    check_answer(native(item, sender))


@given(JSON)
def test_the_judgement_of_a_shape_and_its_reason_agree(value: Any) -> None:
    """What passes can be written to the log; what does not names a place inside the value."""
    try:
        check_shape(value, Limits(depth=4, object_keys=3))
        msgspec.msgpack.encode(value)
    except InvalidField as error:
        refusal = error
        assert refusal.field


CANARY_VALUES = st.sampled_from(CANARIES) | st.sampled_from(CANARIES).flatmap(
    lambda canary: st.sampled_from([[canary], {"deep": [{"er": canary}]}, {canary: 1}, {canary: {"a": canary}}])
)
NAMED_CANARIES = st.dictionaries(st.sampled_from(PERSONAL_NAMES), st.just("Canary"), min_size=1, max_size=3)


@given(
    st.one_of(
        st.tuples(st.just("native"), mutated(NATIVE_ITEMS, CANARY_VALUES | NAMED_CANARIES)),
        st.tuples(st.none(), mutated(SEGMENT_ITEMS, CANARY_VALUES | NAMED_CANARIES)),
    ),
    SENDERS,
)
@settings(max_examples=800)
def test_no_canary_is_readable_in_what_is_packed(sent: tuple[str | None, Any], sender: Sender) -> None:
    call, item = sent
    result = admit(item, sender, call)
    if isinstance(result, Refused):
        said = f"{result.path} {result.reason}".encode().lower()
        assert not [leak for leak in LEAKS if leak in said], said
        return
    readable = b"".join(
        record.value for record in pack([result], sender, ARRIVAL, 16, lambda fields: SEALER.seal({}, 1))
    )
    assert not [leak for leak in LEAKS if leak in readable.lower()], result


WHO = ("userId", "anonymousId", "user_id", "anonymous_id", "email", "phone")
OWN = ("sara.moradi", "Sara.Moradi@Example.com", "1234567", 1234567, 1.234567e6, "a-3f8b21c0", "+989121234567")
MENTIONS = st.sampled_from(OWN) | st.sampled_from(OWN).map(lambda own: f"for {own}, by hand")
ANYWHERE = (
    JSON | CANARY_VALUES | MENTIONS | st.lists(MENTIONS) | st.dictionaries(MENTIONS.map(str), MENTIONS, max_size=2)
)


@given(
    st.one_of(
        st.tuples(st.just(True), mutated(NATIVE_ITEMS, ANYWHERE)),
        st.tuples(st.just(False), mutated(SEGMENT_ITEMS, ANYWHERE)),
    ),
    st.dictionaries(st.sampled_from(WHO), st.sampled_from(OWN), max_size=3),
    SENDERS,
    st.sampled_from([None, *CALLS]),
    st.booleans(),
)
@settings(max_examples=1500)
def test_the_short_way_makes_what_the_long_way_makes(
    sent: tuple[bool, Any], who: dict[str, Any], sender: Sender, call: str | None, escaped: bool
) -> None:
    """The same touchpoint with the same sealed fields; what is refused is never recognised."""
    is_native, item = sent
    if isinstance(item, dict):
        item |= {name: value for name, value in who.items() if is_native == ("Id" not in name)}
    body = json.dumps([item] if is_native else {"batch": [item]}, ensure_ascii=escaped).encode("utf-8", "replace")
    envelope = read_native(body) if is_native else read_segment(body, is_batch=True)
    [raw] = envelope.items
    read = read_item(raw)
    if read.unreadable or not envelope.plain:
        return
    if is_native:
        short = recognise_native(raw, sender, ARRIVAL, LIMITS)
        long = admit_native(read.value, bytes(raw), sender, ARRIVAL, lambda: bytes(16), LIMITS)
    else:
        short = recognise_call(call, raw, sender, ARRIVAL, LIMITS)
        long = admit_segment(call, read.value, bytes(raw), sender, ARRIVAL, {}, lambda: bytes(16), LIMITS)
    if short is not None:
        assert isinstance(long, Admitted), long
        assert written(short) == written(long)


@pytest.mark.parametrize("user_id", [2**70, 2**64, -(2**63) - 1])
def test_a_number_that_no_log_holds_is_no_identifier(user_id: int) -> None:
    call = json.dumps({"type": "track", "event": "A", "userId": user_id, "messageId": "m"}).encode()
    touchpoint = json.dumps({"kind": "logged_in", "id": "a", "user_id": user_id}).encode()
    assert recognise_call(None, call, PUBLIC_SENDER, ARRIVAL, LIMITS) is None
    assert recognise_native(touchpoint, SECRET_SENDER, ARRIVAL, LIMITS) is None


def written(admitted: Admitted) -> tuple[Any, ...]:
    """All of it, as the log keeps it."""
    touchpoint = msgspec.msgpack.Encoder(order="deterministic").encode(admitted.touchpoint)
    return touchpoint, admitted.personal, admitted.deduplicable, admitted.import_id


@pytest.mark.parametrize("sender", [PUBLIC_SENDER, SECRET_SENDER])
def test_most_of_what_real_clients_send_goes_the_short_way(sender: Sender) -> None:
    """All but what says by traits who somebody is, which a public key may not."""
    says_who = {"email", "phone"} if sender.trust else set()
    tells = [
        item
        for item in SEGMENT_ITEMS
        if item.get("type") in ("track", "page", "screen") and not says_who & item["context"].get("traits", {}).keys()
    ]
    known = [recognise_call(None, json.dumps(item).encode(), sender, ARRIVAL, LIMITS) for item in tells]
    assert len(known) > 5
    assert [item for item, one in zip(tells, known, strict=True) if one is None] == []
    natives = [recognise_native(json.dumps(item).encode(), SECRET_SENDER, ARRIVAL, LIMITS) for item in NATIVE_ITEMS]
    assert None not in natives


@pytest.mark.parametrize(
    "properties",
    [{"title": "1234567"}, {"title": 1.234567e6}, {"note": {"deep": ["for 1234567, by hand"]}}, {"1234567": 1},
     {"url": "https://shop.example/?utm_source=u1234567x"}],
)  # fmt: skip
def test_an_identifier_in_what_is_told_is_looked_at_closely(properties: dict[str, Any]) -> None:
    raw = json.dumps({"id": "a", "kind": "page_viewed", "user_id": "1234567", "properties": properties}).encode()
    assert recognise_native(raw, SECRET_SENDER, ARRIVAL, LIMITS) is None
    result = admit_native(json.loads(raw), raw, SECRET_SENDER, ARRIVAL, lambda: bytes(16), LIMITS)
    assert isinstance(result, Admitted)
    assert "1234567" not in str(result.touchpoint.properties)


def dedup_key(result: Result, sender: Sender) -> tuple[int, bytes, bytes] | None:
    admitted = result.touchpoint if isinstance(result, AdmittedLink) else result
    if not isinstance(admitted, Admitted) or not admitted.deduplicable:
        return None
    touchpoint = admitted.touchpoint
    return touchpoint.day, touchpoint.id, dedup_scope(sender.workspace, sender.source, touchpoint.leaves[0])


@given(mutated(SEGMENT_ITEMS, SCALARS) | st.sampled_from(SEGMENT_ITEMS), SENDERS)
def test_the_same_call_twice_is_one_touchpoint(item: Any, sender: Sender) -> None:
    first, again = segment(None, item, sender), segment(None, copy.deepcopy(item), sender)
    assert type(first) is type(again)
    assert dedup_key(first, sender) == dedup_key(again, sender)


@given(mutated(NATIVE_ITEMS, SCALARS) | st.sampled_from(NATIVE_ITEMS), SENDERS)
def test_the_same_touchpoint_twice_is_one_touchpoint(item: Any, sender: Sender) -> None:
    first, again = native(item, sender), native(copy.deepcopy(item), sender)
    assert type(first) is type(again)
    assert dedup_key(first, sender) == dedup_key(again, sender)
