"""The table of touchpoint kinds: what each one means, carries and changes. Everything else here is derived from it."""

from typing import Any

import msgspec

CHANNELS = ("web", "app", "email", "sms", "push", "phone", "in_person", "support", "survey", "store", "server", "other")
"""Where a touchpoint can take place."""

CSAT_LOW = 2
"""A CSAT answer up to this (of 1..5) is a bad experience."""
NPS_LOW = 6
"""An NPS answer up to this (of 0..10) is a bad experience: a detractor (Reichheld 2003)."""
SCALES: dict[str, tuple[int, int]] = {"csat": (1, 5), "nps": (0, 10), "ces": (1, 7)}
"""Survey metric → lowest and highest score."""


class Property(msgspec.Struct, frozen=True):
    """One declared property of a kind.

    `type`: text, id, integer, boolean, time, object, choice, amount (money in major units) or currency ·
    `low`/`high`: inclusive bounds of an integer · `choices`: allowed words · `key`: the business key ·
    `personal`: sealed at the door, never in a state · `aliases`: other names clients use, in order of preference.
    """

    name: str
    type: str
    about: str
    required: bool = False
    key: bool = False
    personal: bool = False
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Kind(msgspec.Struct, frozen=True):
    """One kind of touchpoint.

    `channel`: where it takes place unless said otherwise · `effect`: what it does to the profile ·
    `active`: the customer did it (it counts as activity), rather than the house or a machine.
    """

    name: str
    title: str
    group: str
    channel: str
    effect: str
    properties: tuple[Property, ...]
    example: dict[str, Any]
    active: bool = True


def _id(name: str, about: str, *aliases: str, key: bool = False, required: bool = False) -> Property:
    return Property(name, "id", about, key=key, required=required, aliases=aliases)


def _text(name: str, about: str, *aliases: str, personal: bool = False, required: bool = False) -> Property:
    return Property(name, "text", about, personal=personal, required=required, aliases=aliases)


_AMOUNT = (
    Property("amount", "amount", "money in major units; kept as `amount_minor`", aliases=("total", "revenue", "value")),
    Property("currency", "currency", "ISO 4217 code; required with an amount unless the workspace has a default"),
)
_ORDER = _id("order_id", "the shop's order number", "orderId", "order", "transaction_id", key=True)
_PRODUCT = _id("product_id", "the product", "productId", "sku")
_URL = _text("url", "address of the page")
_TITLE = _text("title", "title of the page or screen")
_MESSAGE = (
    _id("message_id", "the one message sent to this person", "messageId", key=True),
    _text("campaign", "name of the campaign", "campaign_name"),
    _text("subject", "subject line", personal=True),
)
_LINK = _text("link", "the link that was followed", "url")
_REPLY = _text("text", "what was written", "body", "message", personal=True)
_TICKET = _id("ticket_id", "number of the ticket", "ticketId", key=True)
_TICKET_KNOWN = _id("ticket_id", "number of the ticket", "ticketId", key=True, required=True)
_SUBJECT = _text("subject", "what it is about", personal=True)
_PRIORITY = Property("priority", "choice", "urgency", choices=("low", "normal", "high", "urgent"))
_REASON = _text("reason", "why, in words", personal=True)
_COMMENT = _text("comment", "what the customer wrote", "text", personal=True)
_SUBSCRIPTION = (
    _id("subscription_id", "the subscription; without one the customer has a single one", "subscriptionId", key=True),
    _text("plan", "name of the plan"),
    Property("ends_at", "time", "end of the paid term", aliases=("endsAt", "expires_at", "current_period_end")),
)
_TRAITS = Property("traits", "object", "names and values; personal ones are sealed at the door")


def _message(name: str, title: str, channel: str, /, *more: Property, active: bool = True, **example: Any) -> Kind:
    sample = {"message_id": "m-801", "campaign": "spring", **example}
    effect = f"first time this message was {title.split(' ', 1)[1]}; without `message_id` it is counted as it comes"
    return Kind(name, title, "message", channel, effect, (*_MESSAGE, *more), sample, active)


def _seen(name: str, title: str, channel: str, group: str, /, *properties: Property, **example: Any) -> Kind:
    return Kind(name, title, group, channel, "counted; a sign of activity", properties, example)


_BEHAVIOUR = (
    _seen("page_viewed", "Page viewed", "web", "behaviour", _URL, _TITLE, url="https://shop.example/sale"),
    _seen("screen_viewed", "Screen viewed", "app", "behaviour", _TITLE, title="Basket"),
    _seen("product_viewed", "Product viewed", "web", "behaviour", _PRODUCT, _URL, product_id="p-17"),
    _seen("searched", "Searched", "web", "behaviour",
          _text("query", "the words searched for", "q", personal=True),
          Property("results", "integer", "how many were found", low=0), query="red shoes", results=12),
    _seen("logged_in", "Logged in", "web", "behaviour", _text("method", "how"), method="password"),
    _seen("feature_used", "Feature used", "app", "behaviour", _text("feature", "its name", required=True),
          feature="export"),
    _seen("form_submitted", "Form submitted", "web", "behaviour", _text("form", "name of the form"), form="newsletter"),
    _seen("enquired", "Enquired", "web", "behaviour", _PRODUCT,
          _text("message", "what was asked", "text", "question", personal=True), product_id="p-17"),
)  # fmt: skip

_COMMERCE = (
    Kind("cart_updated", "Cart updated", "commerce", "web", "counted; a sign of activity and of intent",
         (_id("cart_id", "the cart", "cartId"), Property("items", "integer", "how many lines it has now", low=0),
          *_AMOUNT), {"cart_id": "c-4", "items": 2, "amount": 39.8, "currency": "EUR"}),
    Kind("checkout_started", "Checkout started", "commerce", "web", "counted; a sign of activity and of intent",
         (_id("cart_id", "the cart", "cartId"), *_AMOUNT), {"cart_id": "c-4", "amount": 39.8, "currency": "EUR"}),
    Kind("purchased", "Purchased", "commerce", "web",
         "one order per `order_id`, whoever reports it and however often: its time is the earliest report, its amount "
         "the best trusted, then latest, one", (_ORDER, *_AMOUNT),
         {"order_id": "1001", "amount": "39.80", "currency": "EUR"}),
    Kind("refunded", "Refunded", "commerce", "server",
         "takes money back from its order; without an amount the whole order is cancelled",
         (_ORDER, _id("refund_id", "the refund; its copies count once", "refundId"), *_AMOUNT, _REASON),
         {"order_id": "1001", "refund_id": "r-1", "amount": "9.95", "currency": "EUR"}, active=False),
    Kind("payment_failed", "Payment failed", "commerce", "server",
         "counted; a failed payment of a subscription is kept with it",
         (_SUBSCRIPTION[0], *_AMOUNT, _REASON), {"subscription_id": "s-9", "amount": "12.00", "currency": "EUR"},
         active=False),
)  # fmt: skip

_MESSAGES = (
    _message("email_delivered", "Email delivered", "email", active=False),
    _message("email_opened", "Email opened", "email"),
    _message("email_clicked", "Email clicked", "email", _LINK, link="https://shop.example/sale"),
    _message("email_bounced", "Email bounced", "email", _REASON, active=False),
    _message("email_unsubscribed", "Email unsubscribed from", "email"),
    _message("email_marked_spam", "Email marked as spam", "email"),
    _message("sms_sent", "SMS sent", "sms", active=False),
    _message("sms_replied", "SMS replied to", "sms", _REPLY, text="yes please"),
    _message("push_sent", "Push sent", "push", active=False),
    _message("push_opened", "Push opened", "push"),
)

_CONTACT = (
    Kind("call_made", "Call made", "contact", "phone",
         "one call per `call_id`; activity when it came in or was answered",
         (_id("call_id", "the call", "callId", key=True),
          Property("direction", "choice", "from the customer (in) or to the customer (out)", choices=("in", "out"),
                   required=True),
          Property("answered", "boolean", "somebody spoke"),
          Property("duration_seconds", "integer", "how long", low=0, high=604_800, aliases=("duration",)),
          _text("notes", "what was said", "note", personal=True)),
         {"call_id": "call-77", "direction": "in", "answered": True, "duration_seconds": 240}),
    _seen("meeting_held", "Meeting held", "in_person", "contact",
          Property("duration_seconds", "integer", "how long", low=0, high=604_800, aliases=("duration",)),
          _text("notes", "what was said", "note", personal=True), duration_seconds=1800),
)  # fmt: skip

_SUPPORT = (
    Kind("ticket_opened", "Ticket opened", "support", "support",
         "one ticket per `ticket_id`, open from its earliest report",
         (_TICKET, _PRIORITY, _SUBJECT, _REPLY), {"ticket_id": "T-5", "priority": "high", "subject": "late again"}),
    Kind("ticket_replied", "Ticket replied to", "support", "support",
         "counted; a sign of activity unless an agent wrote",
         (_TICKET_KNOWN, Property("by", "choice", "who wrote", choices=("customer", "agent")), _REPLY),
         {"ticket_id": "T-5", "by": "customer", "text": "any news?"}),
    Kind("ticket_resolved", "Ticket resolved", "support", "support", "its ticket is resolved since then",
         (_TICKET_KNOWN,), {"ticket_id": "T-5"}, active=False),
    Kind("ticket_reopened", "Ticket reopened", "support", "support",
         "its ticket is open again: a bad experience", (_TICKET_KNOWN, _REASON), {"ticket_id": "T-5"}),
)  # fmt: skip

_FEEDBACK = (
    Kind("complained", "Complained", "feedback", "support", "one complaint per `complaint_id`: a bad experience",
         (_id("complaint_id", "the complaint", "complaintId", key=True), _SUBJECT, _COMMENT),
         {"complaint_id": "k-3", "comment": "broken on arrival"}),
    Kind("survey_answered", "Survey answered", "feedback", "survey",
         f"one answer per `response_id`, the latest report; CSAT up to {CSAT_LOW} and NPS up to {NPS_LOW} are bad "
         "experiences",
         (_id("response_id", "the answer", "responseId", key=True),
          Property("metric", "choice", "what was asked: satisfaction, recommendation or effort",
                   choices=("csat", "nps", "ces"), required=True),
          Property("score", "integer", "CSAT 1..5, NPS 0..10, CES 1..7", required=True, low=0, high=10),
          _COMMENT), {"response_id": "a-12", "metric": "csat", "score": 2, "comment": "slow"}),
    _seen("reviewed", "Reviewed", "web", "feedback", _PRODUCT,
          Property("stars", "integer", "1..5", low=1, high=5, aliases=("rating",)),
          _text("text", "the review", "review", "comment", personal=True), product_id="p-17", stars=5),
    _seen("referred", "Referred", "web", "feedback",
          _text("friend", "who was invited", "invitee", "email", personal=True), friend="a friend"),
)  # fmt: skip

_SUBSCRIPTIONS = (
    Kind("subscription_started", "Subscription started", "subscription", "web",
         "one subscription per `subscription_id`",
         (*_SUBSCRIPTION, *_AMOUNT),
         {"subscription_id": "s-9", "plan": "pro", "ends_at": "2025-02-01T00:00:00Z", "amount": 12, "currency": "EUR"}),
    Kind("subscription_renewed", "Subscription renewed", "subscription", "server",
         "its subscription runs on; several reports in one UTC day are one renewal", (*_SUBSCRIPTION, *_AMOUNT),
         {"subscription_id": "s-9", "ends_at": "2025-03-01T00:00:00Z", "amount": 12, "currency": "EUR"}, active=False),
    Kind("subscription_cancelled", "Subscription cancelled", "subscription", "web",
         "its subscription ends at `ends_at`, or at once", (*_SUBSCRIPTION, _REASON), {"subscription_id": "s-9"}),
    Kind("cancellation_intended", "Cancellation intended", "subscription", "web",
         "counted; looking for the way out is a bad experience", (_SUBSCRIPTION[0], _REASON),
         {"subscription_id": "s-9"}),
)  # fmt: skip

_IDENTITY = (
    Kind("identified", "Identified", "identity", "server", "traits, each by its last writer", (_TRAITS,),
         {"traits": {"plan": "pro", "name": "Sara"}}, active=False),
    Kind("grouped", "Grouped", "identity", "server", "the group becomes the trait `group_id`",
         (_id("group_id", "the company or household", "groupId", key=False, required=True), _TRAITS),
         {"group_id": "acme", "traits": {"size": 12}}, active=False),
)  # fmt: skip

_OTHER = (
    Kind("note_added", "Note added", "other", "server", "counted; its words stay in the personal store",
         (_text("topic", "what it is about, e.g. churn_reason or special_need"),
          _text("text", "the note", "note", "body", personal=True)),
         {"topic": "special_need", "text": "calls after six"}, active=False),
    Kind("experiment_exposed", "Experiment exposed", "other", "web", "counted",
         (_text("experiment", "its name", required=True), _text("variant", "what was shown")),
         {"experiment": "checkout", "variant": "b"}, active=False),
    Kind("custom", "Custom", "other", "web", "counted; a sign of activity; its own name is kept beside it", (),
         {"colour": "blue"}),
)  # fmt: skip

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *_BEHAVIOUR, *_COMMERCE, *_MESSAGES, *_CONTACT, *_SUPPORT, *_FEEDBACK, *_SUBSCRIPTIONS, *_IDENTITY, *_OTHER,
    )
}  # fmt: skip
"""Every kind by its name, in the order of the reference page."""

PERSONAL_TRAITS = frozenset(
    {
        "name", "first_name", "last_name", "full_name", "firstname", "lastname", "fullname", "middle_name",
        "nickname", "username", "email", "emails", "phone", "phones", "mobile", "address", "addresses",
        "street", "postcode", "postal_code", "zip", "birthday", "birth_date", "date_of_birth", "national_id",
        "passport", "avatar", "photo", "picture", "ip", "ip_address", "latitude", "longitude",
    }
)  # fmt: skip
"""Traits that are personal data wherever they appear (compared in snake case)."""
PERSONAL_ANYWHERE = PERSONAL_TRAITS - {"name", "nickname", "username", "avatar", "photo", "picture"}
"""Of these, the names that mean a person even as an undeclared property of a touchpoint (a product has a name too)."""
