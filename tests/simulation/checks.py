"""What must hold of the simulated house: while a schedule runs, and after it was drained."""

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from services.scoring.domain.alerts import SILENCE
from services.scoring.domain.definitions import in_force
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
from shared.topics import CHURN_ALERTS, PROFILE_CHANGES, TOUCHPOINTS, WATERMARKS
from tests.simulation.house import Simulation
from tests.simulation.memory_database import Tables
from tests.simulation.oracle import Truth, told, truth_of
from tests.simulation.rules import FIXED, FIXED_SILENCE_MS

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
    """A change in the outbox: what it is, when its cause was recorded, and in which partition of touchpoints.

    In one of several where one step folded records of the same instant in each.
    """

    recorded_at: int
    customer: bytes
    version: int
    origins: tuple[int, ...]


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
        database = self.simulation.profiles
        folded: dict[int, set[int]] = {}
        for place, claim in database.tables["checkpoint"].items():
            was = before["checkpoint"].get(place)
            if was is not None and claim.position > was.position:
                folded[claim.partition] = self._note_recorded(was, claim)
        journal = database.tables["journal"]
        for seq in range(self.emitted_to, len(journal)):
            self._note_emitted(journal[seq], folded)
        self.emitted_to = len(journal)

    def _note_recorded(self, was: Claim, claim: Claim) -> set[int]:
        recorded_at = {
            (claim.partition, record.position): was.recorded_at(record)
            for record in self.simulation.log.records(TOUCHPOINTS, claim.partition)
            if was.position <= record.position < claim.position
        }
        self.recorded_at |= recorded_at
        return set(recorded_at.values())

    def _note_emitted(self, row: Pending, folded: Mapping[int, set[int]]) -> None:
        fact = fact_of(row.value)
        if row.topic == PROFILE_CHANGES and isinstance(fact, Change):
            if isinstance(fact, ProfileChanged) and fact.import_id.startswith(REPUBLISHING):
                insist(fact.version == self.versions[fact.customer], "a customer told again has the version it had")
                return
            if not folded and fact.version == self.versions.get(fact.customer, 0):
                return  # an absorbed or erased one told again
            insist(fact.version > self.versions.get(fact.customer, 0), "versions of a customer strictly grow")
            self.versions[fact.customer] = fact.version
            origins = tuple(partition for partition, ats in folded.items() if fact.recorded_at in ats)
            insist(origins, "a change was recorded when its cause was")
            is_new = any(fact.recorded_at > self.promised.get(origin, -1) for origin in origins)
            insist(is_new, "nothing is recorded behind a frontier stated")
            target = partition_of(fact.customer, self.simulation.shape.partitions)
            self.emitted[target].append(Emitted(fact.recorded_at, fact.customer, fact.version, origins))

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
                is_meant = all(change.recorded_at <= stated.frontiers[origin] for origin in change.origins)
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
