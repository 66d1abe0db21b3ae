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
    `known`: every spelling of them that is long enough to be told from other text · `alone`: none of these stands
    anywhere else in the item, as its bytes show · `unverified`: what the sender may not assert ·
    `left_out`: wrong identifiers by path · `alias`: leaf of an earlier user."""

    leaves: tuple[bytes, ...]
    identifiers: list[list[str]]
    known: list[str]
    alone: bool
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
    sieve = Sieve(person.known, sender.leaf_secret, person.alone)
    traits: dict[str, Any] = dict(person.unverified)
    properties, text = _part_properties(draft, properties, traits, sieve)
    context, around = _part_context(draft, traits, sieve)
    personal: dict[str, Any] = {"identifiers": person.identifiers}
    name = _part_name(draft.name, sieve, personal) if draft.name else ""
    url = text.pop("url", None) if text else None
    if traits:
        personal["traits"] = traits
    if text:
        personal["text"] = text
    if url:
        personal["url"] = url
    if person.left_out:
        personal["left_out"] = person.left_out
    if around:
        _promote(around, personal)
    if sender.trust == PUBLIC and arrival.remote_ip:
        personal.setdefault("ip", arrival.remote_ip)
    if around:
        personal["context"] = around
    return Parted(properties, context, name, personal)


def _part_properties(
    draft: Draft, properties: dict[str, Any], traits: dict[str, Any], sieve: Sieve
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(readable properties, sealed text); personal traits go to `traits`, the others stay in `properties.traits`."""
    about = _ABOUT[draft.kind]
    text: dict[str, Any] = {}
    sent_traits = properties.pop("traits", None)
    readable = sieve.part(properties, text, about, PERSONAL_PROPERTIES[draft.kind], own=_BUSINESS_KEYS[draft.kind])
    if type(sent_traits) is dict:
        owner = Around.THING if draft.kind == "grouped" else Around.PERSON
        readable["traits"] = sieve.part(sent_traits, traits, owner)
    elif sent_traits is not None:
        text["traits"] = sent_traits
    return readable, text


def _part_context(draft: Draft, traits: dict[str, Any], sieve: Sieve) -> tuple[dict[str, Any], dict[str, Any]]:
    """(readable context, sealed context). The campaign of a page's address is kept where the client names none."""
    sealed: dict[str, Any] = {}
    context = sieve.part_context(draft.context, sealed) if draft.context else {}
    if draft.traits:
        kept = sieve.part(draft.traits, traits, Around.PERSON)
        if kept:
            context["traits"] = kept
    if sieve.campaign and "campaign" not in context:
        context["campaign"] = sieve.campaign
    return context, sealed


def _part_name(name: str, sieve: Sieve, personal: dict[str, Any]) -> str:
    if sieve.mentions(name) or not may_stay(name):
        personal["name"] = name
        return ""
    return name


def _promote(sealed_context: dict[str, Any], personal: dict[str, Any]) -> None:
    for sent, field in _PROMOTED:
        if sent in sealed_context:
            personal.setdefault(field, sealed_context.pop(sent))
