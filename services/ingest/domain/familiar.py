"""The short way in: of a plain item only who, when and its id are new; how the rest is judged was learnt before.

What an item tells (its event and properties), where it was (its context) and whose it is are judged by the functions of
the long way (`admission`), each once, and remembered by the very bytes they came in. The short way takes an item only
where no part of it changes how another is judged: no identifier of this person stands in what else it says. Of all
others it says None, and the long way judges them, with reasons. Both make the same touchpoint.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from services.ingest.domain.admission import check_name, known_id, person_of
from services.ingest.domain.draft import Draft, as_object
from services.ingest.domain.native import read_native
from services.ingest.domain.parting import part_context, part_name, part_properties
from services.ingest.domain.personal import Campaign, ListeningSieve
from services.ingest.domain.segment import (
    EVERYTHING,
    own_channel,
    read_segment,
    said_channel,
    side_channel,
    tell_event,
)
from services.ingest.domain.shape import check_shape
from services.ingest.domain.terms import Admitted, Arrival, Limits, Sender
from services.ingest.domain.times import When, when
from shared.errors import InvalidField
from shared.events import PUBLIC, Touchpoint
from shared.vocabulary import normalise

ITEM_BYTES_MAX = 4096
"""Parts of larger items seldom come again, and would make a memory of thousands of them large."""
_NOTHING = Raw()
_LONG_NUMBER = re.compile(rb"\d{19}")
_NEVER = Arrival(0)
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)
_REFUSED = (InvalidField, *_UNREADABLE)

Id = str | int | None


class _Call(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A call of Segment's API with the fields most clients send. Its objects are judged by their bytes."""

    type: str | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    userId: Id = None  # noqa: N815 (the wire's names)
    anonymousId: Id = None  # noqa: N815
    messageId: str | None = None  # noqa: N815
    timestamp: str | None = None
    originalTimestamp: str | None = None  # noqa: N815
    sentAt: str | None = None  # noqa: N815
    channel: str | None = None
    properties: Raw = _NOTHING
    context: Raw = _NOTHING
    integrations: Raw = _NOTHING
    writeKey: str | None = None  # noqa: N815
    metadata: Raw = msgspec.field(default=_NOTHING, name="_metadata")


class _Native(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A native touchpoint (`native.NativeTouchpoint`) whose objects are judged by their bytes."""

    kind: str
    id: str | None = None
    occurred_at: str | int | float | None = None
    user_id: Id = None
    anonymous_id: Id = None
    email: str | None = None
    phone: Id = None
    identifiers: Raw = _NOTHING
    channel: str | None = None
    name: str | None = None
    properties: Raw = _NOTHING
    context: Raw = _NOTHING
    traits: Raw = _NOTHING
    import_id: str | None = None


FIELDS_MAX = max(len(_Call.__struct_fields__), len(_Native.__struct_fields__))
"""Of an item the short way takes; a bound on the keys of an object lies above it."""


class Who(msgspec.Struct, frozen=True, gc=False):
    """Whose an item is. `spellings`: every form of their identifiers that is long enough to be told from other text."""

    leaves: tuple[bytes, ...]
    identifiers: list[list[str]]
    spellings: tuple[bytes, ...]


class Told(msgspec.Struct, frozen=True, gc=False):
    """What an item tells, parted. `channel`: "" where others decide it · `properties`: encoded · `personal`: what of it
    is sealed · `campaign`: what its addresses say · `holds`: all its names and texts, to look for spellings in."""

    kind: str
    channel: str
    name: str
    properties: Raw
    personal: dict[str, Any]
    campaign: Campaign
    holds: bytes


class Place(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The context of an item, parted as in `Told`; `context` is `readable` encoded. `side`: the channel where nobody
    says one."""

    side: str
    readable: dict[str, Any]
    context: Raw
    personal: dict[str, Any]
    campaign: Campaign
    holds: bytes


_read_call = msgspec.json.Decoder(_Call).decode
_read_native = msgspec.json.Decoder(_Native).decode
_read = msgspec.json.Decoder().decode
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def recognise_call(
    kind: str | None, raw: bytes | Raw, sender: Sender, arrival: Arrival, limits: Limits
) -> Admitted | None:
    """A track, page or screen call; arguments as `admission.admit_segment`. `raw` holds no NUL character."""
    if len(raw) > ITEM_BYTES_MAX or len(raw) > limits.item_bytes:
        return None
    try:
        call = _read_call(raw)
        who = _who_called(sender, limits, call.userId, call.anonymousId)
        context = bytes(call.context)
        said = call.type if kind is None else kind
        if said == "track":
            told = _told_event(sender, limits, call.event, bytes(call.properties))
        elif said == "page" or said == "screen":
            seen = context if said == "page" else b""
            told = _told_view(sender, limits, said, call.name, call.category, bytes(call.properties), seen)
        else:
            return None
        place = _place_called(sender, limits, context, said == "page")
        if who is None or told is None or place is None or not call.messageId or _touch(who, told, place):
            return None
        if call.integrations is not _NOTHING and not _names_none(bytes(call.integrations)):
            return None
        if call.metadata is not _NOTHING and not _is_fine(limits, bytes(call.metadata)):
            return None
        id_, moment = known_id(call.messageId, "messageId", limits), _when_called(call, arrival)
    except _REFUSED:
        return None
    channel = told.channel or (call.channel and said_channel(call.channel)) or place.side
    return _admitted(id_, moment, channel, who, told, place, sender, arrival)


def recognise_native(raw: bytes | Raw, sender: Sender, arrival: Arrival, limits: Limits) -> Admitted | None:
    """A native touchpoint; arguments as `admission.admit_native`. `raw` holds no NUL character."""
    if len(raw) > ITEM_BYTES_MAX or len(raw) > limits.item_bytes:
        return None
    try:
        sent = _read_native(raw)
        told = _told_natively(
            sender, limits, sent.kind, sent.channel, sent.name, bytes(sent.properties), bytes(sent.traits)
        )
        place = _place_natively(sender, limits, bytes(sent.context))
        who = _who_natively(
            sender, limits, sent.user_id, sent.email, sent.phone, sent.anonymous_id, bytes(sent.identifiers)
        )
        if who is None or told is None or place is None or not sent.id or _touch(who, told, place):
            return None
        import_id = sent.import_id or ""
        if import_id and not (sender.history_allowed and 4 * len(import_id) <= limits.id_bytes):
            return None
        at = None if sent.occurred_at is None else ("occurred_at", sent.occurred_at)
        id_, moment = known_id(sent.id, "id", limits), when(arrival, original=at)
    except _REFUSED:
        return None
    return _admitted(id_, moment, told.channel, who, told, place, sender, arrival, import_id)


def _touch(who: Who, told: Told, place: Place) -> bool:
    """Whether one part may change another: an identifier may stand in a text (by chance its bytes alone), or traits
    came from both sides."""
    for spelling in who.spellings:
        if spelling in told.holds or spelling in place.holds:
            return True
    return "traits" in told.personal and "traits" in place.personal


def _when_called(call: _Call, arrival: Arrival) -> When:
    timestamp = None if call.timestamp is None else ("timestamp", call.timestamp)
    sent = None if call.sentAt is None else ("sentAt", call.sentAt)
    if call.originalTimestamp is None:
        return when(arrival, original=timestamp, sent=sent)
    return when(arrival, original=("originalTimestamp", call.originalTimestamp), kept=timestamp, sent=sent)


def _admitted(
    id_: bytes,
    moment: When,
    channel: str,
    who: Who,
    told: Told,
    place: Place,
    sender: Sender,
    arrival: Arrival,
    import_id: str = "",
) -> Admitted:
    context = place.context
    if told.campaign or place.campaign:
        context = _with_campaign(place, told.campaign + place.campaign)
    touchpoint = Touchpoint(
        id_,
        moment.day,
        told.kind,
        channel,
        who.leaves,
        moment.occurred_at,
        moment.client_at,
        told.properties,  # type: ignore[arg-type] # encoded already; the record takes it as it is
        context,  # type: ignore[arg-type]
        told.name,
    )
    personal: dict[str, Any] = {"identifiers": who.identifiers}
    if told.personal or place.personal:
        personal |= {**told.personal, **place.personal}
    if sender.trust == PUBLIC and arrival.remote_ip and "ip" not in personal:
        personal["ip"] = arrival.remote_ip
    return Admitted(touchpoint, personal, True, import_id)


# --- each part judged once ------------------------------------------------------------------------------------


@lru_cache(16384)
def _who_called(sender: Sender, limits: Limits, user_id: Id, anonymous_id: Id) -> Who | None:
    return _who(_call_of(sender, limits, "screen", userId=user_id, anonymousId=anonymous_id), sender)


@lru_cache(16384)
def _who_natively(
    sender: Sender, limits: Limits, user_id: Id, email: str | None, phone: Id, anonymous_id: Id, identifiers: bytes
) -> Who | None:
    said = {"user_id": user_id, "email": email, "phone": phone, "anonymous_id": anonymous_id}
    return _who(_native_of(sender, limits, "screen_viewed", **said, identifiers=identifiers), sender)


@lru_cache(8192)
def _told_event(sender: Sender, limits: Limits, event: str | None, properties: bytes) -> Told | None:
    try:
        sent = as_object(_part(properties, limits), "properties")
        kind, name, normal = tell_event(event, sent)
        return _told(kind, own_channel(kind), name, normal, sender, limits)
    except _REFUSED:
        return None


@lru_cache(8192)
def _told_view(
    sender: Sender,
    limits: Limits,
    call: str,
    name: str | None,
    category: str | None,
    properties: bytes,
    context: bytes,
) -> Told | None:
    said = {"name": name, "category": category, "properties": properties, "context": context}
    return _told_draft(_call_of(sender, limits, call, **said), sender, limits)


@lru_cache(8192)
def _told_natively(
    sender: Sender,
    limits: Limits,
    kind: str,
    channel: str | None,
    name: str | None,
    properties: bytes,
    traits: bytes,
) -> Told | None:
    said = {"channel": channel, "name": name, "properties": properties, "traits": traits}
    return _told_draft(_native_of(sender, limits, kind, **said), sender, limits)


@lru_cache(8192)
def _place_called(sender: Sender, limits: Limits, context: bytes, of_page: bool) -> Place | None:
    """The context of a page call has lost its `page` to what the call tells."""
    return _place(_call_of(sender, limits, "page" if of_page else "screen", context=context), sender)


@lru_cache(8192)
def _place_natively(sender: Sender, limits: Limits, context: bytes) -> Place | None:
    return _place(_native_of(sender, limits, "screen_viewed", context=context), sender)


@lru_cache(1024)
def _names_none(integrations: bytes) -> bool:
    try:
        return _read(integrations) in (None, *EVERYTHING)
    except _UNREADABLE:
        return False


@lru_cache(1024)
def _is_fine(limits: Limits, unread: bytes) -> bool:
    try:
        check_shape({"unread": _read(unread)}, limits)
    except _REFUSED:
        return False
    return True


def _call_of(sender: Sender, limits: Limits, call: str, **said: Any) -> Draft | None:
    """What the long way makes of a call of which only this much is said; None where it refuses or cannot read it."""
    try:
        return read_segment(call, _item(said, limits), sender, _NEVER, {})
    except _REFUSED:
        return None


def _native_of(sender: Sender, limits: Limits, kind: str, **said: Any) -> Draft | None:
    try:
        return read_native({"kind": kind, **_item(said, limits)}, sender, _NEVER)
    except _REFUSED:
        return None


def _item(said: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The item as if no more had been said. Raises InvalidField for a shape that is refused."""
    item: dict[str, Any] = {}
    for name, value in said.items():
        if type(value) is not bytes:
            if value is not None:
                item[name] = value
        elif value:
            item[name] = _part(value, limits)
    return item


def _part(raw: bytes, limits: Limits) -> Any:
    """One part of an item, None where it was not sent."""
    if not raw:
        return None
    part = _read(raw)
    if not _shows_its_shape(raw, limits):
        check_shape({"part": part}, limits)
    return part


def _shows_its_shape(part: bytes, limits: Limits) -> bool:
    """Whether the bytes alone show that `check_shape` passes: neither depth nor keys can exceed all brackets and colons
    there are, and integers of fewer digits fit. The strict reader took it, and it holds no NUL."""
    nested = part.count(b"{") + part.count(b"[") < limits.depth
    return nested and part.count(b":") <= limits.object_keys and _LONG_NUMBER.search(part) is None


def _who(draft: Draft | None, sender: Sender) -> Who | None:
    """None where not all that is said of somebody may be believed."""
    try:
        person = None if draft is None else person_of(draft, sender)
    except InvalidField:
        return None
    if person is None or person.unverified or person.left_out:
        return None
    return Who(person.leaves, person.identifiers, tuple([text.encode() for text in person.known]))


def _told_draft(draft: Draft | None, sender: Sender, limits: Limits) -> Told | None:
    """What a view or a native touchpoint tells; its channel is its own."""
    if draft is None:
        return None
    try:
        return _told(draft.kind, draft.channel, draft.name, draft.properties, sender, limits)
    except InvalidField:
        return None


def _told(kind: str, channel: str, name: str, properties: dict[str, Any], sender: Sender, limits: Limits) -> Told:
    check_name(name, limits)
    properties = normalise(kind, properties, sender.default_currency)
    sieve = ListeningSieve(sender.leaf_secret)
    traits: dict[str, Any] = {}
    personal: dict[str, Any] = {}
    holds = _encode((properties, name))
    readable = Raw(_encode(part_properties(kind, properties, sieve, traits, personal)))
    name = part_name(name, sieve, personal)
    if traits:
        personal["traits"] = traits
    if not sieve.heard:
        return Told(kind, channel, name, readable, personal, (), holds)
    campaign = tuple(sieve.heard)
    return Told(kind, channel, name, readable, personal, campaign, holds + _encode(campaign))


def _place(draft: Draft | None, sender: Sender) -> Place | None:
    """None where its traits say who it was."""
    if draft is None or draft.offered:
        return None
    sieve = ListeningSieve(sender.leaf_secret)
    traits: dict[str, Any] = {}
    personal: dict[str, Any] = {}
    holds = _encode((draft.context, draft.traits))
    side = side_channel(draft.context, sender)
    readable = part_context(draft.context, draft.traits, sieve, traits, personal)
    if traits:
        personal["traits"] = traits
    campaign = tuple(sieve.heard)
    return Place(side, readable, Raw(_encode(readable)), personal, campaign, holds + _encode(campaign))


@lru_cache(4096)
def _with_campaign(place: Place, campaign: Campaign) -> Raw:
    """The context with what addresses say of a campaign, the first word of each kind, unless it names one itself."""
    if "campaign" in place.readable:
        return place.context
    return Raw(_encode({**place.readable, "campaign": dict(reversed(campaign))}))
