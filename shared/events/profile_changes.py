"""Facts of the topics `profile-changes` and `watermarks`: whole customer states, markers, and how far they reach."""

from typing import ClassVar

import msgspec

from shared.events.fact import Fact


class FactRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a leaf stands: `moves` counts its changes of customer, so that the newer of two sayings is known."""

    leaf: bytes
    moves: int


class Departure(msgspec.Struct, frozen=True, array_like=True, gc=False):
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


class Statement(msgspec.Struct, frozen=True, array_like=True, gc=False):
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
