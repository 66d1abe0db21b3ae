"""A scoring database made again from what was said, in memory: the pure part of what `services.scoring.recall` does."""

from collections.abc import Iterable

from services.scoring.domain.recalling import Draft, joined, recalled_row, said_of
from services.scoring.domain.rows import AlertRow, DecisionRow


def recalled(events: Iterable[bytes], partitions: int) -> tuple[dict[bytes, DecisionRow], dict[bytes, AlertRow]]:
    """Decision rows and alerts of these CloudEvents, in any order and however often each is there."""
    drafts: dict[bytes, Draft] = {}
    alerts: dict[bytes, AlertRow] = {}
    for body in events:
        said = said_of(body)
        if said is None:
            continue
        drafts[said.draft.customer] = joined(drafts.get(said.draft.customer), said.draft)
        if said.alert is not None:
            known = alerts.get(said.alert.id)
            if known is None or said.alert.revision > known.revision:
                alerts[said.alert.id] = said.alert
    mine = {customer: [row for row in alerts.values() if row.customer == customer] for customer in drafts}
    return {who: recalled_row(draft, mine[who], partitions) for who, draft in drafts.items()}, alerts
