"""Segment's six calls as touchpoints: which kind, whose, when, where (protocols: Segment HTTP API, RudderStack)."""

from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from services.ingest.domain.draft import Draft, Offered, as_identifier, as_object, pair
from services.ingest.domain.terms import Arrival, Sender
from services.ingest.domain.times import when
from shared.errors import InvalidField
from shared.events import PUBLIC
from shared.vocabulary import KINDS

CALLS = ("identify", "track", "page", "screen", "group", "alias")

EVENT_KINDS: dict[str, str] = {
    "products searched": "searched",
    "product added": "cart_updated",
    "product removed": "cart_updated",
    "cart viewed": "cart_updated",
    "order completed": "purchased",
    "order refunded": "refunded",
    "order cancelled": "refunded",
    "order canceled": "refunded",
    "product reviewed": "reviewed",
    "experiment viewed": "experiment_exposed",
    "email link clicked": "email_clicked",
    "email marked as spam": "email_marked_spam",
    "unsubscribed": "email_unsubscribed",
    "push notification received": "push_sent",
    "push notification tapped": "push_opened",
    "signed in": "logged_in",
    "subscription canceled": "subscription_cancelled",
}
"""Names of Segment's ecommerce, email and mobile specs (lower case) → kind; names of kinds themselves need no entry."""

_OWN_IDS = (("user", "userId"), ("anonymous", "anonymousId"))
_CANCELLED = frozenset(("order cancelled", "order canceled"))
_MONEY = frozenset(("amount", "amount_minor", "total", "revenue", "value"))
_RENAMED = {
    "email_opened": (("email_id", "message_id"),),
    "email_clicked": (("email_id", "message_id"), ("link_url", "link")),
    "email_delivered": (("email_id", "message_id"),),
    "email_bounced": (("email_id", "message_id"),),
    "email_unsubscribed": (("email_id", "message_id"),),
    "email_marked_spam": (("email_id", "message_id"),),
    "reviewed": (("review_body", "text"),),
    "experiment_exposed": (("experiment_name", "experiment"), ("variation_name", "variant")),
}
"""Kind → names of Segment's specs that the vocabulary knows under another one."""

_NOT_BY_NAME = frozenset(("identified", "grouped", "custom"))
_CHANNEL_WORDS = {"web": "web", "browser": "web", "mobile": "app", "app": "app", "server": "server"}
_OWN_PLACE = frozenset(("message", "contact", "support", "feedback"))
EVERYTHING: tuple[dict[str, Any], ...] = ({}, {"All": True}, {"all": True})
"""`integrations` that name none: nothing to keep."""


@lru_cache(4096)
def kind_of_event(event: str) -> str:
    """The kind a track event's name stands for; `custom` for all names that mean nothing to the vocabulary."""
    plain = " ".join(event.replace("_", " ").replace("-", " ").lower().split())
    kind = EVENT_KINDS.get(plain) or plain.replace(" ", "_")
    return kind if kind in KINDS and kind not in _NOT_BY_NAME else "custom"


def read_segment(
    call: str | None, item: dict[str, Any], sender: Sender, arrival: Arrival, envelope_context: dict[str, Any]
) -> Draft:
    """The draft of one call. Raises InvalidField with the path for what is wrong in the call itself."""
    call = _call(call, item)
    context = as_object(item.get("context"), "context")
    context = {**envelope_context, **context} if envelope_context else dict(context)
    traits = as_object(context.pop("traits"), "context.traits") if "traits" in context else {}
    draft = Draft(
        kind="identified",
        channel="",
        when=_when(item, arrival),
        offered=_offered(item, traits, sender),
        properties={},
        client_id=pair(item, "messageId"),
        identifier_path="userId",
        context=context,
        traits=traits,
    )
    _CALLS[call](draft, item, sender)
    draft.channel = _channel(draft.kind, item.get("channel"), context, sender)
    if "integrations" in item:
        integrations = as_object(item["integrations"], "integrations")
        if integrations not in EVERYTHING:
            context["integrations"] = integrations
    return draft


def _call(call: str | None, item: dict[str, Any]) -> str:
    said = call if call is not None else item.get("type")
    if type(said) is str and said in _CALLS:
        return said
    if said is None:
        raise InvalidField("type", f"is missing: every item of a batch says {', '.join(CALLS)}", "missing")
    near = get_close_matches(said.lower()[:20], CALLS, n=1) if isinstance(said, str) else []
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InvalidField("type", f"must be one of {', '.join(CALLS)}{hint}", "unknown_type")


def _when(item: dict[str, Any], arrival: Arrival) -> Any:
    """Both times present: the caller set `timestamp` on purpose (RudderStack). One: it is the device's clock."""
    timestamp = pair(item, "timestamp")
    sent = pair(item, "sentAt") if "sentAt" in item else None
    original = pair(item, "originalTimestamp") if "originalTimestamp" in item else None
    if original is None:
        return when(arrival, original=timestamp, sent=sent)
    return when(arrival, original=original, kept=timestamp, sent=sent)


def _offered(item: dict[str, Any], traits: dict[str, Any], sender: Sender) -> list[Offered]:
    """User and anonymous id, and what a trusted sender says in `context.traits`. One wrong id of two is left out: a
    site that sends `userId: "undefined"` still has its visitor's anonymous id."""
    offered = []
    for kind, field in _OWN_IDS:
        value = item.get(field)
        if value is not None and value != "":
            offered.append(Offered(kind, field, value, False))
    return offered + _verified_traits(traits, "context.traits", sender) if traits else offered


def _verified_traits(traits: dict[str, Any], path: str, sender: Sender) -> list[Offered]:
    if sender.trust == PUBLIC or not traits:
        return []
    return [
        Offered(kind, f"{path}.{kind}", traits[kind], strict=False) for kind in ("email", "phone") if traits.get(kind)
    ]


def _identify(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    """RudderStack puts traits only into `context.traits`; where both are there, the call's own win."""
    traits = as_object(item.get("traits"), "traits")
    draft.offered += _verified_traits(traits, "traits", sender)
    draft.properties = {"traits": {**draft.traits, **traits}}
    draft.traits = {}


def _track(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    properties = as_object(item.get("properties"), "properties")
    draft.kind, draft.name, draft.properties = tell_event(item.get("event"), properties)


def tell_event(event: Any, properties: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """(kind, name, properties) of a track call. Raises InvalidField when it names no event."""
    if not isinstance(event, str) or not event.strip():
        raise InvalidField("event", "is missing: a track call names its event", "missing")
    kind = kind_of_event(event)
    if kind == "custom":
        return kind, event.strip(), properties
    if kind == "refunded" and event.strip().lower() in _CANCELLED:
        # Without an amount a refund cancels its whole order; `total` is here the order's value, not money given back.
        properties = {name: value for name, value in properties.items() if name not in _MONEY}
    for spec_name, name in _RENAMED.get(kind, ()):
        if spec_name in properties and name not in properties:
            properties = {**properties, name: properties[spec_name]}
            del properties[spec_name]
    return kind, "", properties


def _page(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    """`context.page` says the same as the properties of a page call: it only fills what they leave out."""
    draft.kind = "page_viewed"
    page = draft.context.pop("page", None)
    draft.properties = {**(page if isinstance(page, dict) else {}), **_viewed(item)}


def _screen(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    draft.kind = "screen_viewed"
    draft.properties = _viewed(item)


def _viewed(item: dict[str, Any]) -> dict[str, Any]:
    properties = dict(as_object(item.get("properties"), "properties"))
    for name in ("name", "category"):
        if item.get(name) is not None:
            properties.setdefault(name, item[name])
    return properties


def _group(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    if item.get("groupId") is None:
        raise InvalidField("groupId", "is missing: a group call names its group", "missing")
    draft.kind = "grouped"
    traits = as_object(item.get("traits"), "traits")
    draft.properties = {"group_id": as_identifier(item["groupId"], "groupId"), "traits": traits}


def _alias(draft: Draft, item: dict[str, Any], sender: Sender) -> None:
    """The earlier id may have been an anonymous one: that tie anybody may make. That it was another user's id of the
    same person is believed of a secret key only. An id aliased to itself (seen from browsers) ties nothing."""
    if item.get("previousId") is None or item.get("userId") is None:
        missing = "userId" if item.get("userId") is None else "previousId"
        raise InvalidField(missing, "is missing: an alias call has userId and previousId", "missing")
    previous = as_identifier(item["previousId"], "previousId")
    if previous == as_identifier(item["userId"], "userId"):
        return
    draft.offered.append(Offered("anonymous", "previousId", previous))
    if sender.trust != PUBLIC:
        draft.alias_of = Offered("user", "previousId", previous)


_CALLS = {
    "identify": _identify, "track": _track, "page": _page, "screen": _screen, "group": _group, "alias": _alias,
}  # fmt: skip


def _channel(kind: str, said: Any, context: dict[str, Any], sender: Sender) -> str:
    return own_channel(kind) or said_channel(said) or side_channel(context, sender)


def own_channel(kind: str) -> str:
    """Messages, calls, tickets, surveys and views have a channel of their own; "" for all that may happen anywhere."""
    declared = KINDS[kind]
    return declared.channel if declared.group in _OWN_PLACE or kind in ("page_viewed", "screen_viewed") else ""


def said_channel(said: Any) -> str:
    """The channel a client's `channel` means, "" for words that mean none."""
    return _CHANNEL_WORDS.get(said, "") if isinstance(said, str) else ""


def side_channel(context: dict[str, Any], sender: Sender) -> str:
    """Where nobody says a channel, the sender's side decides."""
    if "page" in context:
        return "web"
    if "app" in context and "device" in context:
        return "app"
    return "web" if sender.trust == PUBLIC else "server"
