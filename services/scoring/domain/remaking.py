"""A customer's row made again beside the live one: from what was said, and from what nobody ever says.

Said, and therefore made again: stage and since when, sequence, the alerts with state and revision, and as lower bounds
how far silence was decided and under which definition. Due times follow. The snapshot, whose alert it is by now, and
what was decided without a word (silences passed over, imports that hold) are taken over from live.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from services.scoring.domain.alerts import OPEN, Alert, kept, known
from services.scoring.domain.arming import is_resting
from services.scoring.domain.deciding import UNSETTLED, Decision
from services.scoring.domain.decision import due
from services.scoring.domain.recalling import Draft, alert_of_row, recalled_row
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.setting import Rules
from services.scoring.domain.snapshot import snapshot_of_state
from services.scoring.domain.succession import armed_definition

DIGEST_MODULUS = 1 << 256
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class SaidAlert(NamedTuple):
    """One alert of a customer: as it was said last, and as live has it; one of both may be missing."""

    said: AlertRow | None
    live: AlertRow | None


class Stand(msgspec.Struct, frozen=True, array_like=True):
    """All that is kept of a customer: their row (None = there is none) and their alerts by id."""

    row: DecisionRow | None
    alerts: tuple[AlertRow, ...] = ()


def made_again(
    live: DecisionRow | None, draft: Draft | None, alerts: Sequence[SaidAlert], rules: Rules, partitions: int
) -> Stand:
    """The customer as what was said has them. `live`: their row, None where it is missing or cannot be read ·
    `draft`: None when nothing was said of them · `alerts`: those that belong to them, by id.

    A row that is missing comes without a state: it is armed when profiles tells the customer again.
    """
    rows = tuple(_alert_row(one) for one in alerts if one.said is not None)
    if live is None:
        said = [one.said for one in alerts if one.said is not None]
        return Stand(None if draft is None else recalled_row(draft, said, partitions), rows)
    row = live if draft is None else _bounded(live, draft)
    decision = _restaged(row, draft)
    decision = msgspec.structs.replace(decision, alerts=_alerts(decision.alerts, alerts))
    return Stand(_armed(msgspec.structs.replace(row, decision=decision), rules), rows)


def difference(live: Stand, made: Stand) -> tuple[str, ...]:
    """In what two stands of one customer differ: names of fields of the row, of the decision, and `alert_rows`."""
    found = [] if live.alerts == made.alerts else ["alert_rows"]
    if live.row is None or made.row is None:
        return tuple(found if live.row is made.row else ["row", *found])
    for mine, other in ((live.row.decision, made.row.decision), (live.row, made.row)):
        names = (name for name in mine.__struct_fields__ if name != "decision")
        found += [name for name in names if getattr(mine, name) != getattr(other, name)]
    return tuple(sorted(found))


def digest_of(stand: Stand) -> int:
    """The digest of one customer; those of many are added modulo DIGEST_MODULUS, in any order."""
    return int.from_bytes(sha256(_encode(stand)).digest())


def _bounded(live: DecisionRow, draft: Draft) -> DecisionRow:
    """The row at least as far as what was said of it: these only grow, mostly without a word."""
    decision = live.decision
    bounded = msgspec.structs.replace(
        decision,
        sequence=max(decision.sequence, draft.behind),
        decided_at=max(decision.decided_at, draft.decided_at),
        settled=max(decision.settled, draft.settled),
    )
    return msgspec.structs.replace(live, decision=bounded)


def _restaged(row: DecisionRow, draft: Draft | None) -> Decision:
    """The decision with the stage that was said; without one where it went away with the customer, which nobody says.

    Without a stage are those who are part of another, whose profile is not known or parked, and whom an import holds.
    """
    decision = row.decision
    if not decision.stage and (is_resting(row) or decision.held):
        return decision
    stage, since = ("", UNSETTLED) if draft is None else (draft.stage, draft.stage_since)
    if (decision.stage, decision.stage_since) == (stage, since):
        return decision
    spell = draft.spell if draft is not None and decision.stage != stage else decision.stage_spell
    return msgspec.structs.replace(decision, stage=stage, stage_since=since, stage_spell=spell)


def _alerts(mine: tuple[Alert, ...], alerts: Sequence[SaidAlert]) -> tuple[Alert, ...]:
    """The alerts of a decision as they were said: closed ones may be forgotten, open ones may not."""
    for one in alerts:
        if one.said is None:
            unsaid = one.live
            mine = tuple(alert for alert in mine if unsaid is None or alert.id != unsaid.id)
        elif one.said.body and (one.said.state == OPEN or known(mine, one.said.id) is not None):
            alert = alert_of_row(one.said)
            if known(mine, alert.id) != alert:
                mine = kept(mine, alert)
    return mine


def _alert_row(one: SaidAlert) -> AlertRow:
    """The row of an alert: whose it is by now is live's word, and a text once gone stays gone."""
    said, live = one.said, one.live
    assert said is not None  # noqa: S101  # those that were never said are left out
    if live is None:
        return said
    body = said.body if live.body and said.body else live.body
    return msgspec.structs.replace(said, customer=live.customer, moves=live.moves, body=body)


def _armed(row: DecisionRow, rules: Rules) -> DecisionRow:
    """The row with the due time that follows from it."""
    if is_resting(row):
        return msgspec.structs.replace(row, due_at=None)
    definition = armed_definition(row.decision, rules.definitions)
    snapshot = snapshot_of_state(row.workspace, row.state, rules.zone, definition.pack.purchase_trust_min)
    return msgspec.structs.replace(row, due_at=due(row.decision, snapshot, definition))
