"""Bytes as real clients send them → items; results → the answers real clients understand. Pure.

Neither content type nor content encoding is trusted: SDKs send gzip as a form, JSON as text, and beacons as
`data=<base64>`.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import msgspec

from services.ingest.domain.terms import ROOT_PATH, Admitted, AdmittedLink, Refused, Result
from shared.errors import InvalidField, TooLarge
from shared.ids import uuid_text

GZIP_MAGIC = b"\x1f\x8b"
FORM_FIELD = b"data="
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
INTEGER_DIGITS_MAX = 300
"""Longer integers are read as infinity, which an item is refused for; Python itself stops at 4300 digits."""

ITEMS_MAX = 500
GZIP_MEMBERS_MAX = 64
"""Whoever appends to a stream makes few members; each empty one would cost a copy of all that follows it."""

ACCEPTED = b'{"success":true}'


class Read(msgspec.Struct, frozen=True):
    """An item decoded. `unreadable`: why it could not be, "" where it could."""

    value: Any
    unreadable: str = ""


class Envelope(msgspec.Struct, frozen=True):
    """What one request holds. `items`: the bytes of each · `single`: one call, not a batch · `plain`: no NUL character
    is in them, and the strict reader took them apart · `sent_at`: the client's word, of whatever type."""

    items: Sequence[bytes | msgspec.Raw]
    single: bool
    plain: bool = False
    sent_at: Any = None
    context: dict[str, Any] = {}
    write_key: str = ""


class _Batch(msgspec.Struct):
    batch: list[msgspec.Raw]
    sentAt: Any = None  # noqa: N815 (the wire's name)
    context: Any = None
    writeKey: Any = None  # noqa: N815


_batch_decoder = msgspec.json.Decoder(_Batch)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NUL = b"u0000"
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)


def inflate(body: bytes, bytes_max: int) -> bytes:
    """`body` without its gzip layer. Raises TooLarge beyond `bytes_max`, InvalidField for a broken stream or one
    of more than GZIP_MEMBERS_MAX members."""
    inflated = bytearray()
    for _ in range(GZIP_MEMBERS_MAX):
        stream = zlib.decompressobj(wbits=31)
        try:
            inflated += stream.decompress(body, bytes_max + 1 - len(inflated))
        except zlib.error as error:
            raise InvalidField("", "the gzip body is broken", "invalid_gzip") from error
        if len(inflated) > bytes_max:
            raise TooLarge(f"the body is over {bytes_max} bytes once inflated (RAFTAR_INGEST_INFLATED_BYTES_MAX)")
        if not stream.eof:
            raise InvalidField("", "the gzip body ends too early", "invalid_gzip")
        if not stream.unused_data.startswith(GZIP_MAGIC):
            return bytes(inflated)
        body = stream.unused_data
    raise InvalidField("", f"the gzip body has more than {GZIP_MEMBERS_MAX} members", "invalid_gzip")


def read_segment(body: bytes, is_batch: bool, items_max: int = ITEMS_MAX) -> Envelope:
    """The items of a Segment-shaped body (already inflated).

    Raises InvalidField for what is no JSON or no batch, TooLarge for more than `items_max` items.
    """
    return _batch(body, items_max) if is_batch else _call(body.strip())


def read_native(body: bytes, items_max: int = ITEMS_MAX) -> Envelope:
    """The items of a body of `/v1/touchpoints`: one object or an array. Raises InvalidField; TooLarge as above."""
    body = body.strip()
    if body.startswith(b"{"):
        return Envelope([body], single=True, plain=_NUL not in body)
    if not body.startswith(b"["):
        _json(body)
        return Envelope([body], single=True)
    try:
        found = _list_decoder.decode(body)
    except _UNREADABLE:
        return Envelope(_slow_items(_json(body)[0], items_max), single=False)
    return Envelope(_counted(found, items_max), single=False, plain=_NUL not in body)


def write_key_of_query(query: bytes) -> str:
    """The key in `?writeKey=`, "" without one."""
    if b"writeKey=" not in query:
        return ""
    return parse_qs(query.decode("latin-1")).get("writeKey", [""])[0]


def write_key_of(envelope: Envelope) -> str:
    """The key a body shows, "" without one. Raises InvalidField for a call that cannot be read."""
    if not envelope.single:
        return envelope.write_key
    value, _ = _json(bytes(envelope.items[0]))
    return _text(value.get("writeKey")) if isinstance(value, dict) else ""


def _call(body: bytes) -> Envelope:
    if body.startswith(b"{"):
        return Envelope([body], single=True, plain=_NUL not in body)
    value, body = _json(body)
    if not isinstance(value, dict):
        raise InvalidField("", "the body must be a JSON object", "invalid_json")
    return Envelope([body], single=True)


def _batch(body: bytes, items_max: int) -> Envelope:
    try:
        found = _batch_decoder.decode(body)
    except _UNREADABLE:
        return _slow_batch(body, items_max)
    return Envelope(
        _counted(found.batch, items_max),
        single=False,
        plain=_NUL not in body,
        sent_at=found.sentAt,
        context=found.context if isinstance(found.context, dict) else {},
        write_key=_text(found.writeKey),
    )


def _slow_batch(body: bytes, items_max: int) -> Envelope:
    """A batch the strict decoder refuses: a form, or one odd item (NaN, half a surrogate) that must not sink it."""
    value, _ = _json(body)
    if not isinstance(value, dict) or not isinstance(value.get("batch"), list):
        raise InvalidField("batch", 'the body must be {"batch": [...]}')
    context = value.get("context")
    return Envelope(
        _slow_items(value["batch"], items_max),
        single=False,
        sent_at=value.get("sentAt"),
        context=context if isinstance(context, dict) else {},
        write_key=_text(value.get("writeKey", "")),
    )


def _counted(found: list[msgspec.Raw], items_max: int) -> list[msgspec.Raw]:
    _check_count(found, items_max)
    return found


def _check_count(found: Sequence[object], items_max: int) -> None:
    """Asked before any item is read: a few kilobytes of gzip can hold millions of them."""
    if len(found) > items_max:
        raise TooLarge(f"a request takes {items_max} items (RAFTAR_INGEST_ITEMS_MAX), not {len(found)}")


def _slow_items(values: list[Any], items_max: int) -> list[bytes]:
    _check_count(values, items_max)
    try:
        return [json.dumps(value).encode() for value in values]
    except RecursionError as error:
        raise InvalidField("", "the body is nested too deep", "invalid_json") from error


def read_item(raw: bytes | msgspec.Raw) -> Read:
    """One item's JSON. NaN, lone surrogates and huge integers are let through: who judges it refuses it with a path."""
    try:
        return Read(_decode(raw))
    except _UNREADABLE:
        pass
    try:
        return Read(_lenient(bytes(raw)))
    except _UNREADABLE as error:
        return Read(None, f"the body is not JSON: {_why(error)}")


def _json(body: bytes) -> tuple[Any, bytes]:
    """The body as JSON, or the JSON in its form field, and the bytes it was decoded from. Raises InvalidField."""
    try:
        return _decode(body), body
    except _UNREADABLE:
        pass
    if body.startswith(FORM_FIELD):
        body = _form_data(body)
    try:
        return _lenient(body), body
    except _UNREADABLE as error:
        raise InvalidField("", f"the body is not JSON: {_why(error)}", "invalid_json") from error


def _form_data(body: bytes) -> bytes:
    """The `data` of a form: JSON as it is, or base64 of JSON."""
    text = unquote_plus(body[len(FORM_FIELD) :].partition(b"&")[0].decode("latin-1"), encoding="utf-8")
    data = text.encode("utf-8", "replace").strip()
    if data[:1] in (b"{", b"["):
        return data
    try:
        return base64.b64decode(
            data + b"=" * (-len(data) % 4), altchars=b"-_" if b"-" in data or b"_" in data else None
        )
    except (binascii.Error, ValueError) as error:
        raise InvalidField("data", "is neither JSON nor base64 of JSON", "invalid_json") from error


def _lenient(body: bytes) -> Any:
    """JSON with NaN, lone surrogates and huge integers let through: the item holding them is refused, not the batch."""
    text = body.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    return json.loads(text, strict=False, parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= INTEGER_DIGITS_MAX else float("inf")


def _why(error: Exception) -> str:
    """What is wrong with the text, without quoting it."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "it cannot be read"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# --- answers --------------------------------------------------------------------------------------------------


def field_path(result: Refused, index: int | None, prefix: str) -> str:
    """The path of a refused field as the caller sent it: `batch[3].properties.total`; index None for a single call."""
    inside = "" if result.path in ("", ROOT_PATH) else result.path
    if index is None:
        return inside
    return f"{prefix}[{index}]" + (f".{inside}" if inside else "")


def is_deduplicable(result: Result) -> bool:
    """False only for a touchpoint whose retry would count again."""
    touchpoint = result.touchpoint if isinstance(result, AdmittedLink) else result
    return not isinstance(touchpoint, Admitted) or touchpoint.deduplicable


def segment_answer(results: Sequence[Result]) -> bytes:
    """`{"success":true}`, and for people who look: what failed and what cannot be deduplicated."""
    if all(type(result) is Admitted and result.deduplicable for result in results):
        return ACCEPTED
    failed = [
        {"index": i, "code": r.code, "field": field_path(r, i, "batch"), "reason": r.reason}
        for i, r in enumerate(results)
        if isinstance(r, Refused)
    ]
    loose = [i for i, result in enumerate(results) if not is_deduplicable(result)]
    if not failed and not loose:
        return ACCEPTED
    answer: dict[str, Any] = {"success": True}
    if failed:
        answer["failed"] = failed
    if loose:
        answer["not_deduplicable"] = loose
    return _encode(answer)


def native_answer(results: Sequence[Result], single: bool) -> bytes:
    """Counts and one result an item, in the order sent."""
    answers = [_native_result(result, None if single else i) for i, result in enumerate(results)]
    failed = sum(isinstance(result, Refused) for result in results)
    return _encode({"accepted": len(results) - failed, "failed": failed, "results": answers})


def _native_result(result: Result, index: int | None) -> dict[str, Any]:
    if isinstance(result, Refused):
        path = field_path(result, index, "")
        return {"status": "failed", "code": result.code, "field": path, "reason": result.reason}
    touchpoint = result.touchpoint if isinstance(result, AdmittedLink) else result
    if touchpoint is None:
        return {"status": "accepted"}
    answer: dict[str, Any] = {"status": "accepted", "id": uuid_text(touchpoint.touchpoint.id)}
    if not touchpoint.deduplicable:
        answer["deduplicable"] = False
        answer["note"] = "sent without `id` and `occurred_at`: a retry of it would count again"
    return answer
