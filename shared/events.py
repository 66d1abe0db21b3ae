"""Every fact that crosses the log: frozen, past tense, versioned. Field order IS the storage format.

A fact is written as msgpack `[name, version, body]` (`codec.py`). Fields are only ever added at the end with a
default; a change of meaning is a new version with an upcaster in `UPCASTERS`. Bytes of every version are kept in
`tests/golden/facts/` for ever. Times are epoch milliseconds (UTC), leaves and ids are 16 bytes (`ids.py`).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

# --- trust: what kind of key brought a touchpoint ---------------------------------------------------------------

PUBLIC, PROVIDER, SECRET = 0, 1, 2


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """Base of all facts. `NAME` is the stable name on the log, `VERSION` the version this code writes."""

    NAME: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1


# --- touchpoints topic --------------------------------------------------------------------------------------


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """Personal data, sealed at the door (`sealing.py`).

    `key`: name of the workspace's public key · `data_key`: the door's data key sealed to it · `box`: nonce and
    ciphertext. Opened, it is a map from touchpoint index to a map of personal fields.
    """

    key: str
    data_key: bytes
    box: bytes


class Touchpoint(msgspec.Struct, frozen=True, array_like=True):
    """One touchpoint inside a record.

    `id`/`day`: dedup key with the scope of (workspace, source, leaves[0]) · `leaves`: the leaf it belongs to, then
    those it ties to it · `occurred_at`: corrected for skew and clamped · `client_at`: the client's time exactly as
    sent (None: none) · `properties`: normalised per kind, personal ones removed · `name`: the event's name as sent
    when `kind` is `custom`.
    """

    id: bytes
    day: int
    kind: str
    channel: str
    leaves: tuple[bytes, ...]
    occurred_at: int
    client_at: str | None
    properties: dict[str, Any]
    context: dict[str, Any]
    name: str = ""


class TouchpointsRecorded(Fact, frozen=True, array_like=True):
    """What one request brought to one partition: a shared envelope and its touchpoints, in order."""

    NAME: ClassVar[str] = "touchpoints.recorded"
    workspace: str
    source: str
    trust: int
    received_at: int
    sent_at: int | None
    import_id: str  # "" = live; else the history import it belongs to
    touchpoints: tuple[Touchpoint, ...]
    personal: Sealed | None = None


class IdentityLinked(Fact, frozen=True, array_like=True):
    """Two leaves are tied on purpose. `alias` ties may join leaves of one rank; `operator` beats automatic."""

    NAME: ClassVar[str] = "identity.linked"
    workspace: str
    id: bytes
    a: bytes
    b: bytes
    alias: bool
    operator: bool
    occurred_at: int
    reason: str = ""


class IdentityUnlinked(Fact, frozen=True, array_like=True):
    """A tie holds no longer (an operator's decision stays until an operator links again)."""

    NAME: ClassVar[str] = "identity.unlinked"
    workspace: str
    id: bytes
    a: bytes
    b: bytes
    operator: bool
    occurred_at: int
    reason: str = ""


class ErasureRequested(Fact, frozen=True, array_like=True):
    """Erase the customer this leaf belongs to when the command is folded. Lies on the leaf's partition."""

    NAME: ClassVar[str] = "erasure.requested"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class LeafErased(Fact, frozen=True, array_like=True):
    """This leaf is erased: state gone, bodies blank, edges void, later touchpoints dropped until reinstated."""

    NAME: ClassVar[str] = "leaf.erased"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class LeafReinstated(Fact, frozen=True, array_like=True):
    """An erased leaf may be tracked again, from here on."""

    NAME: ClassVar[str] = "leaf.reinstated"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class ImportFinished(Fact, frozen=True, array_like=True):
    """No more history of this import follows on this partition. Appended to every touchpoints partition."""

    NAME: ClassVar[str] = "import.finished"
    workspace: str
    import_id: str
    occurred_at: int


# --- profile-changes topic ----------------------------------------------------------------------------------


class FactRef(msgspec.Struct, frozen=True, array_like=True):
    """One touchpoint that caused a change: enough for a decision and its explanation.

    `key`: business key ("" = none) · `score`: survey score on its own scale, None without one · `metric`: which
    scale that is (csat, nps, ces; "" = no survey).
    """

    id: bytes
    leaf: bytes
    kind: str
    occurred_at: int
    trust: int
    key: str = ""
    score: int | None = None
    channel: str = ""
    metric: str = ""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a leaf stands: `moves` counts its changes of customer, so that the newer of two sayings is known."""

    leaf: bytes
    moves: int


class Departure(msgspec.Struct, frozen=True, array_like=True):
    """A leaf that left a customer: its `moves` from then on, and the customer it belongs to now (b"": erased)."""

    leaf: bytes
    moves: int
    into: bytes


class ProfileChanged(Fact, frozen=True, array_like=True):
    """A whole customer state. One per touchpoints record and customer, never per batch.

    `version` grows per customer; consumers ignore one not greater than the last seen. `leaves`: all leaves of the
    customer when the change moved any (join, split), else () · `departed`: leaves it lost by this change · `import_id`
    "" = live.
    """

    NAME: ClassVar[str] = "profile.changed"
    workspace: str
    customer: bytes
    version: int
    recorded_at: int
    state: bytes
    facts: tuple[FactRef, ...] = ()
    leaves: tuple[Place, ...] = ()
    import_id: str = ""
    departed: tuple[Departure, ...] = ()


class CustomerAbsorbed(Fact, frozen=True, array_like=True):
    """This customer is part of `into` from now on. Lies on the absorbed customer's own partition.

    `departed`: its leaves that went to another customer than `into`.
    """

    NAME: ClassVar[str] = "customer.absorbed"
    workspace: str
    customer: bytes
    into: bytes
    version: int
    recorded_at: int
    departed: tuple[Departure, ...] = ()


class CustomerErased(Fact, frozen=True, array_like=True):
    """Nothing is known of this customer any more: rows, alerts' texts and due times go."""

    NAME: ClassVar[str] = "customer.erased"
    workspace: str
    customer: bytes
    version: int
    recorded_at: int


class CustomerParked(Fact, frozen=True, array_like=True):
    """This customer's state was too large to carry: disarm it until a later change can be carried."""

    NAME: ClassVar[str] = "customer.parked"
    workspace: str
    customer: bytes
    version: int
    recorded_at: int
    reason: str


class ImportPassed(Fact, frozen=True, array_like=True):
    """Touchpoints partition `partition` of `partitions` has folded this import's end. On each profile-changes one."""

    NAME: ClassVar[str] = "import.passed"
    workspace: str
    import_id: str
    partition: int
    partitions: int


REPUBLISHING = "republish:"
"""`import_id` of a change that only tells a customer again: this and the republish's id. Whoever meets the customer in
it first takes them as history, which ends with `republish.passed`."""


class RepublishPassed(Fact, frozen=True, array_like=True):
    """Every customer of this partition was told again before it, as republish `id` asked. On each partition."""

    NAME: ClassVar[str] = "republish.passed"
    id: str
    passed_at: int


# --- watermarks topic ---------------------------------------------------------------------------------------


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """Before `position` of profile-changes `partition` lies all that the vector of the record speaks of."""

    partition: int
    position: int


class WatermarkStated(Fact, frozen=True, array_like=True):
    """For each statement: every change caused by touchpoints partition k recorded up to `frontiers[k]` is before it.

    `frontiers[k]` is -1 while partition k never reached its end.
    """

    NAME: ClassVar[str] = "watermark.stated"
    statements: tuple[Statement, ...]
    frontiers: tuple[int, ...]


# --- touchpoints-failed topic -------------------------------------------------------------------------------


class TouchpointFailed(Fact, frozen=True, array_like=True):
    """An item the door refused inside a good batch, with reason and path: whole and sealed, at index 0.

    Fields of the sealed map: `item`, its bytes, and what a replay needs: `native` (the shape), `trust`, `sent_at`, and a
    batch's own `context`; only `item` is always there.
    """

    NAME: ClassVar[str] = "touchpoint.failed"
    workspace: str
    source: str
    id: bytes
    received_at: int
    code: str
    path: str
    reason: str
    item: Sealed


class TouchpointFailureClosed(Fact, frozen=True, array_like=True):
    """A failed item needs nobody any more: `how` is `replayed` (the log has it) or `discarded`.

    Lies behind the item on its partition.
    """

    NAME: ClassVar[str] = "touchpoint.failure.closed"
    workspace: str
    id: bytes
    how: str
    closed_at: int


# --- definitions topic --------------------------------------------------------------------------------------


class WorkspaceDefined(Fact, frozen=True, array_like=True):
    """A workspace: its fixed time zone, its phone region and the public key personal data is sealed to.

    Said again with another sealing key when that is rotated: doors seal to the key of the last one. `created_at`: of
    this definition; the first one's is the birth of the workspace.
    """

    NAME: ClassVar[str] = "workspace.defined"
    workspace: str
    time_zone: str
    region: str
    sealing_key: str
    sealing_public: bytes
    created_at: int


class KeyCreated(Fact, frozen=True, array_like=True):
    """An API key: only the SHA-256 of its secret is kept. `kind` is `write` (public) or `secret`."""

    NAME: ClassVar[str] = "key.created"
    workspace: str
    key_id: str
    digest: bytes
    kind: str
    source: str
    scopes: tuple[str, ...]
    label: str
    created_at: int


class KeyRevoked(Fact, frozen=True, array_like=True):
    """This key opens nothing any more."""

    NAME: ClassVar[str] = "key.revoked"
    workspace: str
    key_id: str
    revoked_at: int


class SealingKeyDestroyed(Fact, frozen=True, array_like=True):
    """What was sealed to this key can never be read again: whoever holds its private half destroys it on reading this."""

    NAME: ClassVar[str] = "sealing.key.destroyed"
    workspace: str
    name: str
    destroyed_at: int


class DefinitionPublished(Fact, frozen=True, array_like=True):
    """A version of what decides, from `effective_at` on: `rules` (the pack) and `model` (parameters)."""

    NAME: ClassVar[str] = "definition.published"
    workspace: str
    version: int
    effective_at: int
    rules: dict[str, Any]
    model: dict[str, Any]


class ImportStarted(Fact, frozen=True, array_like=True):
    """A history import began; until it is finished its customers are held."""

    NAME: ClassVar[str] = "import.started"
    workspace: str
    import_id: str
    source: str
    started_at: int


class ImportClosed(Fact, frozen=True, array_like=True):
    """`import.finished` was asked for: by the importer, or by the door after an idle hour (`idle`)."""

    NAME: ClassVar[str] = "import.closed"
    workspace: str
    import_id: str
    idle: bool
    closed_at: int


class RepublishRequested(Fact, frozen=True, array_like=True):
    """Profiles are to tell every customer of the house again, with its present version, then `republish.passed`."""

    NAME: ClassVar[str] = "republish.requested"
    id: str
    requested_at: int


FACTS: tuple[type[Fact], ...] = (
    TouchpointsRecorded, IdentityLinked, IdentityUnlinked, ErasureRequested, LeafErased, LeafReinstated,
    ImportFinished, ProfileChanged, CustomerAbsorbed, CustomerErased, CustomerParked, ImportPassed, WatermarkStated,
    TouchpointFailed, TouchpointFailureClosed, WorkspaceDefined, KeyCreated, KeyRevoked, SealingKeyDestroyed,
    DefinitionPublished, ImportStarted, ImportClosed, RepublishPassed, RepublishRequested,
)  # fmt: skip

Upcaster = Callable[[Any], Any]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(name, version n) → pure function from the body of version n (as builtins) to the body of version n + 1."""
