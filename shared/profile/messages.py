"""Messages: what happened to each email, SMS and push notification, by its message id."""

from typing import Any

import msgspec

from shared.events import Touchpoint
from shared.profile.component import Component, Occurrence, Profile, Source, join_maps, text_of
from shared.vocabulary import KINDS

MARKS = (
    "email_delivered", "email_opened", "email_clicked", "email_bounced", "email_unsubscribed", "email_marked_spam",
    "sms_sent", "sms_replied", "push_sent", "push_opened",
)  # fmt: skip
"""What can happen to a message. The position is what a state keeps: only ever append."""

_CODES = {kind: code for code, kind in enumerate(MARKS)}


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`marks`: (position in MARKS, first time), ascending · `campaign`: greatest of the names reported."""

    marks: tuple[tuple[int, int], ...]
    campaign: str = ""

    def first(self, kind: str) -> int | None:
        """When this first happened to the message, in epoch milliseconds; None if never."""
        return next((at for code, at in self.marks if code == _CODES[kind]), None)


Messages = dict[str, Message]
"""Message id → message. A message event without an id is behaviour, counted as it comes."""


def _fold(state: Messages, touchpoint: Touchpoint, trust: int) -> None:
    message_id = text_of(touchpoint.properties, "message_id")
    if not message_id:
        return
    mark = (_CODES[touchpoint.kind], touchpoint.occurred_at)
    message, mine = Message((mark,), text_of(touchpoint.properties, "campaign")), state.get(message_id)
    state[message_id] = message if mine is None else _join(mine, message)


def _join(a: Message, b: Message) -> Message:
    marks = dict(a.marks)
    for code, at in b.marks:
        marks[code] = min(at, marks.get(code, at))
    return Message(tuple(sorted(marks.items())), max(a.campaign, b.campaign))


def _merge(a: Messages, b: Messages) -> Messages:
    return join_maps(a, b, _join)


def _occurrences(state: Messages) -> list[Occurrence]:
    kinds = [KINDS[kind] for kind in MARKS]
    return [
        Occurrence(MARKS[code], kinds[code].channel, at, kinds[code].active)
        for message in state.values()
        for code, at in message.marks
    ]


def _summary(state: Messages, at_ms: int) -> dict[str, Any]:
    counts = dict.fromkeys(MARKS, 0)
    for message in state.values():
        for code, _ in message.marks:
            counts[MARKS[code]] += 1
    return {"messages": {"count": len(state), **{kind: count for kind, count in counts.items() if count}}}


MESSAGES: Component[Messages] = Component(
    "messages",
    Messages,
    dict,
    dict.fromkeys(MARKS, _fold),
    _merge,
    _summary,
    dict.fromkeys(MARKS, "message_id"),
    _occurrences,
    {"messages.*": Source.ADDS},
)


def messages(profile: Profile) -> list[tuple[str, Message]]:
    """(message id, message), by id."""
    return sorted(MESSAGES.of(profile).items())
