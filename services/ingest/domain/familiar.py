"""The short way in: of a plain item only who, when and its id are new; how the rest is judged was learnt before.

What an item tells (its event and properties), where it was (its context) and whose it is are judged by the functions of
the long way (`admission`), each once, and remembered by the very bytes they came in. The short way takes an item only
where no part of it changes how another is judged: no identifier of this person stands in what else it says. Of all
others it says None, and the long way judges them, with reasons. Both make the same touchpoint.
"""

import msgspec
from msgspec import Raw

from services.ingest.domain.admission import known_id
from services.ingest.domain.learnt import (
    REFUSED,
    Id,
    Place,
    Told,
    Who,
    is_fine,
    names_none,
    place_called,
    place_natively,
    told_event,
    told_natively,
    told_view,
    who_called,
    who_natively,
    with_campaign,
)
from services.ingest.domain.segment import said_channel
from services.ingest.domain.terms import Admitted, Arrival, Limits, Sender
from services.ingest.domain.times import When, when
from shared.events import PUBLIC, Touchpoint

ITEM_BYTES_MAX = 4096
"""Parts of larger items seldom come again, and would make a memory of thousands of them large."""
_NOTHING = Raw()


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


_read_call = msgspec.json.Decoder(_Call).decode
_read_native = msgspec.json.Decoder(_Native).decode


def recognise_call(
    kind: str | None, raw: bytes | Raw, sender: Sender, arrival: Arrival, limits: Limits
) -> Admitted | None:
    """A track, page or screen call; arguments as `admission.admit_segment`. `raw` holds no NUL character."""
    if len(raw) > ITEM_BYTES_MAX or len(raw) > limits.item_bytes:
        return None
    try:
        call = _read_call(raw)
        who = who_called(sender, limits, call.userId, call.anonymousId)
        context = bytes(call.context)
        said = call.type if kind is None else kind
        if said == "track":
            told = told_event(sender, limits, call.event, bytes(call.properties))
        elif said == "page" or said == "screen":
            seen = context if said == "page" else b""
            told = told_view(sender, limits, said, call.name, call.category, bytes(call.properties), seen)
        else:
            return None
        place = place_called(sender, limits, context, said == "page")
        if who is None or told is None or place is None or not call.messageId or _touch(who, told, place):
            return None
        if call.integrations is not _NOTHING and not names_none(bytes(call.integrations)):
            return None
        if call.metadata is not _NOTHING and not is_fine(limits, bytes(call.metadata)):
            return None
        id_, moment = known_id(call.messageId, "messageId", limits), _when_called(call, arrival)
    except REFUSED:
        return None
    channel = told.channel or (call.channel and said_channel(call.channel)) or place.side
    return _admitted(id_, moment, channel, who, told, place, sender, arrival)


def recognise_native(raw: bytes | Raw, sender: Sender, arrival: Arrival, limits: Limits) -> Admitted | None:
    """A native touchpoint; arguments as `admission.admit_native`. `raw` holds no NUL character."""
    if len(raw) > ITEM_BYTES_MAX or len(raw) > limits.item_bytes:
        return None
    try:
        sent = _read_native(raw)
        told = told_natively(
            sender, limits, sent.kind, sent.channel, sent.name, bytes(sent.properties), bytes(sent.traits)
        )
        place = place_natively(sender, limits, bytes(sent.context))
        who = who_natively(
            sender, limits, sent.user_id, sent.email, sent.phone, sent.anonymous_id, bytes(sent.identifiers)
        )
        if who is None or told is None or place is None or not sent.id or _touch(who, told, place):
            return None
        import_id = sent.import_id or ""
        if import_id and not (sender.history_allowed and 4 * len(import_id) <= limits.id_bytes):
            return None
        at = None if sent.occurred_at is None else ("occurred_at", sent.occurred_at)
        id_, moment = known_id(sent.id, "id", limits), when(arrival, original=at)
    except REFUSED:
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
        context = with_campaign(place, told.campaign + place.campaign)
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
    personal: dict[str, object] = {"identifiers": who.identifiers}
    if told.personal or place.personal:
        personal |= {**told.personal, **place.personal}
    if sender.trust == PUBLIC and arrival.remote_ip and "ip" not in personal:
        personal["ip"] = arrival.remote_ip
    return Admitted(touchpoint, personal, True, import_id)
