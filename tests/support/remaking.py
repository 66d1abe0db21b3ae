"""Rows made again beside the ones that stand, in memory: the pure part of what a rebuild of scoring does."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from services.scoring.domain.recalling import Draft, joined, said_of
from services.scoring.domain.remaking import SaidAlert, Stand, difference, made_again
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.step import Rules


def differing(
    rows: Mapping[bytes, DecisionRow],
    alerts: Mapping[bytes, AlertRow],
    events: Iterable[bytes],
    rules: Callable[[str], Rules],
    partitions: int,
) -> dict[bytes, tuple[str, ...]]:
    """Customer → in what their row differs from the one made of these CloudEvents, in any order."""
    drafts, said = _told(events)
    found: dict[bytes, tuple[str, ...]] = {}
    for customer in sorted(rows.keys() | drafts.keys()):
        mine = sorted(
            name
            for name in said.keys() | alerts.keys()
            if (alerts[name] if name in alerts else said[name]).customer == customer
        )
        pairs = [SaidAlert(said.get(name), alerts.get(name)) for name in mine]
        row = rows.get(customer)
        live = Stand(row, tuple(pair.live for pair in pairs if pair.live is not None))
        made = made_again(row, drafts.get(customer), pairs, rules("main"), partitions)
        if fields := difference(live, made):
            found[customer] = fields
    return found


def _told(events: Iterable[bytes]) -> tuple[dict[bytes, Draft], dict[bytes, AlertRow]]:
    drafts: dict[bytes, Draft] = {}
    said: dict[bytes, AlertRow] = {}
    for body in events:
        one = said_of(body)
        if one is None:
            continue
        customer = one.draft.customer
        drafts[customer] = joined(drafts.get(customer), one.draft)
        if one.draft.erased_sequence:
            said = {
                name: msgspec.structs.replace(row, body=b"") if row.customer == customer else row
                for name, row in said.items()
            }
        if one.alert is not None and (one.alert.id not in said or said[one.alert.id].revision < one.alert.revision):
            said[one.alert.id] = one.alert
    return drafts, said
