"""The documents scoring says to everybody, as they stand in JSON: CloudEvents 1.0 and their data.

Fields are declared in the order of their names, which is the order on the wire: encoding then sorts nothing. Instants
inside `data` are epoch milliseconds, durations end in `_ms`, ids are UUIDs, a customer is 32 hex digits.
"""

import msgspec
from msgspec import UNSET, UnsetType


class ToldPart(msgspec.Struct, frozen=True):
    """One summand of the risk: `base`, `silence` or `rate`."""

    amount: float
    name: str


class ToldCondition(msgspec.Struct, frozen=True):
    """A condition as the rule pack writes it, and the value it met."""

    condition: str
    value: float | None


class ToldFact(msgspec.Struct, frozen=True):
    """What was experienced: one touchpoint."""

    id: str
    key: str
    kind: str
    occurred_at: int
    score: int | None


class ToldReasons(msgspec.Struct, frozen=True):
    """Why: `parts` add up to `risk` (1e-9); the silence stands in the customer's own measure."""

    conditions: tuple[ToldCondition, ...]
    facts: tuple[ToldFact, ...]
    orders: int
    parts: tuple[ToldPart, ...]
    rhythm: float | None
    risk: float | None
    silence_ms: int | None
    usual_gap_ms: int | None


class CarriedAlert(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild needs of the alert beside what everybody is told. `risk`, `version`: those of its raising."""

    corrected: bool
    leaf: str
    moves: int
    risk: float | None
    spell: str
    version: int


class Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What only a rebuild of scoring reads: the decision behind the statement, as far as nothing else tells it.

    `profile_version`: of the profile decided on · `read`: partition and position of `profile-changes` up to which
    everything was decided when this was.
    """

    alert: CarriedAlert | UnsetType = UNSET
    held: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    profile_version: int = 0
    read: tuple[int, int] | UnsetType = UNSET
    settled: int
    spell: str = ""


class SegmentChangeData(msgspec.Struct, frozen=True, kw_only=True):
    """The customer is in `stage` from `at` on; `previous` is empty for the first stage."""

    at: int
    carried: Carried | UnsetType = UNSET
    cause: str
    causes: tuple[str, ...]
    customer: str
    definition_version: int
    emitted_at: int
    model_version: int
    previous: str
    reasons: ToldReasons
    risk: float | None
    risk_at: int
    rule_version: int
    stage: str


class ChurnAlertData(msgspec.Struct, frozen=True, kw_only=True):
    """The alert as it is from `at` on. `verdict` stands in a judgement alone."""

    acknowledged_at: int | None
    alert_id: str
    at: int
    carried: Carried | UnsetType = UNSET
    cause: str
    causes: tuple[str, ...]
    clears: tuple[str, ...]
    closed_at: int | None
    crossed_at: int
    customer: str
    definition_version: int
    emitted_at: int
    expires_at: int
    key: str
    kind: str
    model_version: int
    opened_at: int
    policy: str
    raised_at: int
    reasons: ToldReasons
    revision: int
    risk: float | None
    risk_at: int
    rule_version: int
    state: str
    verdict: str | UnsetType = UNSET


class SegmentChangeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A customer changed stage: a CloudEvent of type `raftar.segment.changed`."""

    data: SegmentChangeData
    datacontenttype: str = "application/json"
    id: str
    sequence: str
    source: str
    specversion: str = "1.0"
    subject: str
    time: str
    type: str
    workspace: str


class ChurnAlertEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A word about an alert: a CloudEvent of type `raftar.alert.` and raised, amended, retracted, recovered, expired,
    judged or acknowledged."""

    data: ChurnAlertData
    datacontenttype: str = "application/json"
    id: str
    sequence: str
    source: str
    specversion: str = "1.0"
    subject: str
    time: str
    type: str
    workspace: str


class CustomerErasedData(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is known of the customer from `at` on."""

    at: int
    customer: str
    emitted_at: int


class CustomerErasedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A customer was erased: a CloudEvent of type `raftar.customer.erased`, on both topics.

    It is said for every identifier the customer had; forget what you keep under any of these ids.
    """

    data: CustomerErasedData
    datacontenttype: str = "application/json"
    id: str
    sequence: str
    source: str
    specversion: str = "1.0"
    subject: str
    time: str
    type: str
    workspace: str
