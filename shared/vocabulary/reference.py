"""The reference page of touchpoints, written from the table (`docs/reference/touchpoints.md`)."""

import json

from shared.vocabulary.kinds import CHANNELS, KINDS, SCALES, Kind, Property

_HEAD = """# Touchpoints

<!-- Written by `python -m shared.vocabulary`; change the table in shared/vocabulary/kinds.py instead. -->

A touchpoint has a `kind` from this page, a `channel` ({channels}) and `properties`. Names that are not declared here
are kept as they are, up to the documented bounds; a null of a declared name counts as absent.

- **Ids** are texts of 1 to 256 characters; whole numbers become texts.
- **Money** is sent as `amount` in major units (`39.8`, `"39.80"`) or as `amount_minor` in minor units, with an ISO 4217
  `currency`; it is kept as `amount_minor` and `currency`. An amount without a currency is refused unless the workspace
  has a default one.
- **Times** are ISO 8601 texts (without an offset: UTC) or epoch milliseconds; they are kept as epoch milliseconds.
- **Scores**: {scales}.
- **Business key**: copies of one thing (the same order from the shop, the payment provider and the browser) count once.
- **Personal** properties are sealed at the door and never reach a profile's state.
"""


def reference() -> str:
    """The whole page as Markdown, ending in a newline."""
    scales = ", ".join(f"{metric.upper()} {low} to {high}" for metric, (low, high) in SCALES.items())
    parts = [_HEAD.format(channels=", ".join(f"`{channel}`" for channel in CHANNELS), scales=scales)]
    group = ""
    for kind in KINDS.values():
        if kind.group != group:
            group = kind.group
            parts.append(f"\n## {group.capitalize()}\n")
        parts.append(_section(kind))
    return "".join(parts)


def _section(kind: Kind) -> str:
    lines = [
        f"\n### `{kind.name}`",
        "",
        f"{kind.title}. Channel `{kind.channel}` unless said otherwise. In the profile: {kind.effect}.",
    ]
    if kind.properties:
        lines += ["", "| property | type | | meaning |", "|---|---|---|---|"]
        lines += [_row(declared) for declared in kind.properties]
    lines += ["", "```json", json.dumps({"kind": kind.name, "properties": kind.example}), "```", ""]
    return "\n".join(lines)


def _row(declared: Property) -> str:
    marks = [("required", declared.required), ("business key", declared.key), ("personal", declared.personal)]
    words = ", ".join(word for word, holds in marks if holds)
    about = declared.about
    if declared.aliases:
        about += "; also read from " + ", ".join(f"`{alias}`" for alias in declared.aliases)
    return f"| `{declared.name}` | {_type(declared)} | {words} | {about} |"


def _type(declared: Property) -> str:
    if declared.choices:
        return " / ".join(f"`{choice}`" for choice in declared.choices)
    if declared.low is not None and declared.high is not None:
        return f"{declared.type} {declared.low}..{declared.high}"
    return f"{declared.type} ≥ {declared.low}" if declared.low is not None else declared.type
