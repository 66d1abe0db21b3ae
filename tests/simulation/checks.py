"""What must hold of the simulated house: while a schedule runs, and after it was drained."""

import json
from collections import defaultdict
from functools import lru_cache
from typing import Any, NamedTuple

from services.scoring.domain.alerts import OPEN, SILENCE
from services.scoring.domain.decision import due
from services.scoring.domain.definitions import in_force
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.snapshot import snapshot_of
from services.scoring.domain.succession import armed_definition
from shared import profile as profiles
from shared.checkpoint import Claim
from shared.codec import decode
from shared.events import (
    REPUBLISHING,
    CustomerAbsorbed,
    CustomerErased,
    Fact,
    ProfileChanged,
    TouchpointsRecorded,
    WatermarkStated,
)
from shared.ids import dedup_scope, leaf_from_text, partition_of
from shared.log.port import Outgoing, Record
from shared.outbox import Pending
from shared.profile import Profile
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, SEGMENT_CHANGES, TOUCHPOINTS, WATERMARKS
from tests.simulation.house import Simulation
from tests.simulation.memory_database import Tables
from tests.simulation.oracle import Truth, told, truth_of
from tests.simulation.rules import FIXED, FIXED_SILENCE_MS, UTC

Change = ProfileChanged | CustomerAbsorbed | CustomerErased


class Broken(AssertionError):
    """A promise of the design does not hold."""


def insist(holds: object, promise: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(promise)


@lru_cache(maxsize=4096)
def fact_of(value: bytes) -> Fact:
    """The fact in some bytes."""
    fact = decode(value)
    assert isinstance(fact, Fact)
    return fact


@lru_cache(maxsize=4096)
def event_of(value: bytes) -> dict[str, Any]:
    """The CloudEvent in some bytes."""
    event: dict[str, Any] = json.loads(value)
    return event


class Emitted(NamedTuple):
    """A change in the outbox: what it is, when its cause was recorded, and in which partition of touchpoints."""

    recorded_at: int
    customer: bytes
    version: int
    origin: int


class Watcher:
    """Sees every commit of both databases, and knows what only a bystander knows: when each record was recorded."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.recorded_at: dict[tuple[int, int], int] = {}
        self.versions: dict[bytes, int] = {}  # customer → last version emitted
        self.judged_to = 0  # parcels of scoring already looked at
        self.emitted_to = 0  # parcels of profiles already looked at
        self.emitted: dict[int, list[Emitted]] = defaultdict(list)  # by partition of profile-changes
        self.promised: dict[int, int] = {}  # partition of touchpoints → greatest T stated
        self.raised_silences = 0
        simulation.profiles.on_commit = self.profiles_committed
        simulation.scoring.on_commit = self.scoring_committed
        simulation.log.on_append = self.appended
        simulation.watcher_forgets = self.scoring_lost

    def truth(self) -> Truth:
        """What the whole log means by now; everything in it was folded."""
        for partition in range(self.simulation.shape.partitions):
            for record in self.simulation.log.records(TOUCHPOINTS, partition):
                was_folded = (partition, record.position) in self.recorded_at
                insist(was_folded, "every record behind the checkpoint was folded by a step that committed")
        return truth_of(
            told(
                self.simulation.log.records(TOUCHPOINTS, partition),
                {position: at for (p, position), at in self.recorded_at.items() if p == partition},
            )
            for partition in range(self.simulation.shape.partitions)
        )

    # --- profiles ---------------------------------------------------------------------------------------------

    def profiles_committed(self, before: Tables) -> None:
        """Note when folded records count as recorded; versions of a customer strictly grow."""
        database, origin = self.simulation.profiles, -1
        for place, claim in database.tables["checkpoint"].items():
            was = before["checkpoint"].get(place)
            if was is not None and claim.position > was.position:
                origin = claim.partition
                self._note_recorded(was, claim)
        journal = database.tables["journal"]
        for seq in range(self.emitted_to, len(journal)):
            self._note_emitted(journal[seq], origin)
        self.emitted_to = len(journal)

    def _note_recorded(self, was: Claim, claim: Claim) -> None:
        for record in self.simulation.log.records(TOUCHPOINTS, claim.partition):
            if was.position <= record.position < claim.position:
                self.recorded_at[claim.partition, record.position] = was.recorded_at(record)

    def _note_emitted(self, row: Pending, origin: int) -> None:
        fact = fact_of(row.value)
        if row.topic == PROFILE_CHANGES and isinstance(fact, Change):
            if isinstance(fact, ProfileChanged) and fact.import_id.startswith(REPUBLISHING):
                insist(fact.version == self.versions[fact.customer], "a customer told again has the version it had")
                return
            if origin < 0 and fact.version == self.versions.get(fact.customer, 0):
                return  # an absorbed or erased one told again
            insist(fact.version > self.versions.get(fact.customer, 0), "versions of a customer strictly grow")
            self.versions[fact.customer] = fact.version
            insist(fact.recorded_at > self.promised.get(origin, -1), "nothing is recorded behind a frontier stated")
            target = partition_of(fact.customer, self.simulation.shape.partitions)
            self.emitted[target].append(Emitted(fact.recorded_at, fact.customer, fact.version, origin))

    # --- watermarks -------------------------------------------------------------------------------------------

    def appended(self, topic: str, record: Outgoing) -> None:
        """A statement is true: what its vector speaks of lies before its position."""
        if topic != WATERMARKS:
            return
        stated = fact_of(record.value)
        assert isinstance(stated, WatermarkStated)
        for origin, frontier in enumerate(stated.frontiers):
            self.promised[origin] = max(frontier, self.promised.get(origin, -1))
        for one in stated.statements:
            before = self._lying_before(one.partition, one.position)
            for change in self.emitted[one.partition]:
                is_meant = change.recorded_at <= stated.frontiers[change.origin]
                is_there = (change.customer, change.version) in before
                insist(is_there or not is_meant, "a statement covers only what lies before its position")

    def _lying_before(self, partition: int, position: int) -> set[tuple[bytes, int]]:
        records = self.simulation.log.records(PROFILE_CHANGES, partition)
        return {_named(record) for record in records if record.position < position}

    # --- scoring ----------------------------------------------------------------------------------------------

    def scoring_lost(self) -> None:
        """What was decided and never said is taken again; what was said was looked at."""
        self.judged_to = len(self.simulation.scoring.tables["journal"])

    def scoring_committed(self, before: Tables) -> None:
        """Every silence alert raised by time rests on evidence that was all read."""
        journal = self.simulation.scoring.tables["journal"]
        for seq in range(self.judged_to, len(journal)):
            row: Pending = journal[seq]
            if row.topic == CHURN_ALERTS:
                self._note_alert(event_of(row.value), before)
        self.judged_to = len(journal)

    def _note_alert(self, event: dict[str, Any], before: Tables) -> None:
        data = event["data"]
        if event["type"] != "raftar.alert.raised" or data["policy"] != SILENCE:
            return
        insist(data["cause"] == "time", "a silence alert is raised by time alone")
        self.raised_silences += 1
        customer, at = leaf_from_text(data["customer"]), data["raised_at"]
        self._all_was_folded(at)
        self._all_was_read(partition_of(customer, self.simulation.shape.partitions), at, before)
        self._predicate_holds(customer, data)
        version = in_force(self.simulation.definitions.versions, at - 1).version
        insist(data["definition_version"] >= version, "no alert is raised under a definition that was replaced")

    def _all_was_folded(self, at: int) -> None:
        claims = self.simulation.profiles.claims(TOUCHPOINTS)
        for partition in range(self.simulation.shape.partitions):
            claim = claims.get(partition)
            insist(claim is not None, "no alert before every partition was folded")
            assert claim is not None
            for record in self.simulation.log.records(TOUCHPOINTS, partition):
                unread = record.position >= claim.position and claim.recorded_at(record) <= at
                insist(not unread, "no alert before every touchpoint recorded up to it was folded")

    def _all_was_read(self, partition: int, at: int, before: Tables) -> None:
        position = before["checkpoint"][PROFILE_CHANGES, partition].position
        read = self._lying_before(partition, position)
        for change in self.emitted[partition]:
            is_read = (change.customer, change.version) in read
            insist(change.recorded_at > at or is_read, "no alert before every change recorded up to it was read")

    def _predicate_holds(self, customer: bytes, data: dict[str, Any]) -> None:
        if self.simulation.shape.silence != FIXED or len(self.simulation.definitions.versions) > 1:
            return
        insist(data["crossed_at"] == data["opened_at"] + FIXED_SILENCE_MS, "the crossing is exact")
        insist(data["raised_at"] >= data["crossed_at"], "no silence is raised before its crossing")


def _named(record: Record) -> tuple[bytes, int]:
    fact = fact_of(record.value)
    return (fact.customer, fact.version) if isinstance(fact, Change) else (b"", 0)


# --- after a schedule was drained: profiles -----------------------------------------------------------------------


def check_profiles(simulation: Simulation, watcher: Watcher) -> Truth:
    """Everything acknowledged is folded once, leaves and components are the oracle's, and the log tells the same."""
    truth = watcher.truth()
    tables = simulation.profiles.tables
    insist(not tables["parked"], "nothing is parked that can be folded")
    insist(tables["touchpoint"].keys() == truth.seen, "acknowledged touchpoints are folded, each once")
    _check_acked(simulation, truth)
    for leaf, row in tables["leaf"].items():
        _check_leaf(truth, leaf, row)
    insist(truth.leaves.keys() <= tables["leaf"].keys(), "every leaf named has a row")
    _check_changes(simulation, truth)
    return truth


def _check_acked(simulation: Simulation, truth: Truth) -> None:
    for outgoing in simulation.acked:
        fact = fact_of(outgoing.value)
        if isinstance(fact, TouchpointsRecorded):
            for touchpoint in fact.touchpoints:
                scope = dedup_scope(fact.workspace, fact.source, touchpoint.leaves[0])
                insist((touchpoint.day, touchpoint.id, scope) in truth.seen, "what was acknowledged is in the log")


def _check_leaf(truth: Truth, leaf: bytes, row: Any) -> None:
    known, place = truth.leaf(leaf), truth.places.get(leaf)
    name = leaf.hex()[:6]
    insist((row.state or profiles.encode(profiles.new())) == profiles.encode(known.state), f"{name}: state")
    insist(row.erased == known.erased, f"{name}: erased")
    if place is None:
        insist(row.root == leaf, f"{name}: a leaf nothing counts about stands alone")
        return
    insist((row.root, row.standing) == (place.root, place.standing), f"{name}: place {row.place} is not {place}")
    is_merged = row.root == leaf and len(truth.members(leaf)) > 1
    insist(row.merged == (truth.state_of(leaf) if is_merged else b""), f"{name}: merged state")


def _check_changes(simulation: Simulation, truth: Truth) -> None:
    latest: dict[bytes, Change] = {}
    for partition in range(simulation.shape.partitions):
        for record in simulation.log.records(PROFILE_CHANGES, partition):
            fact = fact_of(record.value)
            if isinstance(fact, Change):
                known = latest.get(fact.customer)
                if known is None or fact.version > known.version:
                    latest[fact.customer] = fact
                    insist(
                        partition == partition_of(fact.customer, simulation.shape.partitions),
                        "a change lies on its customer's partition",
                    )
    for leaf, row in simulation.profiles.tables["leaf"].items():
        _check_latest(truth, leaf, row, latest.get(leaf))


def _check_latest(truth: Truth, leaf: bytes, row: Any, last: Change | None) -> None:
    name = leaf.hex()[:6]
    insist(row.version == (last.version if last else 0), f"{name}: its last version was relayed")
    if isinstance(last, ProfileChanged):
        insist(row.root == leaf, f"{name}: what changed last is a customer")
        insist(last.state == truth.state_of(leaf), f"{name}: consumers see its state")
    elif isinstance(last, CustomerAbsorbed):
        insist(row.root != leaf, f"{name}: who was absorbed is no customer")
    else:
        insist(not truth.leaf(leaf).applied, f"{name}: who has touchpoints was changed")


# --- after a schedule was drained: scoring ------------------------------------------------------------------------


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


__all__ = ["Broken", "Watcher", "check_nothing_waits", "check_profiles", "check_scoring"]
