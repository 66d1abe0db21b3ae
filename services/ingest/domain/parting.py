"""A draft parted: the touchpoint's readable properties and context, and everything about the person for sealing."""

from typing import Any

import msgspec

from services.ingest.domain.draft import Draft
from services.ingest.domain.personal import Sieve
from services.ingest.domain.terms import Arrival, Sender
from services.ingest.domain.traces import Around, may_stay
from shared.events import PUBLIC
from shared.vocabulary import KINDS, PERSONAL_PROPERTIES, normalise

_ABOUT_THINGS = frozenset(("behaviour", "commerce", "message"))
_ABOUT = {name: Around.THING if kind.group in _ABOUT_THINGS else Around.NEUTRAL for name, kind in KINDS.items()}
_BUSINESS_KEYS = {kind.name: frozenset(p.name for p in kind.properties if p.type == "id") for kind in KINDS.values()}
_PROMOTED = (("ip", "ip"), ("userAgent", "user_agent"), ("user_agent", "user_agent"))


class Person(msgspec.Struct, frozen=True):
    """Who it was. `leaves`: by rank, the first owns the touchpoint · `identifiers`: [kind, value] parallel to them ·
    `known`: every spelling of them that is long enough to be told from other text · `unverified`: what the sender may
    not assert · `left_out`: wrong identifiers by path · `alias`: leaf of an earlier user."""

    leaves: tuple[bytes, ...]
    identifiers: list[list[str]]
    known: list[str]
    unverified: dict[str, Any]
    left_out: dict[str, Any]
    alias: bytes | None


class Parted(msgspec.Struct, frozen=True):
    """`properties`, `context`, `name`: readable · `personal`: identifiers, traits, text (properties by dotted path),
    context, ip, user_agent, url, name, left_out; empty ones are absent."""

    properties: dict[str, Any]
    context: dict[str, Any]
    name: str
    personal: dict[str, Any]


def part_draft(draft: Draft, person: Person, sender: Sender, arrival: Arrival) -> Parted:
    """Normalise by the vocabulary, then part. Raises InvalidField (`properties.<name>`) as the vocabulary does."""
    properties = normalise(draft.kind, draft.properties, sender.default_currency)
    sieve = Sieve(person.known, sender.leaf_secret)
    traits: dict[str, Any] = dict(person.unverified)
    personal: dict[str, Any] = {"identifiers": person.identifiers}
    properties = part_properties(draft.kind, properties, sieve, traits, personal)
    context = part_context(draft.context, draft.traits, sieve, traits, personal)
    if sieve.campaign and "campaign" not in context:
        context["campaign"] = sieve.campaign
    name = part_name(draft.name, sieve, personal)
    if traits:
        personal["traits"] = traits
    if person.left_out:
        personal["left_out"] = person.left_out
    if sender.trust == PUBLIC and arrival.remote_ip:
        personal.setdefault("ip", arrival.remote_ip)
    return Parted(properties, context, name, personal)


def part_properties(
    kind: str, properties: dict[str, Any], sieve: Sieve, traits: dict[str, Any], personal: dict[str, Any]
) -> dict[str, Any]:
    """The readable ones of normalised properties (which are changed); sealed ones go into `personal` as `text` and
    `url`, personal traits to `traits`, while the others stay in `properties.traits`."""
    about = _ABOUT[kind]
    text: dict[str, Any] = {}
    sent_traits = properties.pop("traits", None)
    readable = sieve.part(properties, text, about, PERSONAL_PROPERTIES[kind], own=_BUSINESS_KEYS[kind])
    if type(sent_traits) is dict:
        owner = Around.THING if kind == "grouped" else Around.PERSON
        readable["traits"] = sieve.part(sent_traits, traits, owner)
    elif sent_traits is not None:
        text["traits"] = sent_traits
    if text:
        url = text.pop("url", None)
        if url:
            personal["url"] = url
        if text:
            personal["text"] = text
    return readable


def part_context(
    context: dict[str, Any],
    context_traits: dict[str, Any],
    sieve: Sieve,
    traits: dict[str, Any],
    personal: dict[str, Any],
) -> dict[str, Any]:
    """The readable part of a context and of the traits that came inside it; what is sealed goes into `personal` as
    `ip`, `user_agent` and `context`, personal traits to `traits`."""
    sealed: dict[str, Any] = {}
    readable = sieve.part(context, sealed) if context else {}
    if context_traits:
        kept = sieve.part(context_traits, traits, Around.PERSON)
        if kept:
            readable["traits"] = kept
    for sent, field in _PROMOTED:
        if sent in sealed:
            personal.setdefault(field, sealed.pop(sent))
    if sealed:
        personal["context"] = sealed
    return readable


def part_name(name: str, sieve: Sieve, personal: dict[str, Any]) -> str:
    """The name where it may stay readable; else "", and it is sealed."""
    if name and (sieve.mentions(name) or not may_stay(name)):
        personal["name"] = name
        return ""
    return name
