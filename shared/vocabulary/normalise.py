"""From what clients send to the one form the log keeps: names, types, ranges and money of each kind."""

import re
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from shared.epoch import epoch_ms
from shared.errors import InvalidField, quoted
from shared.vocabulary.kinds import CHANNELS, KINDS, PERSONAL_ANYWHERE, PERSONAL_TRAITS, SCALES, Kind, Property
from shared.vocabulary.money import checked_minor, currency_code, minor_units

ID_CHARACTERS = 256
TIME_LIMIT_MS = 253_402_300_800_000
"""Times lie between 1970 and the end of the year 9999."""

Convert = Callable[[Any, str], Any]
_TRUE, _FALSE = (True, 1, "true", "True", "1", "yes"), (False, 0, "false", "False", "0", "no")


def _as_text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidField(path, "must be text")


def _as_id(value: Any, path: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.strip() if isinstance(value, str) else ""
    if not text or len(text) > ID_CHARACTERS:
        raise InvalidField(path, f"must be a text of 1..{ID_CHARACTERS} characters or a whole number")
    return text


def _as_integer(value: Any, path: str) -> int:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InvalidField(path, f"{quoted(value)} is not a whole number") from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**53:
        raise InvalidField(path, "must be a whole number below 2^53")
    return value


def _as_boolean(value: Any, path: str) -> bool:
    if isinstance(value, bool | int | str):
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
    raise InvalidField(path, "must be true or false")


def as_time_ms(value: Any, path: str) -> int:
    """Epoch milliseconds of an ISO 8601 text (no offset: UTC) or of epoch milliseconds. Raises InvalidField."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidField(path, f"{quoted(value)} is not an ISO 8601 time") from None
        value = epoch_ms(moment)
    milliseconds = _as_integer(value, path)
    if not 0 <= milliseconds < TIME_LIMIT_MS:
        raise InvalidField(path, "must lie between the years 1970 and 9999")
    return milliseconds


def _as_object(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidField(path, "must be an object")


def _as_sent(value: Any, path: str) -> Any:
    return value


_CONVERT: dict[str, Convert] = {
    "text": _as_text, "id": _as_id, "integer": _as_integer, "boolean": _as_boolean, "time": as_time_ms,
    "object": _as_object, "amount": _as_sent, "currency": currency_code,
}  # fmt: skip


def _choice(declared: Property) -> Convert:
    def as_choice(value: Any, path: str) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in declared.choices:
            return word
        raise InvalidField(path, f"must be one of {', '.join(declared.choices)}")

    return as_choice


def _bounded(convert: Convert, low: int, high: int) -> Convert:
    def as_bounded(value: Any, path: str) -> int:
        number: int = convert(value, path)
        if low <= number <= high:
            return number
        raise InvalidField(path, f"{number} is outside {low}..{high}")

    return as_bounded


def _converter(declared: Property) -> Convert:
    if declared.type == "choice":
        return _choice(declared)
    convert = _CONVERT[declared.type]
    if declared.low is None and declared.high is None:
        return convert
    low = declared.low if declared.low is not None else -(2**53)
    return _bounded(convert, low, declared.high if declared.high is not None else 2**53)


class _Rules:
    """What `normalise` needs of one kind, laid out for speed."""

    __slots__ = ("by_name", "money", "required", "survey")

    def __init__(self, kind: Kind) -> None:
        self.by_name: dict[str, tuple[str, int, Convert, str]] = {}
        for declared in kind.properties:
            convert = _converter(declared)
            for preference, name in enumerate((declared.name, *declared.aliases)):
                self.by_name.setdefault(name, (declared.name, preference, convert, f"properties.{name}"))
        self.money = "amount" in self.by_name
        self.required = tuple(p.name for p in kind.properties if p.required)
        self.survey = kind.name == "survey_answered"


_RULES = {kind.name: _Rules(kind) for kind in KINDS.values()}


def known_kind(kind: str) -> str:
    """`kind` when it is in the table. Raises InvalidField on path `kind`, with the nearest name."""
    if kind in KINDS:
        return kind
    near = get_close_matches(kind.lower().replace(" ", "_").replace("-", "_"), KINDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "send kind `custom` with a name for anything of your own"
    raise InvalidField("kind", f"{quoted(kind)} is not a kind; {hint}", "unknown_kind")


def known_channel(channel: str, kind: str) -> str:
    """`channel`, or the default of `kind` for "". Raises InvalidField on path `channel`."""
    if not channel:
        return KINDS[kind].channel
    if channel in CHANNELS:
        return channel
    raise InvalidField("channel", f"{quoted(channel)} is not one of {', '.join(CHANNELS)}")


def normalise(kind: str, properties: dict[str, Any], default_currency: str = "") -> dict[str, Any]:
    """The properties of a touchpoint as the log keeps them; a new dict, unknown names unchanged.

    Aliases take their declared name (the declared name wins over aliases, earlier aliases over later ones; what
    loses stays under its own name), numbers become ids, nulls of declared names fall away, money becomes
    `amount_minor` and `currency`. `default_currency` is the workspace's ("" = none). The input is not changed.
    Raises InvalidField with path `kind` or `properties.<name as sent>`.
    """
    rules = _RULES.get(kind) or _RULES[known_kind(kind)]
    by_name = rules.by_name
    found: dict[str, Any] = {}
    sent_as: dict[str, tuple[int, str]] = {}
    for name, value in properties.items():
        rule = by_name.get(name)
        if rule is None:
            found.setdefault(name, value)
        elif value is None:
            continue
        elif rule[0] in sent_as:
            _take_again(found, sent_as, name, rule, value)
        else:
            declared, preference, convert, path = rule
            found[declared] = convert(value, path)
            sent_as[declared] = (preference, name)
    if rules.money:
        _normalise_money(found, default_currency, sent_as)
    for name in rules.required:
        if name not in found:
            raise InvalidField(f"properties.{name}", f"{kind} needs it")
    if rules.survey:
        _check_score(found)
    return found


def _take_again(
    found: dict[str, Any],
    sent_as: dict[str, tuple[int, str]],
    name: str,
    rule: tuple[str, int, Convert, str],
    value: Any,
) -> None:
    """A declared property that was sent under another of its names already."""
    declared, preference, convert, path = rule
    other_preference, other_name = sent_as[declared]
    if other_preference < preference:
        found[name] = value
        return
    found[other_name] = found[declared]
    found[declared] = convert(value, path)
    sent_as[declared] = (preference, name)


def _normalise_money(found: dict[str, Any], default_currency: str, sent_as: dict[str, tuple[int, str]]) -> None:
    if "amount" not in found and found.get("amount_minor") is None:
        return
    currency = found.get("currency") or default_currency
    if not currency:
        raise InvalidField("properties.currency", "an amount needs its currency, or the workspace a default one")
    found["currency"] = currency
    if found.get("amount_minor") is not None:
        found["amount_minor"] = checked_minor(found["amount_minor"], "properties.amount_minor")
        found.pop("amount", None)
    else:
        path = f"properties.{sent_as['amount'][1]}"
        found["amount_minor"] = minor_units(found.pop("amount"), currency, path)


def _check_score(found: dict[str, Any]) -> None:
    low, high = SCALES[found["metric"]]
    if not low <= found["score"] <= high:
        raise InvalidField("properties.score", f"{found['score']} is outside {low}..{high} of {found['metric']}")


PERSONAL_PROPERTIES: dict[str, frozenset[str]] = {
    kind.name: frozenset(name for p in kind.properties if p.personal for name in (p.name, *p.aliases))
    for kind in KINDS.values()
}
"""Kind → names of its personal properties, aliases included (an alias that lost to its declared name stays sent)."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@lru_cache(4096)
def _snake(name: str) -> str:
    return _CAMEL.sub("_", name).replace("-", "_").replace(" ", "_").lower()


def split_personal(kind: str, properties: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what may stay readable in the log, what must be sealed) of normalised properties.

    Sealed are the properties the table declares personal, names that are personal wherever they stand (email,
    phone, address ...), and personal traits, which keep their place under `traits`. New dicts; input not changed.
    """
    hidden = PERSONAL_PROPERTIES.get(kind, frozenset())
    kept: dict[str, Any] = {}
    personal: dict[str, Any] = {}
    for name, value in properties.items():
        is_personal = name in hidden or _snake(name) in PERSONAL_ANYWHERE
        (personal if is_personal else kept)[name] = value
    traits = kept.get("traits")
    if isinstance(traits, dict):
        sealed = {name: value for name, value in traits.items() if _snake(name) in PERSONAL_TRAITS}
        if sealed:
            personal["traits"] = sealed
            kept["traits"] = {name: value for name, value in traits.items() if name not in sealed}
    return kept, personal
