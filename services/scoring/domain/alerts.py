"""Alerts and transitions as facts: what they carry, their ids and revisions, and an alert's life on a customer."""

import msgspec

from services.scoring.domain.reasons import Reasons
from shared.ids import derived_id

SILENCE, BAD_EXPERIENCE = "silence", "bad_experience"
OPEN, RECOVERED, RETRACTED, EXPIRED, JUDGED = "open", "recovered", "retracted", "expired", "judged"
CLOSED_KEPT = 16
"""Closed alerts a decision remembers: enough to correct them once and not to raise them twice."""


class Alert(msgspec.Struct, frozen=True, array_like=True):
    """One alert. Its id does not name the customer, so that it survives links and splits; `leaf` says where it belongs.

    `kind`, `key`, `leaf`, `opened_at`: the opening fact (for a silence the last purchase) · `crossed_at`: the exact
    crossing · `raised_at`: when it was decided, later than the crossing only where evidence came late · `spell`: key of
    the last purchase of the silence it stands for · `revision` grows with each transition; consumers keep the highest
    · `state`: open, recovered, retracted, expired (lost) or judged · `corrected`: its one correction is spent.
    """

    id: bytes
    policy: str
    kind: str
    key: str
    leaf: bytes
    opened_at: int
    crossed_at: int
    raised_at: int
    expires_at: int
    version: int
    risk: float | None = None
    spell: str = ""
    revision: int = 1
    state: str = OPEN
    closed_at: int | None = None
    corrected: bool = False
    acknowledged_at: int | None = None


def alert_id(workspace: str, policy: str, key: str, kind: str) -> bytes:
    """16 bytes that depend on the workspace, the policy and the opening fact (business key, or id in hex) only."""
    return derived_id(workspace, policy, key, kind)


class Cause(msgspec.Struct, frozen=True, array_like=True):
    """What brought a transition: `facts` (with their ids), `time`, `backfill`, `definition_changed`, `absorbed`,
    `erased` or `operator`.
    """

    what: str
    facts: tuple[bytes, ...] = ()


TIME, BACKFILL, DEFINITION_CHANGED = Cause("time"), Cause("backfill"), Cause("definition_changed")
ABSORBED, ERASED, OPERATOR = Cause("absorbed"), Cause("erased"), Cause("operator")


class Transition(msgspec.Struct, frozen=True, tag_field="name"):
    """One decision, for ever. `at`: the instant it speaks of (epoch ms) · `sequence`: per customer, ascending ·
    `version`: of the definition it was taken under · `risk`: at `at`, None for someone who never bought.
    """

    at: int
    sequence: int
    cause: Cause
    version: int
    risk: float | None
    reasons: Reasons


class StageChanged(Transition, frozen=True, tag="stage.changed"):
    """The customer is in `stage` from `at` on; `previous` is "" for the first stage."""

    stage: str
    previous: str


class CustomerForgotten(Transition, frozen=True, tag="customer.erased"):
    """The customer was erased: whoever listens on `topic` forgets them too. Its last word before a reinstatement."""

    topic: str


class AlertTransition(Transition, frozen=True, tag=False):
    """What all alert transitions carry: the alert as it is from now on, its revision included."""

    alert: Alert


class AlertRaised(AlertTransition, frozen=True, tag="alert.raised"):
    """A new alert, or a retracted one again."""


class AlertAmended(AlertTransition, frozen=True, tag="alert.amended"):
    """A late fact changed what an open alert rests on; it stands."""


class AlertRetracted(AlertTransition, frozen=True, tag="alert.retracted"):
    """A late fact shows that there was nothing to alert."""


class AlertRecovered(AlertTransition, frozen=True, tag="alert.recovered"):
    """The customer came back, or a good experience followed the bad one."""


class AlertExpired(AlertTransition, frozen=True, tag="alert.expired"):
    """Its time is over: a silence is lost, a bad experience is past."""


class AlertJudged(AlertTransition, frozen=True, tag="alert.judged"):
    """A closed alert's one correction, or a person's word: `verdict` is `false_alarm` or `true_alarm`."""

    verdict: str


class AlertAcknowledged(AlertTransition, frozen=True, tag="alert.acknowledged"):
    """A person has seen it and takes care."""


AnyTransition = (
    StageChanged
    | AlertRaised
    | AlertAmended
    | AlertRetracted
    | AlertRecovered
    | AlertExpired
    | AlertJudged
    | AlertAcknowledged
    | CustomerForgotten
)


def known(alerts: tuple[Alert, ...], alert_id: bytes) -> Alert | None:
    """The alert of this id, open or closed; None when it is not remembered."""
    return next((alert for alert in alerts if alert.id == alert_id), None)


def open_alerts(alerts: tuple[Alert, ...], policy: str) -> tuple[Alert, ...]:
    """The open alerts of a policy, oldest first."""
    return tuple(alert for alert in alerts if alert.state == OPEN and alert.policy == policy)


def kept(alerts: tuple[Alert, ...], newer: Alert) -> tuple[Alert, ...]:
    """`alerts` with `newer` in the place of its older revision; beyond CLOSED_KEPT the oldest closed are forgotten.

    Sorted by (raised_at, id), so that equal histories give equal bytes.
    """
    both = [alert for alert in alerts if alert.id != newer.id] + [newer]
    closed = sorted((a for a in both if a.state != OPEN), key=lambda a: (a.closed_at or 0, a.id))[-CLOSED_KEPT:]
    standing = [a for a in both if a.state == OPEN]
    return tuple(sorted(standing + closed, key=lambda a: (a.raised_at, a.id)))
