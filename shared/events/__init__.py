"""Every fact that crosses the log: frozen, past tense, versioned. Field order IS the storage format.

A fact is written as msgpack `[name, version, body]` (`codec.py`). Fields are only ever added at the end with a
default; a change of meaning is a new version with an upcaster in `UPCASTERS`. Bytes of every version are kept in
`tests/golden/facts/` for ever. Times are epoch milliseconds (UTC), leaves and ids are 16 bytes (`ids.py`).
"""

from collections.abc import Callable
from typing import Any

from shared.events.definitions import (
    DefinitionPublished,
    ImportClosed,
    ImportStarted,
    KeyCreated,
    KeyRevoked,
    RepublishRequested,
    SealingKeyDestroyed,
    WorkspaceDefined,
)
from shared.events.fact import (
    PROVIDER,
    PUBLIC,
    SECRET,
    Fact,
)
from shared.events.failed import (
    TouchpointFailed,
    TouchpointFailureClosed,
)
from shared.events.profile_changes import (
    REPUBLISHING,
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    Departure,
    FactRef,
    ImportPassed,
    Place,
    ProfileChanged,
    RepublishPassed,
    Statement,
    WatermarkStated,
)
from shared.events.touchpoints import (
    ErasureRequested,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    LeafErased,
    LeafReinstated,
    Sealed,
    Touchpoint,
    TouchpointsRecorded,
)

FACTS: tuple[type[Fact], ...] = (
    TouchpointsRecorded, IdentityLinked, IdentityUnlinked, ErasureRequested, LeafErased, LeafReinstated,
    ImportFinished, ProfileChanged, CustomerAbsorbed, CustomerErased, CustomerParked, ImportPassed, WatermarkStated,
    TouchpointFailed, TouchpointFailureClosed, WorkspaceDefined, KeyCreated, KeyRevoked, SealingKeyDestroyed,
    DefinitionPublished, ImportStarted, ImportClosed, RepublishPassed, RepublishRequested,
)  # fmt: skip

Upcaster = Callable[[Any], Any]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(name, version n) → pure function from the body of version n (as builtins) to the body of version n + 1."""

__all__ = [
    "FACTS",
    "PROVIDER",
    "PUBLIC",
    "REPUBLISHING",
    "SECRET",
    "UPCASTERS",
    "CustomerAbsorbed",
    "CustomerErased",
    "CustomerParked",
    "DefinitionPublished",
    "Departure",
    "ErasureRequested",
    "Fact",
    "FactRef",
    "IdentityLinked",
    "IdentityUnlinked",
    "ImportClosed",
    "ImportFinished",
    "ImportPassed",
    "ImportStarted",
    "KeyCreated",
    "KeyRevoked",
    "LeafErased",
    "LeafReinstated",
    "Place",
    "ProfileChanged",
    "RepublishPassed",
    "RepublishRequested",
    "Sealed",
    "SealingKeyDestroyed",
    "Statement",
    "Touchpoint",
    "TouchpointFailed",
    "TouchpointFailureClosed",
    "TouchpointsRecorded",
    "Upcaster",
    "WatermarkStated",
    "WorkspaceDefined",
]
