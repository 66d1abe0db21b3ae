"""The parts of an item, each judged once and remembered by the very bytes it came in: who, what is told, the place.

Each part is judged by the functions of the long way, as if no more had been said. None stands for a part that only the
long way can judge: what is refused there, or what somebody may not assert.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from services.ingest.domain.admission import check_name, person_of
from services.ingest.domain.draft import Draft, as_object
from services.ingest.domain.native import read_native
from services.ingest.domain.parting import part_context, part_name, part_properties
from services.ingest.domain.personal import Campaign, ListeningSieve
from services.ingest.domain.segment import EVERYTHING, own_channel, read_segment, side_channel, tell_event
from services.ingest.domain.shape import check_shape
from services.ingest.domain.terms import Arrival, Limits, Sender
from shared.errors import InvalidField
from shared.vocabulary import normalise

Id = str | int | None
UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)
REFUSED = (InvalidField, *UNREADABLE)

_NEVER = Arrival(0)
_LONG_NUMBER = re.compile(rb"\d{19}")
_read = msgspec.json.Decoder().decode
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Who(msgspec.Struct, frozen=True, gc=False):
    """Whose an item is. `spellings`: every form of their identifiers that is long enough to be told from other text."""

    leaves: tuple[bytes, ...]
    identifiers: list[list[str]]
    spellings: tuple[str, ...]


class Told(msgspec.Struct, frozen=True, gc=False):
    """What an item tells, parted. `channel`: "" where others decide it · `properties`: encoded · `personal`: what of it
    is sealed · `campaign`: what its addresses say · `holds`: all its names and texts, to look for spellings in."""

    kind: str
    channel: str
    name: str
    properties: Raw
    personal: dict[str, Any]
    campaign: Campaign
    holds: str


class Place(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The context of an item, parted as in `Told`; `context` is `readable` encoded. `side`: the channel where nobody
    says one."""

    side: str
    readable: dict[str, Any]
    context: Raw
    personal: dict[str, Any]
    campaign: Campaign
    holds: str


@lru_cache(16384)
def who_called(sender: Sender, limits: Limits, user_id: Id, anonymous_id: Id) -> Who | None:
    return _who(_call_of(sender, limits, "screen", userId=user_id, anonymousId=anonymous_id), sender)


@lru_cache(16384)
def who_natively(
    sender: Sender, limits: Limits, user_id: Id, email: str | None, phone: Id, anonymous_id: Id, identifiers: bytes
) -> Who | None:
    said = {"user_id": user_id, "email": email, "phone": phone, "anonymous_id": anonymous_id}
    return _who(_native_of(sender, limits, "screen_viewed", **said, identifiers=identifiers), sender)


@lru_cache(8192)
def told_event(sender: Sender, limits: Limits, event: str | None, properties: bytes) -> Told | None:
    try:
        sent = as_object(_part(properties, limits), "properties")
        kind, name, normal = tell_event(event, sent)
        return _told(kind, own_channel(kind), name, normal, sender, limits)
    except REFUSED:
        return None


@lru_cache(8192)
def told_view(
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
def told_natively(
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
def place_called(sender: Sender, limits: Limits, context: bytes, of_page: bool) -> Place | None:
    """The context of a page call has lost its `page` to what the call tells."""
    return _place(_call_of(sender, limits, "page" if of_page else "screen", context=context), sender)


@lru_cache(8192)
def place_natively(sender: Sender, limits: Limits, context: bytes) -> Place | None:
    return _place(_native_of(sender, limits, "screen_viewed", context=context), sender)


@lru_cache(1024)
def names_none(integrations: bytes) -> bool:
    try:
        return _read(integrations) in (None, *EVERYTHING)
    except UNREADABLE:
        return False


@lru_cache(1024)
def is_fine(limits: Limits, unread: bytes) -> bool:
    try:
        check_shape({"unread": _read(unread)}, limits)
    except REFUSED:
        return False
    return True


def _call_of(sender: Sender, limits: Limits, call: str, **said: Any) -> Draft | None:
    """What the long way makes of a call of which only this much is said; None where it refuses or cannot read it."""
    try:
        return read_segment(call, _item(said, limits), sender, _NEVER, {})
    except REFUSED:
        return None


def _native_of(sender: Sender, limits: Limits, kind: str, **said: Any) -> Draft | None:
    try:
        return read_native({"kind": kind, **_item(said, limits)}, sender, _NEVER)
    except REFUSED:
        return None


def _item(said: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The item as if no more had been said. Raises InvalidField for a shape that is refused."""
    item: dict[str, Any] = {}
    for name, value in said.items():
        if type(value) is bytes:
            if value:
                item[name] = _part(value, limits)
        elif value is not None:
            item[name] = value
            if type(value) is int:
                check_shape(item, limits)
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
    return Who(person.leaves, person.identifiers, tuple([_sought(text.encode()) for text in person.known]))


def _sought(data: bytes) -> str:
    """A character a byte: Python looks for a text in a text many times faster than for bytes in bytes."""
    return data.decode("latin-1")


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
    holds = _sought(_encode((properties, name)))
    readable = Raw(_encode(part_properties(kind, properties, sieve, traits, personal)))
    name = part_name(name, sieve, personal)
    if traits:
        personal["traits"] = traits
    if not sieve.heard:
        return Told(kind, channel, name, readable, personal, (), holds)
    campaign = tuple(sieve.heard)
    return Told(kind, channel, name, readable, personal, campaign, holds + _sought(_encode(campaign)))


def _place(draft: Draft | None, sender: Sender) -> Place | None:
    """None where its traits say who it was."""
    if draft is None or draft.offered:
        return None
    sieve = ListeningSieve(sender.leaf_secret)
    traits: dict[str, Any] = {}
    personal: dict[str, Any] = {}
    holds = _sought(_encode((draft.context, draft.traits)))
    side = side_channel(draft.context, sender)
    readable = part_context(draft.context, draft.traits, sieve, traits, personal)
    if traits:
        personal["traits"] = traits
    campaign = tuple(sieve.heard)
    return Place(side, readable, Raw(_encode(readable)), personal, campaign, holds + _sought(_encode(campaign)))


@lru_cache(4096)
def with_campaign(place: Place, campaign: Campaign) -> Raw:
    """The context with what addresses say of a campaign, the first word of each kind, unless it names one itself."""
    if "campaign" in place.readable:
        return place.context
    return Raw(_encode({**place.readable, "campaign": dict(reversed(campaign))}))
