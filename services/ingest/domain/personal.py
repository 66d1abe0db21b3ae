"""Parts what may stay readable in the log from what must be sealed (design §6), at any depth."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote_plus

from services.ingest.domain.traces import (
    ADDRESS,
    ID,
    NAMED,
    NUMBERED,
    PERSON,
    REMEMBERED_CHARACTERS_MAX,
    SEALED,
    THING,
    Around,
    Name,
    before_query,
    is_suspect,
    is_url,
    looks_personal,
    name_says,
    object_says,
    stays,
)

_NOTHING: frozenset[str] = frozenset()
KNOWN_CHARACTERS_MIN = 6
"""A shorter identifier stands in other text by chance."""
_ADDRESS_CHARACTERS_MAX = 256
_CAMPAIGN = {"utm_source": "source", "utm_medium": "medium", "utm_campaign": "name", "utm_term": "term",
             "utm_content": "content"}  # fmt: skip

Campaign = tuple[tuple[str, str], ...]
"""Segment's words for a campaign, with what an address says for each; in the address's order."""


class Sieve:
    """Parts the values of one touchpoint. `campaign` gathers what `utm_` parameters it met, in Segment's words."""

    __slots__ = ("_identifiers", "_plain_below", "_secret", "_shortest", "campaign")

    def __init__(self, identifiers: Sequence[str], secret: bytes) -> None:
        """`identifiers`: this touchpoint's own, as sent and normalised; wherever one of them comes up again, that text
        is sealed · `secret`: keys the stand-ins of ids that are personal (at most 64 bytes)."""
        self._identifiers = identifiers
        self._shortest = min(map(len, identifiers)) if identifiers else sys.maxsize
        self._plain_below = min(self._shortest, REMEMBERED_CHARACTERS_MAX + 1)
        self._secret = secret
        self.campaign: dict[str, str] = {}

    def part(
        self,
        values: dict[str, Any],
        sealed: dict[str, Any],
        around: Around = Around.NEUTRAL,
        hidden: frozenset[str] = _NOTHING,
        path: str = "",
        own: frozenset[str] = _NOTHING,
    ) -> dict[str, Any]:
        """The readable part of `values`, a new dict; the rest goes into `sealed` under its dotted path.

        `around`: what `values` describes · `hidden`: names that are sealed on the first level (the vocabulary's) ·
        `own`: names of business keys there. These stay even where they equal an identifier: the copy of an order that
        another source sends knows nothing of this one's identifiers, and must find it.
        """
        readable: dict[str, Any] = {}
        shortest, plain_below = self._shortest, self._plain_below
        for name, value in values.items():
            kind = type(value)
            if kind is str and name not in hidden and len(name) < plain_below > len(value) and stays(name, value):
                readable[name] = value
                continue
            says = name_says(name)
            if (
                (says >= NAMED and _is_sealed(says, around))
                or name in hidden
                or (len(name) >= shortest and self.mentions(name))
            ):
                _seal(sealed, path + name, value)
                continue
            if kind is str:
                mentioned = len(value) >= shortest and self.mentions(value) and name not in own
                if mentioned or is_suspect(value) or (says == ADDRESS and ";" in value):
                    value = self._text(value, says, mentioned, sealed, path + name)
                    if value is None:
                        continue
            elif kind is dict:
                value = self.part(value, sealed, object_says(name, around), _NOTHING, f"{path}{name}.")
            elif kind is list:
                value = self._list(value, name, sealed, object_says(name, around), path + name)
            readable[name] = value
        return readable

    def met(self, campaign: "Campaign") -> None:
        """What an address says of its campaign; the first word holds. Decoded, it may mention somebody after all."""
        for word, value in campaign:
            if not self.mentions(value):
                self.campaign.setdefault(word, value)

    def _list(self, values: list[Any], name: str, sealed: dict[str, Any], around: Around, path: str) -> list[Any]:
        """Like an object whose every element has the list's name; what is sealed is left out."""
        kept = (
            self.part({name: value}, sealed, around, _NOTHING, f"{path}[{index}].")
            if type(value) is not dict
            else {name: self.part(value, sealed, around, _NOTHING, f"{path}[{index}].")}
            for index, value in enumerate(values)
        )
        return [part[name] for part in kept if name in part]

    def mentions(self, text: str) -> bool:
        """Whether one of the touchpoint's own identifiers stands in `text`."""
        for identifier in self._identifiers:  # noqa: SIM110 - a generator would double the cost of this hot line
            if identifier in text:
                return True
        return False

    def _text(self, text: str, says: Name, mentioned: bool, sealed: dict[str, Any], path: str) -> str | None:
        """What may stay of a suspect text: itself, a stand-in, an address without its query, or None."""
        is_number = says in (ID, NUMBERED)
        if says == ADDRESS or is_url(text):
            return self._address(text, sealed, path)
        if not mentioned and not looks_personal(text, is_number):
            return text
        sealed[path] = text
        return self._stand_in(text) if is_number else None

    def _address(self, url: str, sealed: dict[str, Any], path: str) -> str | None:
        kept, campaign = _address_parts(url) if len(url) <= _ADDRESS_CHARACTERS_MAX else _cut_address(url)
        self.met(campaign)
        if kept is None or self.mentions(kept):
            sealed[path] = url
            return None
        if len(kept) < len(url):
            sealed[path] = url
        return kept or None

    def _stand_in(self, text: str) -> str:
        """The same id gives the same stand-in within a workspace, so that copies of one order still meet."""
        return "h_" + blake2b(text.encode(), key=self._secret, digest_size=12).hexdigest()


class ListeningSieve(Sieve):
    """Of nobody's touchpoint yet. Keeps all that addresses say of campaigns: which of it holds is decided later."""

    __slots__ = ("heard",)

    def __init__(self, secret: bytes) -> None:
        super().__init__((), secret)
        self.heard: list[tuple[str, str]] = []

    def met(self, campaign: Campaign) -> None:
        self.heard += campaign


def _cut_address(url: str) -> tuple[str | None, Campaign]:
    """What stays of an address (None: it looks personal itself), and the campaign its query names."""
    kept = before_query(url)
    campaign = _campaign_of(url[len(kept) :])
    return None if is_suspect(kept) and looks_personal(kept) else kept, campaign


_address_parts = lru_cache(4096)(_cut_address)  # a site has few pages that most of its views are of


def _campaign_of(query: str) -> Campaign:
    if "utm_" not in query:
        return ()
    fields = (field.partition("=") for field in query.partition("#")[0][1:].split("&"))
    named = ((_CAMPAIGN[name], unquote_plus(value)) for name, _, value in fields if name in _CAMPAIGN)
    return tuple((word, value) for word, value in named if value and not (is_suspect(value) and looks_personal(value)))


def _is_sealed(says: Name, around: Around) -> bool:
    if says == SEALED:
        return True
    return around != THING if says == NAMED else around == PERSON


def _seal(sealed: dict[str, Any], path: str, value: Any) -> None:
    if value is not None and value != "":
        sealed[path] = value
