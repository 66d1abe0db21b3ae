"""Bytes of odd clients become items, and one odd item never takes the others with it."""

import base64
import gzip
import json
import math
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest

from services.ingest import wire
from shared.errors import InvalidField, TooLarge
from tests.support.door import segment, taken

BATCH = b'{"batch":[{"type":"track","event":"A"},{"type":"track","event":"B"}],"sentAt":"2026-01-01T00:00:00Z"}'


def value_of(item: bytes | msgspec.Raw) -> Any:
    read = wire.read_item(item)
    assert not read.unreadable
    return read.value


def events(envelope: wire.Envelope) -> list[object]:
    return [value_of(item)["event"] for item in envelope.items]


@pytest.mark.parametrize(
    "body",
    [
        BATCH,
        b"\xef\xbb\xbf" + BATCH,
        b"data=" + base64.b64encode(BATCH),
        b"data=" + base64.urlsafe_b64encode(BATCH).rstrip(b"="),
        b"data=" + quote_plus(base64.b64encode(BATCH)).encode(),
        b"data=" + quote_plus(BATCH).encode() + b"&ip=1",
    ],
)
def test_every_form_of_a_batch_is_read(body: bytes) -> None:
    envelope = wire.read_segment(body, is_batch=True)
    assert events(envelope) == ["A", "B"]
    assert (envelope.single, envelope.sent_at) == (False, "2026-01-01T00:00:00Z")


def test_the_bytes_of_an_item_are_kept_as_they_came() -> None:
    body = b'{"batch":[ {"type" : "track","n":1.50} ]}'
    assert [bytes(item) for item in wire.read_segment(body, is_batch=True).items] == [b'{"type" : "track","n":1.50}']


@pytest.mark.parametrize("odd", [b'{"x":NaN}', b'{"x":-Infinity}', b'{"x":1e999}', b'{"x":"\\ud800"}'])
def test_one_odd_item_leaves_the_others_alone(odd: bytes) -> None:
    body = b'{"writeKey":"k","context":{"a":1},"batch":[{"event":"A"},%s,{"event":"B"}]}' % odd
    envelope = wire.read_segment(body, is_batch=True)
    assert [value_of(item).get("event") for item in envelope.items] == ["A", None, "B"]
    assert (envelope.write_key, envelope.context) == ("k", {"a": 1})
    native = wire.read_native(b"[%s,{}]" % odd)
    assert len(native.items) == 2


def test_an_endless_integer_is_infinite_not_fatal() -> None:
    [item] = wire.read_native(b'[{"x":%s}]' % (b"9" * 5000)).items
    assert math.isinf(value_of(item)["x"])


def test_an_undecodable_item_says_why_without_quoting() -> None:
    bad, good = map(wire.read_item, wire.read_native(b'[{"secret":"\xff"},{"a":1}]').items)
    assert "UTF-8" in bad.unreadable
    assert "secret" not in bad.unreadable
    assert good.value == {"a": 1}


@pytest.mark.parametrize(
    ("body", "is_batch"),
    [
        (b"", False), (b"[]", False), (b"5", False), (b"null", False), (b'"x"', False), (b"{", False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False), (b'{"a":' * 100_000, False), (b"data=%%%", False), (b"data=", False),
        (b"{}", True), (b'{"batch":5}', True), (b'{"batch":null}', True), (b"[]", True),
        (b'{"batch":[' + b"[" * 100_000, True),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_a_reason(body: bytes, is_batch: bool) -> None:
    try:
        [item] = wire.read_segment(body, is_batch).items
        reason = wire.read_item(item).unreadable  # a call is read when it is judged
    except InvalidField as error:
        reason = error.reason
    assert reason


def test_the_write_key_of_a_call_is_not_part_of_the_touchpoint() -> None:
    envelope = wire.read_segment(b'{"writeKey":"rk","event":"A"}', is_batch=False)
    assert wire.write_key_of(envelope) == "rk"
    sent = {"event": "A", "userId": "u-1", "timestamp": "2026-03-21T09:00:00Z"}
    with_key, without = (taken(segment("track", item)) for item in (sent | {"writeKey": "rk"}, sent))
    assert with_key == without


def test_a_key_in_the_query_is_found() -> None:
    assert wire.write_key_of_query(b"a=1&writeKey=rk_w_1&b=2") == "rk_w_1"
    assert wire.write_key_of_query(b"a=1") == ""
    assert wire.write_key_of_query(b"writeKey=%ff%zz") != "x"


def test_inflating_stops_at_the_bound() -> None:
    body = gzip.compress(b"x" * 1000)
    assert wire.inflate(body, 1000) == b"x" * 1000
    with pytest.raises(TooLarge, match="999"):
        wire.inflate(body, 999)


def test_several_gzip_members_are_one_body() -> None:
    body = gzip.compress(b"ab") + gzip.compress(b"cd")
    assert wire.inflate(body, 4) == b"abcd"
    with pytest.raises(TooLarge):
        wire.inflate(body, 3)


def test_a_body_of_countless_gzip_members_is_refused() -> None:
    empty = gzip.compress(b"")
    assert wire.inflate(empty * (wire.GZIP_MEMBERS_MAX - 1) + gzip.compress(b"ab"), 2) == b"ab"
    with pytest.raises(InvalidField, match="members"):
        wire.inflate(empty * 100_000, 2)


@pytest.mark.parametrize("odd", [b"1", b"NaN"])
def test_too_many_items_are_refused_before_one_is_read(odd: bytes) -> None:
    items = b",".join([b"1"] * 3 + [odd])
    for body in (b"[%s]" % items, b'{"batch":[%s]}' % items):
        is_native = body.startswith(b"[")
        read = wire.read_native if is_native else lambda body, items_max: wire.read_segment(body, True, items_max)
        assert len(read(body, 4).items) == 4
        with pytest.raises(TooLarge, match=r"takes 3 items \(RAFTAR_INGEST_ITEMS_MAX\), not 4"):
            read(body, 3)


ZIPPED = gzip.compress(b"abcdef", mtime=0)  # its time would stand in the names of the tests


@pytest.mark.parametrize("body", [b"\x1f\x8b", ZIPPED[:-9], ZIPPED[:4] + b"zzzz"])
def test_a_broken_stream_is_the_callers_fault(body: bytes) -> None:
    with pytest.raises(InvalidField) as caught:
        wire.inflate(body, 100)
    assert caught.value.code == "invalid_gzip"


def test_the_plain_answer_is_the_constant() -> None:
    assert wire.segment_answer([]) == wire.ACCEPTED
    assert json.loads(wire.ACCEPTED) == {"success": True}
