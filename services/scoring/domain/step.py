"""The step, pure: what changes and due times do to decisions that are locked.

A `Book` holds the rows under lock and is told changes in log order, or that time has passed. When it needs a row that
was not loaded, `Wanted` says which; the shell locks it too and starts over with a new Book. A decision that throws
parks its customer, disarmed and visible; the others go on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import NamedTuple

import msgspec

from services.scoring.domain import joining
from services.scoring.domain.alerts import OPEN, Alert, AlertRaised, AlertTransition, Transition
from services.scoring.domain.deciding import Decision, Outcome
from services.scoring.domain.decision import due, on_change
from services.scoring.domain.definitions import Definition
from services.scoring.domain.emitting import cloud_event, topic_of
from services.scoring.domain.rows import AlertRow, DecisionRow
from services.scoring.domain.snapshot import Snapshot, snapshot_of
from services.scoring.domain.succession import advance_through, armed_definition, release_backfill
from shared import profile as profiles
from shared.events import CustomerAbsorbed, CustomerErased, CustomerParked, ProfileChanged
from shared.ids import partition_of
from shared.outbox import Parcel

Change = ProfileChanged | CustomerAbsorbed | CustomerErased | CustomerParked
PPM = 1_000_000


class Wanted(Exception):
    """Not an error: these customers' rows, and these alerts', are needed under lock."""

    def __init__(self, customers: Iterable[bytes] = (), alerts: Iterable[bytes] = ()) -> None:
        super().__init__("more rows are wanted")
        self.customers, self.alerts = frozenset(customers), frozenset(alerts)


class Rules(NamedTuple):
    """What a workspace decides by: its versions in ascending order (at least one) and its time zone."""

    definitions: Sequence[Definition]
    zone: tzinfo


class Setting(NamedTuple):
    """What a step is done under. `rules` of a workspace · `now`: our clock, epoch ms · `partitions` of the house."""

    rules: Callable[[str], Rules]
    now: int
    partitions: int


class Counts(msgspec.Struct):
    """What a step counts."""

    decided: int = 0
    outdated: int = 0  # changes of a version already seen
    unsettled_silences: int = 0  # silences that ended before their crossing was settled
    parked: int = 0
    taken_over: int = 0  # alerts raised under an id that another customer held
    suppressed: int = 0  # words about an alert that belongs to another customer by now


class Book:
    """Rows under lock, changed in memory."""

    def __init__(
        self, setting: Setting, rows: Mapping[bytes, DecisionRow], alerts: Mapping[bytes, AlertRow | None]
    ) -> None:
        """`alerts`: rows of the alert ids that were asked for, None where there is none."""
        self.parcels: list[Parcel] = []
        self.counts = Counts()
        self.erased: list[bytes] = []
        self._setting = setting
        self._rows, self._before = dict(rows), dict(rows)
        self._alerts, self._alerts_before = dict(alerts), dict(alerts)
        self._snapshots: dict[bytes, Snapshot] = {}

    # --- what changes bring -----------------------------------------------------------------------------------

    def change(self, fact: Change, watermark: int | None, donors: Mapping[bytes, Sequence[AlertRow]]) -> None:
        """Take one change. `watermark`: of its partition, None = unheard · `donors`: leaf → alerts opened with it."""
        row = self._row(fact.customer)
        if fact.version <= row.version:
            self.counts.outdated += 1
            return
        self._guarded(fact.customer, fact.version, lambda: self._take(fact, watermark, donors))

    def _take(self, fact: Change, watermark: int | None, donors: Mapping[bytes, Sequence[AlertRow]]) -> None:
        match fact:
            case ProfileChanged():
                self._collect(fact, donors)
                self._changed(fact, watermark)
            case CustomerAbsorbed():
                self._absorbed(fact, watermark)
            case CustomerErased():
                self._erased(fact)
            case CustomerParked():
                self._put(self._row(fact.customer), version=fact.version, due_at=None, parked=fact.reason)

    def _changed(self, fact: ProfileChanged, watermark: int | None) -> None:
        row = self._row(fact.customer)
        if row.absorbed_into:
            row = self._put(row, absorbed_into=b"")  # it was split off again
        definition = armed_definition(row.decision, self._rules(row).definitions)
        old = self._snapshot(row)
        new = self._snapshot_of(row.workspace, fact.state, definition)
        before = Outcome(row.decision)
        if watermark is not None:
            before = advance_through(row.decision, old, min(fact.recorded_at, watermark), self._rules(row).definitions)
            definition = armed_definition(before.decision, self._rules(row).definitions)
        judged = on_change(
            before.decision, old, new, fact.facts, fact.recorded_at, watermark, definition, fact.import_id
        )
        self._snapshots[fact.customer] = new
        self._put(row, version=fact.version, state=fact.state, parked="")
        self._follow(fact.customer, _both(before, judged))

    def _absorbed(self, fact: CustomerAbsorbed, watermark: int | None) -> None:
        row, into = self._row(fact.customer), self._resolved(fact.into)
        gone = Outcome(row.decision)
        if watermark is not None and row.state:
            until = min(fact.recorded_at, watermark)
            gone = advance_through(row.decision, self._snapshot(row), until, self._rules(row).definitions)
            self._follow(fact.customer, gone)
            gone = Outcome(self._row(fact.customer).decision)
        left = joining.surrender(gone.decision)
        self._put(
            self._row(fact.customer), version=fact.version, state=b"", decision=left, due_at=None,
            absorbed_into=into.customer, parked="",
        )  # fmt: skip
        self._snapshots.pop(fact.customer, None)
        definition = armed_definition(into.decision, self._rules(into).definitions)
        for alert in gone.decision.alerts:
            self._hand_over(alert.id, fact.customer, into.customer)
        joined = joining.on_absorbed(into.decision, gone.decision, self._snapshot(into), fact.recorded_at, definition)
        self._follow(into.customer, joined)

    def _erased(self, fact: CustomerErased) -> None:
        row = self._row(fact.customer)
        definition = armed_definition(row.decision, self._rules(row).definitions)
        gone = joining.on_erased(row.decision, fact.recorded_at, self._snapshot(row), definition)
        self._follow(fact.customer, gone)
        self._snapshots.pop(fact.customer, None)
        self._put(self._row(fact.customer), version=fact.version, state=b"", due_at=None, absorbed_into=b"", parked="")
        self.erased.append(fact.customer)

    def _collect(self, fact: ProfileChanged, donors: Mapping[bytes, Sequence[AlertRow]]) -> None:
        """A change that names its leaves brings home the alerts that opened with one of them."""
        for place in fact.leaves:
            for found in donors.get(place.leaf, ()):
                alert = self._alert(found.id)
                if alert is None or alert.customer == fact.customer or alert.moves >= place.moves:
                    continue
                donor = self._row(alert.customer)
                rest, moved = joining.give(donor.decision, {place.leaf})
                row = self._row(fact.customer)
                self._put(row, decision=joining.take(row.decision, moved))
                self._rearm(self._put(donor, decision=rest))
                self._alerts[alert.id] = msgspec.structs.replace(alert, customer=fact.customer, moves=place.moves)

    def _resolved(self, customer: bytes) -> DecisionRow:
        """The row of a customer, or of the one it was absorbed into meanwhile."""
        row = self._row(customer)
        return self._resolved(row.absorbed_into) if row.absorbed_into else row

    def _hand_over(self, alert_id: bytes, giver: bytes, taker: bytes) -> None:
        alert = self._alert(alert_id)
        if alert is not None and alert.customer == giver:
            self._alerts[alert_id] = msgspec.structs.replace(alert, customer=taker)

    # --- what time brings -------------------------------------------------------------------------------------

    def pass_time(self, customer: bytes, watermark: int) -> None:
        """Take what fell due before `watermark`, under the version in force at each instant, and arm again."""
        row = self._row(customer)
        if row.absorbed_into or row.parked or not row.state:
            return
        definitions = self._rules(row).definitions

        def advanced() -> None:
            self._follow(customer, advance_through(row.decision, self._snapshot(row), watermark, definitions))

        self._guarded(customer, row.version, advanced)

    def release(self, customer: bytes, imports: Sequence[str], watermark: int) -> None:
        """Release a customer from finished history imports; decides them when none holds them any more."""
        row = self._row(customer)

        def released() -> None:
            for import_id in imports:
                now = self._row(customer)
                if import_id in now.decision.held:
                    definition = armed_definition(now.decision, self._rules(now).definitions)
                    outcome = release_backfill(now.decision, self._snapshot(now), watermark, definition, import_id)
                    self._follow(customer, outcome)

        self._guarded(customer, row.version, released)

    def apply(self, customer: bytes, decide: Callable[[Decision, Snapshot, Definition], Outcome]) -> Outcome:
        """Apply a person's word; raises what `decide` raises. Returns what came of it."""
        row = self._row(customer)
        definition = armed_definition(row.decision, self._rules(row).definitions)
        outcome = decide(row.decision, self._snapshot(row), definition)
        self._follow(customer, outcome)
        return outcome

    # --- results ----------------------------------------------------------------------------------------------

    def rows(self) -> list[DecisionRow]:
        """Every decision row that changed."""
        return [row for customer, row in sorted(self._rows.items()) if row != self._before.get(customer)]

    def alerts(self) -> list[AlertRow]:
        """Every alert row that changed or is new."""
        found = [row for _, row in sorted(self._alerts.items()) if row is not None]
        return [row for row in found if row != self._alerts_before.get(row.id)]

    # --- following an outcome -----------------------------------------------------------------------------------

    def _follow(self, customer: bytes, outcome: Outcome) -> None:
        """Write an outcome: the decision, its transitions as facts and alert rows, and the new due time."""
        row = self._put(self._row(customer), decision=outcome.decision)
        self.counts.decided += 1
        self.counts.unsettled_silences += outcome.unsettled_silences
        for transition in outcome.transitions:
            if isinstance(transition, AlertTransition):
                self._emit_alert(row, transition)
            else:
                self._emit(row, transition)
        self._rearm(self._row(customer))

    def _emit_alert(self, row: DecisionRow, transition: AlertTransition) -> None:
        """One id, one alert: raising an open id takes it over; other words about somebody else's alert are dropped."""
        alert = transition.alert
        known = self._alert(alert.id)
        if known is not None and known.customer != row.customer:
            if not isinstance(transition, AlertRaised):
                self.counts.suppressed += 1
                self._drop(row.customer, alert)
                return
            self.counts.taken_over += 1
        if known is not None and alert.revision <= known.revision:
            alert = msgspec.structs.replace(alert, revision=known.revision + 1)
            self._replace(row.customer, alert)
            transition = msgspec.structs.replace(transition, alert=alert)
        body = self._emit(row, transition)
        risk = -1 if transition.risk is None else round(transition.risk * PPM)
        self._alerts[alert.id] = AlertRow(
            alert.id, row.workspace, row.customer, alert.leaf, known.moves if known else 0, alert.policy, alert.state,
            alert.revision, alert.raised_at, risk, body,
        )  # fmt: skip

    def _emit(self, row: DecisionRow, transition: Transition) -> bytes:
        body = cloud_event(row.workspace, row.customer, transition, self._setting.now)
        partition = partition_of(row.customer, self._setting.partitions)
        self.parcels.append(Parcel(topic_of(transition), partition, row.customer, body))
        return body

    def _drop(self, customer: bytes, alert: Alert) -> None:
        row = self._row(customer)
        rest = tuple(mine for mine in row.decision.alerts if mine.id != alert.id)
        self._put(row, decision=msgspec.structs.replace(row.decision, alerts=rest))

    def _replace(self, customer: bytes, alert: Alert) -> None:
        row = self._row(customer)
        alerts = tuple(alert if mine.id == alert.id and mine.revision <= alert.revision else mine
                       for mine in row.decision.alerts)  # fmt: skip
        self._put(row, decision=msgspec.structs.replace(row.decision, alerts=alerts))

    def _rearm(self, row: DecisionRow) -> None:
        if row.absorbed_into or row.parked or not row.state:
            at = None
        else:
            definition = armed_definition(row.decision, self._rules(row).definitions)
            at = due(row.decision, self._snapshot(row), definition)
        self._put(row, due_at=at)

    def _guarded(self, customer: bytes, version: int, decide: Callable[[], None]) -> None:
        rows, alerts, parcels = dict(self._rows), dict(self._alerts), len(self.parcels)
        try:
            decide()
        except Wanted:
            raise
        except Exception as error:  # whatever a rule trips over: this customer is parked, the others go on
            self._rows, self._alerts = rows, alerts
            del self.parcels[parcels:]
            self.counts.parked += 1
            reason = f"{type(error).__name__}: {error}"
            self._put(self._row(customer), version=version, due_at=None, parked=reason)

    # --- rows ---------------------------------------------------------------------------------------------------

    def _row(self, customer: bytes) -> DecisionRow:
        row = self._rows.get(customer)
        if row is None:
            raise Wanted(customers=(customer,))
        return row

    def _put(self, row: DecisionRow, **changes: object) -> DecisionRow:
        new = self._rows[row.customer] = msgspec.structs.replace(row, **changes)
        return new

    def _alert(self, alert_id: bytes) -> AlertRow | None:
        if alert_id not in self._alerts:
            raise Wanted(alerts=(alert_id,))
        return self._alerts[alert_id]

    def _rules(self, row: DecisionRow) -> Rules:
        return self._setting.rules(row.workspace)

    def _snapshot(self, row: DecisionRow) -> Snapshot:
        found = self._snapshots.get(row.customer)
        if found is None:
            definition = armed_definition(row.decision, self._rules(row).definitions)
            found = self._snapshots[row.customer] = self._snapshot_of(row.workspace, row.state, definition)
        return found

    def _snapshot_of(self, workspace: str, state: bytes, definition: Definition) -> Snapshot:
        if not state:
            return Snapshot(workspace)
        trust_min = definition.pack.purchase_trust_min
        return snapshot_of(workspace, profiles.decode(state), self._setting.rules(workspace).zone, trust_min)


def open_alerts(row: DecisionRow) -> list[Alert]:
    """The open alerts of a customer."""
    return [alert for alert in row.decision.alerts if alert.state == OPEN]


def _both(first: Outcome, second: Outcome) -> Outcome:
    return Outcome(
        second.decision,
        first.transitions + second.transitions,
        first.unsettled_silences + second.unsettled_silences,
    )
