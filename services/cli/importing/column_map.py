"""From a CSV row to a native touchpoint: which column is which field, and what is the same for every row.

A rule is `column=field` or `column=field:type`; a constant is `field=value`. A field is one of the native
touchpoint's own, or a dotted path into `properties`, `context`, `traits` or `identifiers`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo

from services.cli.errors import WrongUse

PLAIN_FIELDS = (
    "id",
    "kind",
    "channel",
    "name",
    "user_id",
    "anonymous_id",
    "email",
    "phone",
    "occurred_at",
)
OPEN_FIELDS = ("properties", "context", "traits", "identifiers")


def _yes(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "y"):
        return True
    if word in ("0", "false", "no", "n"):
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


TYPES: dict[str, Callable[[str], Any]] = {"text": str, "int": int, "number": float, "bool": _yes}


@dataclass(frozen=True, slots=True)
class Rule:
    """One column (or constant) and where its value goes."""

    path: tuple[str, ...]
    type: str

    def place(self, item: dict[str, Any], text: str) -> None:
        """Put the typed value into `item`. Raises ValueError when the text is not of the type."""
        target = item
        for part in self.path[:-1]:
            target = target.setdefault(part, {})
        target[self.path[-1]] = TYPES[self.type](text)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """All rules of one file. `zone` reads times without an offset."""

    columns: Mapping[str, tuple[Rule, ...]]
    constants: tuple[tuple[Rule, str], ...]
    zone: ZoneInfo

    def missing(self, header: Iterable[str]) -> list[str]:
        """Mapped columns that the file does not have."""
        there = set(header)
        return [column for column in self.columns if column not in there]

    def touchpoint(self, row: Mapping[str, str | None]) -> dict[str, Any]:
        """One native touchpoint; an empty cell leaves its field out. Raises ValueError naming the column."""
        item: dict[str, Any] = {}
        for rule, text in self.constants:
            rule.place(item, text)
        for column, rules in self.columns.items():
            text = (row.get(column) or "").strip()
            if text:
                for rule in rules:
                    _place(rule, item, column, text)
        if isinstance(at := item.get("occurred_at"), str):
            item["occurred_at"] = with_zone(at, self.zone)
        return item

    def description(self) -> str:
        """A text that differs whenever two maps differ: part of the name of an import."""
        return repr((sorted(self.columns.items()), self.constants, self.zone.key))


def column_map(rules: Iterable[str], constants: Iterable[str], zone: ZoneInfo) -> ColumnMap:
    """The map that `--map column=field[:type]` and `--set field=value` describe.

    One column may go to several fields. Raises WrongUse for an unknown field or type, with the nearest match.
    """
    columns: dict[str, list[Rule]] = {}
    for text in rules:
        column, field = _halves(text, "--map column=field")
        columns.setdefault(column, []).append(_rule(field))
    fixed = [_halves(text, "--set field=value") for text in constants]
    return ColumnMap(
        {column: tuple(found) for column, found in columns.items()},
        tuple((_rule(field), value) for field, value in fixed),
        zone,
    )


def with_zone(text: str, zone: ZoneInfo) -> str:
    """An ISO 8601 date or time without an offset, read in `zone`, with its offset; anything else unchanged."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if at.tzinfo else at.replace(tzinfo=zone).isoformat()


def _place(rule: Rule, item: dict[str, Any], column: str, text: str) -> None:
    try:
        rule.place(item, text)
    except ValueError as error:
        raise ValueError(f"column {column}: {error}") from error


def _halves(text: str, shape: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (equals and left.strip() and right.strip()):
        raise WrongUse(f"{text!r} is not of the form {shape}", "raftar import --help shows an example")
    return left.strip(), right.strip()


def _rule(field: str) -> Rule:
    name, _, kind = field.partition(":")
    kind = kind or "text"
    if kind not in TYPES:
        raise WrongUse(f"{field}: there is no type {kind!r}", f"types are {', '.join(TYPES)}")
    path = tuple(name.split("."))
    if path[0] in PLAIN_FIELDS and len(path) == 1:
        return Rule(path, kind)
    if path[0] in OPEN_FIELDS and len(path) > 1 and all(path):
        return Rule(path, kind)
    known = [*PLAIN_FIELDS, *(f"{field}.…" for field in OPEN_FIELDS)]
    near = get_close_matches(path[0], [*PLAIN_FIELDS, *OPEN_FIELDS], n=1)
    raise WrongUse(
        f"{name} is no field of a touchpoint" + (f"; did you mean {near[0]}?" if near else ""),
        f"fields are {', '.join(known)}",
    )
