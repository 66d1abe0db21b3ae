"""What is kept of a touchpoint's opened personal fields: identifiers, the latest traits and context, free text."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from services.profiles.domain.rows import PersonalRow
from shared.events import Touchpoint
from shared.ids import uuid_text

IDENTIFIER = "identifier"
CONTEXT = "context"
_CONTEXT_FIELDS = ("ip", "url", "user_agent")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def personal_rows(
    workspace: str, touchpoint: Touchpoint, fields: Mapping[str, Any], is_known: Mapping[bytes, bool]
) -> Iterator[PersonalRow]:
    """Rows for one touchpoint's opened fields. An identifier already known of its leaf is not written again."""
    at, identity, owner = touchpoint.occurred_at, touchpoint.id, touchpoint.leaves[0]

    def row(leaf: bytes, field: str, value: Any) -> PersonalRow:
        return PersonalRow(leaf, field, workspace, _encode(value), at, identity)

    for leaf, identifier in zip(touchpoint.leaves, fields.get("identifiers", ()), strict=False):
        if not is_known.get(leaf, False):
            yield row(leaf, IDENTIFIER, identifier)
    for name, value in fields.get("traits", {}).items():
        yield row(owner, f"trait:{name}", value)
    context = {name: fields[name] for name in _CONTEXT_FIELDS if fields.get(name)}
    if context:
        yield row(owner, CONTEXT, context)
    if fields.get("text"):
        yield row(owner, f"text:{uuid_text(identity)}", fields["text"])


def newest_rows(rows: Iterable[PersonalRow]) -> list[PersonalRow]:
    """One row per (leaf, field): the later (at, id) holds."""
    newest: dict[tuple[bytes, str], PersonalRow] = {}
    for row in rows:
        known = newest.get((row.leaf, row.field))
        if known is None or (row.at, row.id) > (known.at, known.id):
            newest[row.leaf, row.field] = row
    return list(newest.values())
