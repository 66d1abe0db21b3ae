"""What is kept of a touchpoint's opened personal fields: identifiers, the latest traits and context, free text."""

from collections.abc import Mapping
from typing import Any

import msgspec

from services.profiles.domain.rows import LeafRow, PersonalRow
from shared.events import Touchpoint
from shared.ids import uuid_text

IDENTIFIER = "identifier"
CONTEXT = "context"
_CONTEXT_FIELDS = ("ip", "url", "user_agent")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Newest:
    """The latest value of each personal field of each leaf; what is later told again is never encoded."""

    def __init__(self, rows: Mapping[bytes, LeafRow]) -> None:
        """`rows`: every leaf that will be named. Nothing is kept of an erased one."""
        self._rows = rows
        self._values: dict[tuple[bytes, str], tuple[int, bytes, str, Any]] = {}

    def add(self, workspace: str, touchpoint: Touchpoint, fields: Mapping[str, Any]) -> None:
        """One touchpoint's opened fields. An identifier already known of its leaf is not written again."""
        at, identity, leaves = touchpoint.occurred_at, touchpoint.id, touchpoint.leaves
        for leaf, identifier in zip(leaves, fields.get("identifiers", ()), strict=False):
            if not self._rows[leaf].known:
                self._offer(leaf, IDENTIFIER, (at, identity, workspace, identifier))
        owner = leaves[0]
        for name, value in fields.get("traits", {}).items():
            self._offer(owner, f"trait:{name}", (at, identity, workspace, value))
        context = {name: fields[name] for name in _CONTEXT_FIELDS if fields.get(name)}
        if context:
            self._offer(owner, CONTEXT, (at, identity, workspace, context))
        if fields.get("text"):
            self._offer(owner, f"text:{uuid_text(identity)}", (at, identity, workspace, fields["text"]))

    def rows(self) -> list[PersonalRow]:
        """One row per (leaf, field): the later (at, id) holds."""
        return [
            PersonalRow(leaf, field, workspace, _encode(value), at, identity)
            for (leaf, field), (at, identity, workspace, value) in self._values.items()
        ]

    def _offer(self, leaf: bytes, field: str, value: tuple[int, bytes, str, Any]) -> None:
        known = self._values.get((leaf, field))
        if not self._rows[leaf].erased and (known is None or value[:2] > known[:2]):
            self._values[leaf, field] = value
