"""What must hold of decisions once a schedule was drained: decided on the newest, alerts said once, none lost."""

from typing import Any

from services.scoring.domain.alerts import OPEN, SILENCE
from services.scoring.domain.decision import due
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.snapshot import snapshot_of
from services.scoring.domain.step import Rules
from services.scoring.domain.succession import armed_definition
from shared import profile as profiles
from shared.events import TouchpointsRecorded
from shared.profile import Profile
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES, TOUCHPOINTS
from tests.simulation.checks import event_of, fact_of, insist
from tests.simulation.house import Simulation
from tests.simulation.oracle import Truth
from tests.simulation.rules import FIXED, FIXED_SILENCE_MS, UTC
from tests.support.remaking import differing


def check_scoring(simulation: Simulation, truth: Truth) -> None:
    """Everybody is decided on the newest state, armed exactly when time can flip something, and alerts agree."""
    rows: dict[bytes, DecisionRow] = simulation.scoring.tables["decision"]
    leaves = simulation.profiles.tables["leaf"]
    for customer, row in rows.items():
        name = customer.hex()[:6]
        insist(not row.parked, f"{name}: parked: {row.parked}")
        insist(row.version == leaves[customer].version, f"{name}: decided on the newest version")
        insist(not row.decision.held or not row.state, f"{name}: nobody is held once the import has ended")
        if row.absorbed_into:
            insist(leaves[customer].root != customer, f"{name}: who is absorbed is no customer")
        _check_armed(simulation, name, row)
        if row.state:
            insist(row.state == truth.state_of(customer), f"{name}: decided on its state")
            _check_stage(simulation, name, row)
        _check_alerts(simulation, name, row)
    for customer, leaf in leaves.items():
        insist(not leaf.version or customer in rows, f"{customer.hex()[:6]}: every customer is decided")
    _check_events(simulation, truth)
    _check_complaints(simulation, truth)
    _check_made_again(simulation)


def _check_made_again(simulation: Simulation) -> None:
    """What was said gives the very rows that stand, in whatever order its partitions are read."""
    tables, rules = simulation.scoring.tables, Rules(simulation.definitions.versions, UTC)
    topics, partitions = (SEGMENT_CHANGES, CHURN_ALERTS), range(simulation.shape.partitions)
    events = [
        one.value for topic in topics for partition in partitions for one in simulation.log.records(topic, partition)
    ]
    found = differing(tables["decision"], tables["alert"], events, lambda _: rules, simulation.shape.partitions)
    insist(not found, f"made again of what was said they are as they stand: {list(found.values())}")


def _check_armed(simulation: Simulation, name: str, row: DecisionRow) -> None:
    is_live = bool(row.state) and not row.absorbed_into and not row.parked
    definition = armed_definition(row.decision, simulation.definitions.versions)
    expected = due(row.decision, _snapshot(row, definition.pack.purchase_trust_min), definition) if is_live else None
    insist(row.due_at == expected, f"{name}: armed at {row.due_at}, should be at {expected}")
    watermark = simulation.deciding[0].heard.watermark(row.partition)
    insist(row.due_at is None or watermark is None or row.due_at >= watermark, f"{name}: what is due was fired")


def _snapshot(row: DecisionRow, trust_min: int) -> Any:
    return snapshot_of(row.workspace, profiles.decode(row.state), UTC, trust_min)


def _check_stage(simulation: Simulation, name: str, row: DecisionRow) -> None:
    expected = stage_of(profiles.decode(row.state), row.decision.settled)
    insist(row.decision.stage == expected, f"{name}: stage {row.decision.stage} is not {expected}")


def stage_of(state: Profile, at: int) -> str:
    """The stage of `rules.py`, worked out plainly."""
    bought = profiles.purchases(state)
    if not bought:
        return "prospect"
    silence_ms = max(0, at - bought[-1].at)
    if len({purchase.at // 1000 for purchase in bought}) == 1 and silence_ms < 15_000:
        return "new"
    return "lost" if silence_ms >= 60_000 else "quiet" if silence_ms >= 15_000 else "active"


def _check_alerts(simulation: Simulation, name: str, row: DecisionRow) -> None:
    silences = [a for a in row.decision.alerts if a.policy == SILENCE and a.state == OPEN]
    insist(len(silences) <= 1, f"{name}: at most one open alert per silence")
    kept: dict[bytes, AlertRow] = simulation.scoring.tables["alert"]
    for alert in row.decision.alerts:
        insist(alert.id in kept, f"{name}: its alert is listed")
        told_row = kept[alert.id]
        if told_row.customer == row.customer:  # else somebody raised the same opening fact later and took it over
            is_as_listed = (told_row.state, told_row.revision) == (alert.state, alert.revision)
            insist(is_as_listed, f"{name}: its alert is listed as it is")
    if silences and simulation.shape.silence == FIXED and len(simulation.definitions.versions) == 1:
        insist(row.state, f"{name}: an open alert is with somebody who is known")
        bought = profiles.purchases(profiles.decode(row.state))
        last_at = bought[-1].at if bought else row.decision.settled
        insist(last_at + FIXED_SILENCE_MS <= row.decision.settled, f"{name}: an open alert is true")


def _check_events(simulation: Simulation, truth: Truth) -> None:
    tables = simulation.scoring.tables
    newest: dict[str, dict[str, Any]] = {}
    by_id: dict[str, bytes] = {}
    sequences: dict[str, str] = {}
    standing: dict[str, tuple[str, str]] = {}
    for _, row in sorted(tables["journal"].items()):
        event = event_of(row.value)
        insist(event["sequence"] > sequences.get(event["subject"], ""), "sequences of a customer strictly grow")
        _check_raised_once(event, standing)
        sequences[event["subject"]] = event["sequence"]
    for topic in (CHURN_ALERTS, SEGMENT_CHANGES):
        for partition in range(simulation.shape.partitions):
            for record in simulation.log.records(topic, partition):
                event = event_of(record.value)
                insist(by_id.setdefault(event["id"], record.value) == record.value, "one id is one event")
                data = event["data"]
                if "alert_id" in data:
                    known = newest.get(data["alert_id"])
                    if known is None or data["revision"] > known["revision"]:
                        newest[data["alert_id"]] = data
    listed = {row.id.hex(): (row.state, row.revision) for row in tables["alert"].values()}
    said = {name.replace("-", ""): (data["state"], data["revision"]) for name, data in newest.items()}
    insist(listed == said, "whoever keeps the highest revision of each alert sees what is listed")
    for alert in tables["alert"].values():
        if alert.state == OPEN:
            row = tables["decision"][alert.customer]
            insist(any(mine.id == alert.id for mine in row.decision.alerts), "an open alert is somebody's")
            insist(row.state and not row.absorbed_into, "an open alert is with a living customer")
            insist(
                alert.customer == truth.places[alert.leaf].root,
                "an open alert is with the customer of its opening leaf",
            )


def _check_raised_once(event: dict[str, Any], standing: dict[str, tuple[str, str]]) -> None:
    """Who has an open alert is not told of it as of a new one; `standing`: alert → (customer, state) so far."""
    data = event["data"]
    if "alert_id" in data:
        is_raised = event["type"] == "raftar.alert.raised"
        is_open = standing.get(data["alert_id"]) == (event["subject"], OPEN)
        insist(not (is_raised and is_open), "an open alert is not raised again")
        standing[data["alert_id"]] = event["subject"], data["state"]


def _check_complaints(simulation: Simulation, truth: Truth) -> None:
    """No bad experience is lost on the way, whoever it belonged to when."""
    heard = {event_of(row.value)["data"].get("key") for row in simulation.scoring.tables["journal"].values()}
    history = _history(simulation)
    for leaf, known in truth.leaves.items():
        for touchpoint, _, _ in known.applied:
            if touchpoint.kind == "complained" and touchpoint.id not in history:
                insist(f"id:{touchpoint.id.hex()}" in heard, f"{leaf.hex()[:6]}: its complaint was heard")


def _history(simulation: Simulation) -> set[bytes]:
    """Ids that came as history: they are silent."""
    facts = [fact_of(outgoing.value) for outgoing in simulation.sent]
    told = [fact for fact in facts if isinstance(fact, TouchpointsRecorded) and fact.import_id]
    return {touchpoint.id for fact in told for touchpoint in fact.touchpoints}


def check_nothing_waits(simulation: Simulation) -> None:
    """No partition is stranded: every record is folded, every outbox is empty."""
    for database, topic in ((simulation.profiles, TOUCHPOINTS), (simulation.scoring, PROFILE_CHANGES)):
        positions = {partition: claim.position for partition, claim in database.claims(topic).items()}
        insist(positions == simulation.log.ends(topic), f"{topic}: every partition is folded to its end")
        insist(not database.tables["outbox"], f"{topic}: the outbox is empty")
