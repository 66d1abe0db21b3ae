"""Decisions made again from what was said of them: CloudEvents in, decision rows without a state out.

Nothing is decided. Two sayings of one customer may come in any order and twice: of a stage the highest sequence holds,
of an alert the highest revision. What stands behind a decision comes from the highest sequence of both.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from services.scoring.domain.alerts import BAD_EXPERIENCE, RETRACTED, SILENCE, Alert, Cause, alert_id, kept, known
from services.scoring.domain.deciding import PASSED_KEPT, Deciding, Decision, Outcome
from services.scoring.domain.definitions import Definition
from services.scoring.domain.evidence import evidence_of
from services.scoring.domain.experience import hear
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.silence import OPENING_KIND, review_open
from services.scoring.domain.snapshot import Snapshot
from shared.errors import Poison
from shared.events import REPUBLISHING, FactRef
from shared.ids import leaf_from_text, partition_of
from shared.vocabulary import fact_key

PPM = 1_000_000


class _CarriedAlert(msgspec.Struct):
    leaf: str
    spell: str = ""
    moves: int = 0
    risk: float | None = None
    version: int = 0
    corrected: bool = False


class _Carried(msgspec.Struct):
    settled: int = -1
    spell: str = ""
    passed: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    read: tuple[int, int] | None = None
    profile_version: int = 0
    alert: _CarriedAlert | None = None


class _Data(msgspec.Struct):
    at: int
    emitted_at: int = 0
    definition_version: int = 0
    risk: float | None = None
    carried: _Carried = msgspec.field(default_factory=_Carried)
    stage: str = ""
    alert_id: str = ""
    policy: str = ""
    kind: str = ""
    key: str = ""
    state: str = ""
    revision: int = 0
    opened_at: int = 0
    crossed_at: int = 0
    raised_at: int = 0
    expires_at: int = 0
    closed_at: int | None = None
    acknowledged_at: int | None = None


class _Event(msgspec.Struct):
    type: str
    subject: str
    workspace: str
    sequence: str
    data: _Data


_event = msgspec.json.Decoder(_Event).decode


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """What was said of one customer, as far as it was read. `behind`: the sequence what stands behind comes from."""

    customer: bytes
    workspace: str
    stage: str = ""
    stage_since: int = -1
    stage_sequence: int = 0
    behind: int = 0
    decided_at: int = -1
    version: int = 0
    settled: int = -1
    spell: str = ""
    passed: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    erased_sequence: int = 0
    profile_version: int = 0


class Said(NamedTuple):
    """One statement: about whom, what it says of the customer, its alert if it is about one, and up to where
    profile-changes were decided then (partition, position, and when that was said).
    """

    draft: Draft
    alert: AlertRow | None
    read: tuple[int, int, int] | None


def said_of(body: bytes) -> Said | None:
    """What a CloudEvent says; None for a type that is no decision of ours. Raises Poison for what is no such event."""
    try:
        event = _event(body)
        if event.type == "raftar.segment.changed":
            return Said(_draft(event), None, _read(event.data))
        if event.type == "raftar.customer.erased":
            return Said(_erasure(event), None, None)
        if event.type.startswith("raftar.alert."):
            return Said(_draft(event), _alert_row(event, body), _read(event.data))
    except (msgspec.MsgspecError, ValueError) as error:
        raise Poison(f"not a decision: {type(error).__name__}: {error}") from error
    return None


def _read(data: _Data) -> tuple[int, int, int] | None:
    return None if data.carried.read is None else (*data.carried.read, data.emitted_at)


def _draft(event: _Event) -> Draft:
    data, carried, sequence = event.data, event.data.carried, int(event.sequence)
    is_stage = bool(data.stage)
    return Draft(
        leaf_from_text(event.subject),
        event.workspace,
        data.stage,
        data.at if is_stage else -1,
        sequence if is_stage else 0,
        sequence,
        data.at,
        data.definition_version,
        carried.settled,
        carried.spell,
        carried.passed,
        carried.held,
        profile_version=carried.profile_version,
    )


def _erasure(event: _Event) -> Draft:
    sequence, at = int(event.sequence), event.data.at
    return Draft(
        leaf_from_text(event.subject), event.workspace, behind=sequence, decided_at=at, erased_sequence=sequence
    )


def _alert_row(event: _Event, body: bytes) -> AlertRow:
    data = event.data
    alert = alert_of(event.data, event.subject)
    moves = data.carried.alert.moves if data.carried.alert is not None else 0
    risk = -1 if data.risk is None else round(data.risk * PPM)
    return AlertRow(
        alert.id, event.workspace, leaf_from_text(event.subject), alert.leaf, moves, alert.policy, alert.state,
        alert.revision, alert.raised_at, risk, body,
    )  # fmt: skip


def alert_of(data: _Data, subject: str) -> Alert:
    """The alert as it was after the statement; its leaf is the customer where nothing says otherwise."""
    carried = data.carried.alert or _CarriedAlert(subject, version=data.definition_version, risk=data.risk)
    return Alert(
        bytes.fromhex(data.alert_id.replace("-", "")),
        data.policy,
        data.kind,
        data.key,
        leaf_from_text(carried.leaf),
        data.opened_at,
        data.crossed_at,
        data.raised_at,
        data.expires_at,
        carried.version,
        carried.risk,
        carried.spell,
        data.revision,
        data.state,
        data.closed_at,
        carried.corrected,
        data.acknowledged_at,
    )


def alert_of_row(row: AlertRow) -> Alert:
    """The alert as the last CloudEvent about it says. The row must have a body."""
    event = _event(row.body)
    return alert_of(event.data, event.subject)


def joined(before: Draft | None, newer: Draft) -> Draft:
    """Two sayings of one customer as one, whichever was read first."""
    if before is None:
        return newer
    stage = newer if newer.stage_sequence > before.stage_sequence else before
    behind = newer if newer.behind > before.behind else before
    erased = max(before.erased_sequence, newer.erased_sequence)
    if stage.stage_sequence < erased:
        stage = Draft(before.customer, before.workspace)
    return msgspec.structs.replace(
        behind,
        erased_sequence=erased,
        stage=stage.stage,
        stage_since=stage.stage_since,
        stage_sequence=stage.stage_sequence,
        decided_at=max(before.decided_at, newer.decided_at),
        version=max(before.version, newer.version),
        profile_version=max(before.profile_version, newer.profile_version),
        settled=max(before.settled, newer.settled),
    )


def recalled_row(draft: Draft, alerts: Iterable[AlertRow], partitions: int) -> DecisionRow:
    """The decision row of a customer as it was said, without a state: it is armed when their profile is read.

    Of its version is all that was decided before the profile which the last statement rests on: that one is read again.
    """
    remembered: tuple[Alert, ...] = ()
    for row in alerts:
        if row.body:
            remembered = kept(remembered, alert_of_row(row))
    decision = Decision(
        stage=draft.stage,
        stage_since=draft.stage_since,
        stage_spell=draft.spell,
        alerts=remembered,
        passed=draft.passed,
        settled=draft.settled,
        decided_at=draft.decided_at,
        sequence=draft.behind,
        held=draft.held if draft.stage else (),
        version=draft.version,
    )
    was_erased = draft.erased_sequence > draft.stage_sequence
    version = draft.profile_version if was_erased else max(0, draft.profile_version - 1)
    partition = partition_of(draft.customer, partitions)
    return DecisionRow(draft.customer, draft.workspace, partition, version, decision=decision)


# --- when the profile is read ---------------------------------------------------------------------------------


def is_recalled(row: DecisionRow) -> bool:
    """Whether decisions about the customer are known and nothing of their profile was read yet."""
    return not row.state and bool(row.decision.stage)


def is_forgotten(row: DecisionRow) -> bool:
    """Whether it was said that the customer is forgotten, and nothing was said since: there is nothing to say again."""
    decision = row.decision
    is_blank = not (row.state or row.absorbed_into or row.parked or decision.stage or decision.alerts)
    return is_blank and decision.sequence > 0


def unheld(row: DecisionRow) -> Decision:
    """The decision of a row; of a recalled one without the imports that held them once: nobody says when they ended."""
    return msgspec.structs.replace(row.decision, held=()) if is_recalled(row) else row.decision


def without_foreign(
    decision: Decision, snapshot: Snapshot, definition: Definition, find: Callable[[bytes], AlertRow | None]
) -> Decision:
    """The decision, with its present silence passed where another customer's alert stands for it already.

    That is so for one order of two customers: both would raise it in turns. `find`: the alert of an id.
    """
    bought = evidence_of(snapshot, definition).bought
    if bought is None or bought.last_key in decision.passed:
        return decision
    named = alert_id(snapshot.workspace, SILENCE, bought.last_key, OPENING_KIND)
    held = None if known(decision.alerts, named) is not None else find(named)
    if held is None or held.state == RETRACTED:
        return decision
    return msgspec.structs.replace(decision, passed=(*decision.passed, bought.last_key)[-PASSED_KEPT:])


def unheard(
    decision: Decision,
    facts: tuple[FactRef, ...],
    workspace: str,
    definition: Definition,
    find: Callable[[bytes], AlertRow | None],
) -> tuple[FactRef, ...]:
    """The facts without those that opened an alert which moved to another customer since: it was raised once."""

    def is_told(fact: FactRef) -> bool:
        if fact.kind not in definition.pack.bad_experience.kinds:
            return False
        named = alert_id(workspace, BAD_EXPERIENCE, fact_key(fact), fact.kind)
        return known(decision.alerts, named) is None and find(named) is not None

    return tuple(fact for fact in facts if not is_told(fact))


def on_first_sight(
    decision: Decision,
    snapshot: Snapshot,
    facts: tuple[FactRef, ...],
    recorded_at: int,
    definition: Definition,
    import_id: str,
) -> Outcome:
    """Judge the first change read of a recalled customer: as `on_change`, without knowing what was known before.

    Silent where the change says what was decided on before. Closed alerts stand as they were closed. Told again by a
    republish, nobody is history whose stage was decided; who was held by an import stays held until its end.
    """
    deciding = Deciding(decision, snapshot, definition)
    holds = import_id if decision.held or not import_id.startswith(REPUBLISHING) else ""
    deciding.change(held=(holds,) if holds else ())
    if holds:
        return deciding.outcome()
    at = max(recorded_at, decision.decided_at)
    cause = Cause("facts", tuple(fact.id for fact in facts))
    hear(deciding, facts, at, cause)
    review_open(deciding, at, cause)
    deciding.restage(deciding.decision.settled, at, cause)
    if deciding.decision.version != definition.version:
        deciding.change(version=definition.version)
    return deciding.outcome()
