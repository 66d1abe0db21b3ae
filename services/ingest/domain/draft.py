"""A draft: what both doors, Segment's and our own, make of an item before it is judged alike."""

from typing import Any

import msgspec

from services.ingest.domain.times import When
from shared.errors import InvalidField


class Offered(msgspec.Struct, frozen=True):
    """An identifier as sent. `kind`: user, email, phone, anonymous or `provider:<name>` · `path`: where it stood ·
    `strict`: False where a wrong value is only left out (it stays a trait), True where it refuses the item."""

    kind: str
    path: str
    value: Any
    strict: bool = True


class Draft(msgspec.Struct):
    """One touchpoint being written. Properties and context are still as sent; `client_id` is the client's own id with
    its path; `alias_of` is the earlier user id of an alias call; `identifier_path` is named where nobody is."""

    kind: str
    channel: str
    when: When
    offered: list[Offered]
    properties: dict[str, Any]
    name: str = ""
    client_id: tuple[str, Any] | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    traits: dict[str, Any] = msgspec.field(default_factory=dict)
    alias_of: Offered | None = None
    import_id: str = ""
    identifier_path: str = "user_id"


def as_object(value: Any, path: str) -> dict[str, Any]:
    """`value`, or {} for null. Raises InvalidField for anything but an object."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise InvalidField(path, "must be an object")


def as_identifier(value: Any, path: str) -> str:
    """Text of an id that may come as a whole number (several SDKs send them so). Raises InvalidField."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidField(path, "must be text or a whole number")


def pair(item: dict[str, Any], name: str) -> tuple[str, Any] | None:
    """(name, value) of a field, None where it is absent or null."""
    value = item.get(name)
    return None if value is None else (name, value)
