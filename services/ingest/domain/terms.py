"""The door's words: who sends, when it arrived, how much is taken, and what became of one item."""

from dataclasses import dataclass
from typing import Any

import msgspec

from shared.events import IdentityLinked, Touchpoint

ROOT_PATH = "$"
"""The path of a refusal that is about the whole item, not one of its fields."""


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """Who sends, as their key says. `trust`: events.PUBLIC, PROVIDER or SECRET · `region`: two letters for local phone
    forms ("" = none) · `leaf_secret`: the workspace's 32 bytes · `default_currency`: ISO 4217 for money sent without
    one ("" = refuse it) · `history_allowed`: may mark touchpoints with an `import_id`."""

    workspace: str
    source: str
    trust: int
    leaf_secret: bytes
    region: str = ""
    default_currency: str = ""
    history_allowed: bool = False


class Arrival(msgspec.Struct, frozen=True):
    """When and from where one request came. Epoch milliseconds; `sent_at` is the client's own word for when it sent
    (envelope `sentAt` or header, None without one); `remote_ip` is the client's address ("" = not known)."""

    received_at: int
    sent_at: int | None = None
    remote_ip: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Bounds of one item and one request; every one is a documented setting of the door."""

    items: int = 500
    item_bytes: int = 32 * 1024
    depth: int = 32
    object_keys: int = 256
    id_bytes: int = 512
    name_bytes: int = 256


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """One touchpoint taken in. `personal` is what must be sealed (never empty of `identifiers`); `deduplicable` is
    False when neither a client id nor a client time came, so that a retry counts again; `import_id` "" = live."""

    touchpoint: Touchpoint
    personal: dict[str, Any]
    deduplicable: bool
    import_id: str = ""


class AdmittedLink(msgspec.Struct, frozen=True):
    """An alias from a secret key: the command, and the touchpoint that came with it."""

    command: IdentityLinked
    touchpoint: Admitted | None = None


class Refused(msgspec.Struct, frozen=True):
    """One item kept out. `code` is for machines, `path` is the field inside the item (`ROOT_PATH`: all of it),
    `reason` is for people and quotes no personal value, `item` is what came, for `touchpoints-failed`."""

    code: str
    path: str
    reason: str
    item: bytes


Result = Admitted | AdmittedLink | Refused
