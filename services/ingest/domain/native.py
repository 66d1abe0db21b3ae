"""Raftar's own touchpoint format, `POST /v1/touchpoints`: one struct is validator, JSON Schema and documentation."""

import re
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec

from services.ingest.domain.draft import Draft, Offered, pair
from services.ingest.domain.terms import ROOT_PATH, Arrival, Sender
from services.ingest.domain.times import when
from shared.errors import InvalidField
from shared.vocabulary import known_channel, known_kind

Identifier = str | int


def _field(description: str, *examples: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, examples=list(examples))


class NativeTouchpoint(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One touchpoint. At least one identifier is needed; the highest-ranked one owns it (user, email, phone, provider,
    anonymous) and the others are tied to it."""

    kind: Annotated[str, _field("what happened, a kind of the vocabulary", "purchased", "page_viewed")]
    id: Annotated[
        Identifier | None,
        _field("the client's own id: the same id on the same day means the same touchpoint", "ord-1001-paid"),
    ] = None
    occurred_at: Annotated[
        str | int | float | None,
        _field("when it happened: ISO 8601 or epoch seconds or milliseconds; default: now", "2026-03-21T09:30:00Z"),
    ] = None
    user_id: Annotated[Identifier | None, _field("your id of the customer", "u-17")] = None
    anonymous_id: Annotated[Identifier | None, _field("id of a browser or device before sign-in", "a-3f8")] = None
    email: Annotated[str | None, _field("email; identifies with a secret key only", "sara@example.com")] = None
    phone: Annotated[Identifier | None, _field("phone; identifies with a secret key only", "+989121234567")] = None
    identifiers: Annotated[
        dict[str, Identifier] | None,
        _field("ids other systems gave the customer, by system; with a secret key only", {"zendesk": "88120"}),
    ] = None
    channel: Annotated[str | None, _field("where it happened; default: the usual one of its kind", "web")] = None
    name: Annotated[str | None, _field("name of a `custom` touchpoint", "Wishlist Shared")] = None
    properties: Annotated[
        dict[str, Any] | None,
        _field("what its kind carries", {"order_id": "1001", "amount": "39.80", "currency": "EUR"}),
    ] = None
    context: Annotated[dict[str, Any] | None, _field("its circumstances", {"locale": "fa-IR"})] = None
    traits: Annotated[dict[str, Any] | None, _field("what is known of the customer", {"plan": "pro"})] = None
    import_id: Annotated[
        str | None, _field("marks history of this import; with a secret key only", "0198c0de00007000a000000000000001")
    ] = None


FIELDS = frozenset(NativeTouchpoint.__struct_fields__)

EXAMPLES: dict[str, dict[str, Any]] = {
    "page view": {
        "id": "pv-9f2c", "kind": "page_viewed", "anonymous_id": "a-3f8", "occurred_at": "2026-03-21T09:30:00Z",
        "properties": {"url": "https://shop.example/sale?utm_source=mail", "title": "Sale"},
    },
    "purchase": {
        "id": "ord-1001-paid", "kind": "purchased", "user_id": "u-17", "email": "sara@example.com",
        "occurred_at": 1774085400000, "properties": {"order_id": "1001", "amount": "39.80", "currency": "EUR"},
    },
    "survey": {
        "id": "csat-12", "kind": "survey_answered", "user_id": "u-17",
        "properties": {"metric": "csat", "score": 2, "comment": "slow delivery"},
    },
    "custom": {"id": "w-1", "kind": "custom", "name": "Wishlist Shared", "user_id": "u-17"},
}  # fmt: skip
"""Bodies for OpenAPI and the documentation; a test admits each one."""

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")


def touchpoint_schema(ref_template: str = "#/components/schemas/{name}") -> dict[str, Any]:
    """OpenAPI components: {"NativeTouchpoint": JSON Schema}."""
    _, components = msgspec.json.schema_components([NativeTouchpoint], ref_template=ref_template)
    schemas: dict[str, Any] = dict(components)
    schemas["NativeTouchpoint"]["examples"] = list(EXAMPLES.values())
    return schemas


def read_native(item: dict[str, Any], sender: Sender, arrival: Arrival) -> Draft:
    """The draft of one native touchpoint. Raises InvalidField with the path for what is wrong in its own fields."""
    sent = _convert(item)
    kind = known_kind(sent.kind)
    draft = Draft(
        kind=kind,
        channel=known_channel(sent.channel or "", kind),
        when=when(arrival, original=pair(item, "occurred_at")),
        offered=_offered(sent),
        properties=sent.properties or {},
        name=_name(sent),
        client_id=pair(item, "id"),
        context=sent.context or {},
        import_id=_import_id(sent.import_id, sender),
    )
    if sent.traits:
        draft.properties = {"traits": sent.traits, **draft.properties}
    return draft


def _convert(item: dict[str, Any]) -> NativeTouchpoint:
    if not item.keys() <= FIELDS:
        raise _unknown_field(min(item.keys() - FIELDS))
    try:
        return msgspec.convert(item, NativeTouchpoint)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error


def _unknown_field(name: str) -> InvalidField:
    near = get_close_matches(name.lower()[:40], FIELDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "put your own fields into properties"
    return InvalidField(name, f"is not a field of a touchpoint; {hint}", "unknown_field")


def _wrong_field(message: str) -> InvalidField:
    missing = _MISSING.search(message)
    if missing:
        return InvalidField(missing.group(1), "is missing", "missing")
    place = _AT.search(message)
    path = place.group(1) if place else ""
    return InvalidField(path or ROOT_PATH, _AT.sub("", message).replace("`", ""), "invalid_type")


def _offered(sent: NativeTouchpoint) -> list[Offered]:
    own = (
        ("user", "user_id", sent.user_id),
        ("email", "email", sent.email),
        ("phone", "phone", sent.phone),
        ("anonymous", "anonymous_id", sent.anonymous_id),
    )
    offered = [Offered(kind, path, value) for kind, path, value in own if value is not None]
    for system, value in (sent.identifiers or {}).items():
        offered.append(Offered(f"provider:{system.removeprefix('provider:')}", f"identifiers.{system}", value))
    return offered


def _name(sent: NativeTouchpoint) -> str:
    name = (sent.name or "").strip()
    if sent.kind == "custom" and not name:
        raise InvalidField("name", "is missing: a custom touchpoint has a name", "missing")
    if sent.kind != "custom" and name:
        raise InvalidField("name", "only a custom touchpoint has a name; its kind names any other")
    return name


def _import_id(import_id: str | None, sender: Sender) -> str:
    if not import_id:
        return ""
    if not sender.history_allowed:
        raise InvalidField("import_id", "only a secret key may mark touchpoints as history", "not_allowed")
    return import_id
