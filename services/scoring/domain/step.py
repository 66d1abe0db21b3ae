"""The step, pure: what changes and due times do to decisions that are locked.

A `Book` holds the rows under lock and is told changes in log order, or that time has passed. When it needs a row that
was not loaded, `Wanted` says which; the shell locks it too and starts over with a new Book. A decision that throws
parks its customer, disarmed and visible; the others go on.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from services.scoring.domain import joining, recalling
from services.scoring.domain.alerts import (
    SILENCE,
    Alert,
    AlertRaised,
    AlertTransition,
    Transition,
)
from services.scoring.domain.arming import is_armed_alike, is_quiet, is_resting
from services.scoring.domain.deciding import PASSED_KEPT, Decision, Outcome
from services.scoring.domain.decision import due, on_change
from services.scoring.domain.definitions import Definition, in_force
from services.scoring.domain.emitting import carried_of, cloud_event, topic_of
from services.scoring.domain.rows import AlertRow, DecisionRow, moves_of
from services.scoring.domain.setting import Change, Counts, Rules, Setting, Wanted
from services.scoring.domain.snapshot import Snapshot, snapshot_of_state
from services.scoring.domain.succession import advance_through, armed_definition, release_backfill
from shared.errors import Retryable, Stopped
from shared.events import CustomerAbsorbed, CustomerErased, CustomerParked, ProfileChanged
from shared.ids import partition_of
from shared.outbox import Parcel

__all__ = ["PPM", "Book", "Change", "Counts", "Rules", "Setting", "Wanted"]

PPM = 1_000_000


class Book:
    """Rows under lock, changed in memory."""

    def __init__(
        self, setting: Setting, rows: Mapping[bytes, DecisionRow], alerts: Mapping[bytes, AlertRow | None]
    ) -> None:
        """`alerts`: rows of the alert ids that were asked for, None where there is none."""
        self.parcels: list[Parcel] = []
        self.counts = Counts()
        self.erased: list[bytes] = []
        self.read: tuple[int, int] | None = None  # partition and position before which everything is decided
        self.unread: set[bytes] = set()  # alert ids taken for new ones: the shell makes sure before it writes
        self._setting = setting
        self._rows, self._before = dict(rows), dict(rows)
        self._alerts, self._alerts_before = dict(alerts), dict(alerts)
        self._ruled: dict[str, Rules] = {}
        self._snapshots: dict[bytes, tuple[int, Snapshot]] = {}  # with the trust its purchases needed

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
                self._read_up(fact.customer, fact.recorded_at, watermark)
                self._collect(fact, donors)
                self._send_off(fact)
                self._changed(fact, watermark)
            case CustomerAbsorbed():
                self._absorbed(fact, watermark)
            case CustomerErased():
                self._erased(fact)
            case CustomerParked():
                row = self._row(fact.customer)
                self._put(row, version=fact.version, due_at=None, absorbed_into=b"", parked=fact.reason)

    def _read_up(self, customer: bytes, recorded_at: int, watermark: int | None) -> None:
        """Decide what time brought before a change. Not on a parked customer's snapshot: it misses what parked them."""
        row = self._row(customer)
        if watermark is None or row.parked:
            return
        until = min(recorded_at, watermark)
        if not recalling.is_recalled(row) and not is_quiet(row, self._rules(row).definitions, until):
            self._note(customer, self._advanced(row, until))
        elif until - 1 > row.decision.settled:
            self._put(row, decision=msgspec.structs.replace(row.decision, settled=until - 1))

    def _changed(self, fact: ProfileChanged, watermark: int | None) -> None:
        row = self._row(fact.customer)
        definition = self._definition_for(row, fact.recorded_at)
        old = self._snapshot_under(row, definition)
        facts, recalled = fact.facts, recalling.is_recalled(row)
        if not row.state and row.decision.sequence:  # spoken of, never seen
            facts = recalling.unheard(row.decision, facts, row.workspace, definition, self._alert)
        row = self._put(row, version=fact.version, state=fact.state, absorbed_into=b"", parked="")
        self._snapshots.pop(fact.customer, None)
        new = self._snapshot_under(row, definition)
        if recalled:
            mine = recalling.without_foreign(row.decision, new, definition, self._alert)
            judged = recalling.on_first_sight(mine, new, facts, fact.recorded_at, definition, fact.import_id)
        else:  # time was taken before (`_read_up`), so no watermark here
            judged = on_change(row.decision, old, new, facts, fact.recorded_at, None, definition, fact.import_id)
        self._follow(fact.customer, judged)

    def _absorbed(self, fact: CustomerAbsorbed, watermark: int | None) -> None:
        into = self._resolved(fact.into)
        self._read_up(fact.customer, fact.recorded_at, watermark)
        self._send_off(fact)
        gone = recalling.unheld(self._row(fact.customer))
        left = joining.surrender(gone)
        self._put(
            self._row(fact.customer), version=fact.version, state=b"", decision=left, due_at=None,
            absorbed_into=into.customer, parked="",
        )  # fmt: skip
        self._snapshots.pop(fact.customer, None)
        definition = armed_definition(into.decision, self._rules(into).definitions)
        for alert in gone.alerts:
            self._hand_over(alert.id, fact.customer, into.customer)
        joined = joining.on_absorbed(
            into.decision, gone, self._snapshot(into), fact.recorded_at, definition, is_known=bool(into.state)
        )
        self._follow(into.customer, joined)

    def _erased(self, fact: CustomerErased) -> None:
        row = self._row(fact.customer)
        definition = armed_definition(row.decision, self._rules(row).definitions)
        gone = joining.on_erased(row.decision, fact.recorded_at, self._snapshot(row), definition)
        if not recalling.is_forgotten(row):
            self._follow(fact.customer, gone)
        self._snapshots.pop(fact.customer, None)
        self._put(self._row(fact.customer), version=fact.version, state=b"", due_at=None, absorbed_into=b"", parked="")
        self.erased.append(fact.customer)

    def _collect(self, fact: ProfileChanged, donors: Mapping[bytes, Sequence[AlertRow]]) -> None:
        """A change that names its leaves brings home the alerts that opened with one of them."""
        if fact.leaves:
            places = tuple(place for place in fact.leaves if place.moves)
            row = self._row(fact.customer)
            self._put(row, decision=msgspec.structs.replace(row.decision, places=places))
        for place in fact.leaves:
            raised_here = {row.id for row in self._alerts.values() if row is not None and row.leaf == place.leaf}
            for alert_id in sorted(raised_here.union(row.id for row in donors.get(place.leaf, ()))):
                alert = self._alert(alert_id)
                if alert is None or alert.moves > place.moves:
                    continue
                if alert.customer != fact.customer:
                    self._move(alert.customer, fact.customer, place.leaf)
                self._alerts[alert.id] = msgspec.structs.replace(alert, customer=fact.customer, moves=place.moves)

    def _send_off(self, fact: ProfileChanged | CustomerAbsorbed) -> None:
        """A change that names leaves it lost sends the alerts that opened with them after them.

        The other side may have been read before the alert was raised here, and asks for nothing any more.
        """
        for gone in fact.departed:
            if not gone.into:
                self._forget(fact, gone.leaf)
                continue
            taker = self._resolved(gone.into).customer
            for alert in self._row(fact.customer).decision.alerts:
                known = self._alert(alert.id) if alert.leaf == gone.leaf else None
                if known is not None and known.customer == fact.customer != taker and known.moves < gone.moves:
                    self._move(fact.customer, taker, gone.leaf, knows=True)
                    self._rearm(self._row(taker))
                    self._alerts[alert.id] = msgspec.structs.replace(known, customer=taker, moves=gone.moves)

    def _forget(self, fact: ProfileChanged | CustomerAbsorbed, leaf: bytes) -> None:
        row = self._row(fact.customer)
        if any(alert.leaf == leaf for alert in row.decision.alerts):
            definition = armed_definition(row.decision, self._rules(row).definitions)
            snapshot = self._snapshot(row)
            self._follow(
                fact.customer, joining.on_leaf_erased(row.decision, leaf, fact.recorded_at, snapshot, definition)
            )

    def _move(self, giver: bytes, taker: bytes, leaf: bytes, *, knows: bool = False) -> None:
        """Hand over the alerts that opened with `leaf`. `knows`: the giver is reading that the leaf is gone."""
        donor = self._row(giver)
        rest, moved = joining.give(donor.decision, {leaf})
        if knows or all(purchase.leaf != leaf for purchase in self._snapshot(donor).purchases):
            # It has read that the leaf is gone, so its silence is its own: passing it over would lose its alert.
            rest = msgspec.structs.replace(rest, passed=donor.decision.passed)
        row = self._row(taker)
        self._put(row, decision=joining.take(row.decision, moved))
        self._rearm(self._put(donor, decision=rest))

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
        if is_resting(row):
            self._put(row, due_at=None)
            return
        self._guarded(customer, row.version, lambda: self._follow(customer, self._advanced(row, watermark)))

    def release(self, customer: bytes, imports: Sequence[str], watermark: int) -> None:
        """Release a customer from finished history imports; decides them when none holds them any more.

        One whose state is not known (parked, or its own change not read yet) stays held until it is.
        """
        row = self._row(customer)
        if is_resting(row):
            return

        def released() -> None:
            for import_id in imports:
                now = self._row(customer)
                if import_id in now.decision.held:
                    definition = self._definition_for(now, watermark - 1)
                    snapshot = self._snapshot_under(now, definition)
                    outcome = release_backfill(now.decision, snapshot, watermark, definition, import_id)
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
        self.counts.decided += 1
        self._note(customer, outcome)
        self._rearm(self._row(customer))

    def _note(self, customer: bytes, outcome: Outcome) -> None:
        row = self._row(customer)
        if outcome.decision is not row.decision:
            row = self._put(row, decision=outcome.decision)
        self.counts.unsettled_silences += outcome.unsettled_silences
        for transition in outcome.transitions:
            if isinstance(transition, AlertTransition):
                self._emit_alert(row, transition)
            else:
                self._emit(row, transition)

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
        moves = moves_of(alert, row.decision, known)
        body = self._emit(row, transition, moves)
        risk = -1 if transition.risk is None else round(transition.risk * PPM)
        self._alerts[alert.id] = AlertRow(
            alert.id, row.workspace, row.customer, alert.leaf, moves, alert.policy, alert.state,
            alert.revision, alert.raised_at, risk, body,
        )  # fmt: skip

    def _emit(self, row: DecisionRow, transition: Transition, moves: int = 0) -> bytes:
        setting = self._setting
        carried = carried_of(self._row(row.customer), transition, moves, self.read)
        body = cloud_event(row.workspace, row.customer, transition, setting.now, carried)
        partition = partition_of(row.customer, setting.partitions)
        self.parcels.append(Parcel(topic_of(transition), partition, row.customer, body))
        return body

    def _drop(self, customer: bytes, alert: Alert) -> None:
        """The alert is somebody else's: forget it, and never raise it again, or both would raise it in turns."""
        row = self._row(customer)
        rest = tuple(mine for mine in row.decision.alerts if mine.id != alert.id)
        passed = row.decision.passed
        if alert.policy == SILENCE and alert.key not in passed:
            passed = (*passed, alert.key)[-PASSED_KEPT:]
        self._put(row, decision=msgspec.structs.replace(row.decision, alerts=rest, passed=passed))

    def _replace(self, customer: bytes, alert: Alert) -> None:
        row = self._row(customer)
        alerts = tuple(alert if mine.id == alert.id and mine.revision <= alert.revision else mine
                       for mine in row.decision.alerts)  # fmt: skip
        self._put(row, decision=msgspec.structs.replace(row.decision, alerts=alerts))

    def _rearm(self, row: DecisionRow) -> None:
        before = self._before.get(row.customer)
        if before is not None and is_armed_alike(before, row) and self._is_same_evidence(before, row):
            return
        at = None
        if not is_resting(row):
            definition = armed_definition(row.decision, self._rules(row).definitions)
            at = due(row.decision, self._snapshot(row), definition)
        if at != row.due_at:
            self._put(row, due_at=at)

    def _is_same_evidence(self, before: DecisionRow, row: DecisionRow) -> bool:
        if before.state == row.state:
            return True
        definition = armed_definition(row.decision, self._rules(row).definitions)
        zone, trust_min = self._rules(row).zone, definition.pack.purchase_trust_min
        return self._snapshot(row) is snapshot_of_state(row.workspace, before.state, zone, trust_min)

    def _guarded(self, customer: bytes, version: int, decide: Callable[[], None]) -> None:
        rows, alerts, parcels = dict(self._rows), dict(self._alerts), len(self.parcels)
        try:
            decide()
        except (Wanted, Retryable, Stopped):  # nothing is wrong with the customer: again, or with newer code
            raise
        except Exception as error:  # whatever a rule trips over: this customer is parked, the others go on
            self._rows, self._alerts = rows, alerts
            self._snapshots.clear()  # they follow from the rows
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
            self.unread.add(alert_id)
            return None
        return self._alerts[alert_id]

    def _rules(self, row: DecisionRow) -> Rules:
        rules = self._ruled.get(row.workspace)
        if rules is None:
            rules = self._ruled[row.workspace] = self._setting.rules(row.workspace)
        return rules

    def _definition_for(self, row: DecisionRow, at: int) -> Definition:
        """What a customer is armed with; for one never decided yet, or held since, the version in force at `at`."""
        definitions = self._rules(row).definitions
        armed = armed_definition(row.decision, definitions)
        if row.decision.version and not row.decision.held:
            return armed
        return max(armed, in_force(definitions, at), key=lambda definition: definition.version)

    def _advanced(self, row: DecisionRow, until: int) -> Outcome:
        snapshot, definitions = self._snapshot(row), self._rules(row).definitions
        return advance_through(
            row.decision, snapshot, until, definitions, lambda newer: self._snapshot_under(row, newer)
        )

    def _snapshot(self, row: DecisionRow) -> Snapshot:
        return self._snapshot_under(row, armed_definition(row.decision, self._rules(row).definitions))

    def _snapshot_under(self, row: DecisionRow, definition: Definition) -> Snapshot:
        trust_min = definition.pack.purchase_trust_min
        trust, found = self._snapshots.get(row.customer, (None, None))
        if found is None or trust != trust_min:
            found = Snapshot(row.workspace)
            if row.state:
                found = snapshot_of_state(row.workspace, row.state, self._rules(row).zone, trust_min)
            self._snapshots[row.customer] = trust_min, found
        return found
