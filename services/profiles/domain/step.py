"""The step, pure: what one run of the log does to rows that are locked.

A `World` holds the rows under lock. Records are given to it in log order; each record first moves leaves (ties), then
folds its touchpoints, then is cut: one change per customer it touched, whatever batch it came in. When something is
needed that was not loaded, `Wanted` says what; the shell locks it too and starts over with a new World.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from msgspec.structs import replace

from services.profiles.domain.identity import ERASED, Assertion, assertion
from services.profiles.domain.neighbourhood import Neighbourhood, Row
from services.profiles.domain.rows import EdgeRow, ErasureRow, LeafRow, ListingRow, ParkedRow
from services.profiles.domain.states import SEVERAL, Ledger, States, Unloaded
from services.profiles.domain.terms import Command, Fresh, House, Outcome, Streak, Wanted
from shared import profile as profiles
from shared.codec import encode
from shared.errors import Poison
from shared.events import (
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    Departure,
    ErasureRequested,
    Fact,
    FactRef,
    IdentityLinked,
    IdentityUnlinked,
    ImportFinished,
    ImportPassed,
    LeafErased,
    LeafReinstated,
    Place,
    ProfileChanged,
    TouchpointsRecorded,
)
from shared.ids import derived_id, partition_of
from shared.outbox import Parcel
from shared.topics import PROFILE_CHANGES, TOUCHPOINTS
from shared.vocabulary import fact_ref


class World:
    """Rows under lock, changed in memory. `members` and `held` are there for the leaves that were asked for."""

    def __init__(
        self,
        house: House,
        rows: Mapping[bytes, LeafRow],
        members: Mapping[bytes, frozenset[bytes]],
        held: Mapping[bytes, tuple[Assertion, ...]],
    ) -> None:
        self.outcome = Outcome()
        self._partitions, self._record_bytes_max = house
        self._before = rows
        self._rows = dict(rows)
        self._members = dict(members)
        self._held = dict(held)
        self._states = States(rows)
        self._dirty: dict[bytes, None] = {}  # customers this record touched, in order
        self._moved: set[bytes] = set()  # those of them that gained or lost a leaf
        self._departed: dict[bytes, list[Departure]] = {}  # customer → leaves it lost by this record
        self._stale: set[bytes] = set()  # leaves and roots whose state is not yet encoded into their row

    # --- what a record does -------------------------------------------------------------------------------

    def record(
        self,
        fact: TouchpointsRecorded,
        fresh: Sequence[Fresh],
        said: Sequence[Assertion],
        recorded_at: int,
        at: tuple[str, int, int],
        streak: Streak,
    ) -> None:
        """Fold one record's fresh touchpoints. `said`: the ties they bring · `at`: topic, partition, position."""
        self._relocate(fact.workspace, said, recorded_at)
        facts: dict[bytes, list[FactRef]] = {}
        ledgers: dict[bytes, Ledger] = {}
        source, trust = fact.source, fact.trust
        counted = self._states.counting(source, trust)
        for item in fresh:
            touchpoint = item.touchpoint
            leaf = touchpoint.leaves[0]
            row = self._rows[leaf]
            if row.erased:
                self.outcome.blanked.append(item.key)
                continue
            try:
                ledger = ledgers.get(leaf) or self._states.ledger(leaf, self._rows[row.root])
                ledger.fold(touchpoint, source, trust)
                ledgers[leaf] = ledger
                ref = fact_ref(touchpoint, trust)
            except Exception as error:  # whatever a component trips over: this touchpoint is parked, the next goes on
                self._close(ledgers)
                self._park(fact, item, at, recorded_at, error)
                streak.failed(source)
                continue
            counted.append(touchpoint)
            streak.succeeded()
            facts.setdefault(ledger.root, []).append(ref)
        self._close(ledgers)
        self.outcome.spread += self._cut(fact.workspace, recorded_at, facts, fact.import_id, at[1])

    def command(self, fact: Command, recorded_at: int, partition: int) -> None:
        """Carry out one command."""
        match fact:
            case IdentityLinked() | IdentityUnlinked():
                self._relocate(fact.workspace, [_said(fact)], recorded_at)
            case ErasureRequested():
                self._request_erasure(fact, recorded_at)
            case LeafErased():
                self._erase(fact, recorded_at)
            case LeafReinstated():
                self._reinstate(fact, recorded_at)
            case ImportFinished():
                self._pass_import(fact, partition)
        self._cut(fact.workspace, recorded_at, {}, "", partition)

    def preview(self, said: Sequence[Assertion]) -> None:
        """Find out what these ties need before anything is folded. Raises Wanted."""
        self._decide(Neighbourhood([one for one in said if not self._is_known(one)]))

    def rows(self) -> list[LeafRow]:
        """Every row that changed, encoded."""
        for leaf in sorted(self._stale):
            state, merged = self._states.encoded(self._rows[leaf])
            self._put(self._rows[leaf], state=state, merged=merged)
        self._stale.clear()
        before = self._before
        changed = [row for leaf, row in self._rows.items() if row is not before[leaf] and row != before[leaf]]
        return sorted(changed, key=attrgetter("leaf"))

    def mark_known(self, leaves: Iterable[bytes]) -> list[LeafRow]:
        """These leaves' identifiers are in `personal` now; returns every row that changed."""
        for leaf in leaves:
            self._put(self._rows[leaf], known=True)
        return self.rows()

    def listing(self, changed: Iterable[LeafRow]) -> tuple[list[ListingRow], list[bytes]]:
        """What customers are listed by, for each of the `changed` rows; and the leaves that are no customers now."""
        shown, gone = [], []
        for row in changed:
            if row.root != row.leaf or row.erased:
                before = self._before.get(row.leaf)
                if before is not None and before.root == row.leaf:
                    gone.append(row.leaf)
            elif row.state or row.merged:
                shown.append(_listed(row, self._states.customer(row)))
        return shown, gone

    # --- moving leaves --------------------------------------------------------------------------------------

    def _sayable(self, workspace: str, said: Iterable[Assertion], recorded_at: int) -> list[Assertion]:
        """What says something now. A tie with an erased leaf is kept for the day the leaf is reinstated; one that was
        recorded before an erasure or reinstatement never says anything again.
        """
        sayable = []
        for one in said:
            rows = [self._rows[leaf] for leaf in one.pair]
            if self._is_known(one) or any(recorded_at <= row.erased_at for row in rows):
                continue
            if any(row.erased for row in rows):
                self._hold(EdgeRow(workspace, one, recorded_at))
            else:
                sayable.append(one)
        return sayable

    def _hold(self, edge: EdgeRow) -> None:
        self.outcome.edges.append(edge)
        for leaf in edge.said.pair:
            others = tuple(known for known in self._held.get(leaf, ()) if known.pair != edge.said.pair)
            self._held[leaf] = (*others, edge.said)

    def _is_known(self, one: Assertion) -> bool:
        """An automatic tie says nothing new where the pair is tied already, or where an operator has spoken."""
        if one.operator or one.alias or not one.tie:
            return False
        return any(known.pair == one.pair and (known.tie or known.operator) for known in self._held.get(one.a, ()))

    def _relocate(
        self,
        workspace: str,
        said: Sequence[Assertion],
        recorded_at: int,
        *,
        erased: Sequence[bytes] = (),
        reinstated: Sequence[bytes] = (),
    ) -> None:
        said = self._sayable(workspace, said, recorded_at)
        if not (said or erased or reinstated):
            return
        hood = Neighbourhood(said, erased=erased, reinstated=reinstated)
        self._decide(hood)
        for one in hood.held():
            self._hold(EdgeRow(workspace, one, recorded_at))
        was = {leaf: self._rows[leaf].root for leaf in hood.moves()}
        customers = hood.customers()
        states = {root: self._state_of(root, leaves) for root, leaves in customers.items() if leaves}
        for leaf, place in hood.places().items():
            row = self._rows[leaf]
            moves = row.moves + (place.root != row.root)
            self._put(row, root=place.root, standing=place.standing, full=place.full, moves=moves)
        for root, leaves in customers.items():
            self._settle_customer(root, leaves, states.get(root))
        for leaf, root in was.items():
            row = self._rows[leaf]
            into = b"" if leaf in erased else row.root
            self._departed.setdefault(root, []).append(Departure(leaf, row.moves, into))
        for leaf, root in was.items():
            if root == leaf and not self._rows[leaf].erased:
                self._absorb(workspace, leaf, recorded_at)

    def _decide(self, hood: Neighbourhood) -> None:
        while True:
            leaves, customers = hood.wanted(), hood.wanted_customers()
            if not leaves and not customers:
                return
            missing = {leaf for leaf in leaves if leaf not in self._rows or leaf not in self._held}
            unknown = {root for root in customers if root not in self._members}
            if missing or unknown:
                raise Wanted(missing, unknown)
            rows = [Row(leaf, self._rows[leaf].place, self._held[leaf]) for leaf in leaves]
            hood.add(rows, {root: self._members[root] for root in customers})

    def _state_of(self, root: bytes, leaves: Sequence[bytes]) -> profiles.Profile | None:
        """The merged state of a customer of several leaves; None for one leaf alone. Asked before rows move."""
        if len(leaves) == 1:
            return None
        row, before = self._rows[root], self._members.get(root, frozenset())
        try:
            if row.root == root and len(before) > 1 and before <= set(leaves):
                return self._states.grown(root, [leaf for leaf in leaves if leaf not in before])
            return self._states.summed(leaves)
        except Unloaded as unloaded:
            raise Wanted((unloaded.leaf,)) from None

    def _settle_customer(self, root: bytes, leaves: Sequence[bytes], state: profiles.Profile | None) -> None:
        self._members[root] = frozenset(leaves)
        self._stale.add(root)
        self._states.settle(root, state)
        self._put(self._rows[root], merged=b"" if state is None else SEVERAL)
        if leaves:
            self._dirty[root] = None
            self._moved.add(root)

    def _absorb(self, workspace: str, leaf: bytes, recorded_at: int) -> None:
        row = self._raise_version(leaf, recorded_at)
        elsewhere = tuple(gone for gone in self._departed.pop(leaf, ()) if gone.into != row.root)
        self._send(leaf, CustomerAbsorbed(workspace, leaf, row.root, row.version, recorded_at, elsewhere))
        self._dirty.pop(leaf, None)

    # --- folding --------------------------------------------------------------------------------------------

    def _close(self, ledgers: dict[bytes, Ledger]) -> None:
        """Something was folded through each of these, and nothing more will be."""
        for leaf, ledger in ledgers.items():
            self._stale.update((leaf, ledger.root))
            self._dirty[ledger.root] = None
        ledgers.clear()

    def _park(
        self, fact: TouchpointsRecorded, item: Fresh, at: tuple[str, int, int], recorded_at: int, error: Exception
    ) -> None:
        """Keep the touchpoint with its reason; undo what it half did, so that it counts as never seen."""
        leaf = item.touchpoint.leaves[0]
        self._undo(leaf)
        reason = str(error) if isinstance(error, Poison) else type(error).__name__
        one = encode(replace(fact, touchpoints=(item.touchpoint,), personal=None))
        who, sealing_key = (fact.workspace, fact.source), fact.personal.key if fact.personal else ""
        self.outcome.parked.append(ParkedRow(*at, item.place, *who, reason, one, recorded_at, leaf, sealing_key))
        self.outcome.unseen.append(item.key)

    def _undo(self, leaf: bytes) -> None:
        """Rebuild a leaf's state, and its customer's, from what was loaded and what counts since."""
        self._states.undo(leaf)
        root = self._rows[leaf].root
        if self._rows[root].merged:
            members = self._members.get(root)
            if members is None or not members <= self._rows.keys():
                raise Wanted((), (root,))
            self._states.remerge(root, members)

    # --- commands -------------------------------------------------------------------------------------------

    def _request_erasure(self, fact: ErasureRequested, recorded_at: int) -> None:
        root = self._rows[fact.leaf].root
        members = {fact.leaf} if root == fact.leaf and not self._rows[root].merged else self._members.get(root)
        if members is None:
            raise Wanted((), (root,))
        leaves = tuple((leaf, derived_id("erase", fact.id, leaf)) for leaf in sorted(members))
        self.outcome.erasures.append(ErasureRow(fact.id, fact.workspace, root, fact.occurred_at, recorded_at, leaves))
        for leaf, identity in leaves:
            erased = LeafErased(fact.workspace, identity, leaf, fact.occurred_at)
            partition = partition_of(leaf, self._partitions)
            self.outcome.parcels.append(Parcel(TOUCHPOINTS, partition, leaf, encode(erased)))

    def _erase(self, fact: LeafErased, recorded_at: int) -> None:
        leaf = fact.leaf
        row = self._rows[leaf]
        self.outcome.blank_leaves.append((leaf, recorded_at, fact.id))
        self._states.erase(leaf)
        erased_at = max(row.erased_at, recorded_at)
        self._put(row, state=b"", known=False, erased_at=erased_at)
        if not row.erased:
            self._relocate(fact.workspace, (), recorded_at, erased=(leaf,))
            self._put(self._rows[leaf], erased=True, standing=ERASED, state=b"", merged=b"")
        self._stale.discard(leaf)
        self._dirty.pop(leaf, None)
        version = self._raise_version(leaf, recorded_at).version
        self._send(leaf, CustomerErased(fact.workspace, leaf, version, recorded_at))

    def _reinstate(self, fact: LeafReinstated, recorded_at: int) -> None:
        if self._rows[fact.leaf].erased:
            # Ties recorded while it was erased say nothing, whichever partition is folded first.
            erased_at = max(self._rows[fact.leaf].erased_at, recorded_at)
            self._put(self._rows[fact.leaf], erased=False, erased_at=erased_at)
            self._relocate(fact.workspace, (), recorded_at, reinstated=(fact.leaf,))
            self._dirty.pop(fact.leaf, None)

    def _pass_import(self, fact: ImportFinished, partition: int) -> None:
        passed = encode(ImportPassed(fact.workspace, fact.import_id, partition, self._partitions))
        for target in range(self._partitions):
            # No key: the relay keeps it behind every earlier row of its partition.
            self.outcome.parcels.append(Parcel(PROFILE_CHANGES, target, b"", passed))

    # --- cutting --------------------------------------------------------------------------------------------

    def _cut(
        self, workspace: str, recorded_at: int, facts: Mapping[bytes, list[FactRef]], import_id: str, partition: int
    ) -> int:
        """One change for each customer this record touched; returns how many of them have another partition."""
        spread = 0
        for root in self._dirty:
            version, state = self._encode_customer(root, recorded_at)
            refs = tuple(facts.get(root, ()))
            change = ProfileChanged(workspace, root, version, recorded_at, state, refs, (), import_id)
            if root in self._moved or root in self._departed:
                change = replace(change, leaves=self._places_of(root), departed=self._departed_from(root))
            spread += self._send(root, change) != partition
        self._dirty.clear()
        self._moved.clear()
        self._departed.clear()
        return spread

    def _send(self, customer: bytes, fact: Fact) -> int:
        """Put the fact into the outbox; returns the partition it is for."""
        value, partition = encode(fact), partition_of(customer, self._partitions)
        if len(value) > self._record_bytes_max and isinstance(fact, ProfileChanged):
            reason = f"its state has {len(value)} bytes, a record {self._record_bytes_max} at most"
            parked = CustomerParked(fact.workspace, customer, fact.version, fact.recorded_at, reason)
            place = (PROFILE_CHANGES, partition, fact.version, -1)
            self.outcome.parked.append(ParkedRow(*place, fact.workspace, "", reason, value, fact.recorded_at, customer))
            value = encode(parked)
        self.outcome.parcels.append(Parcel(PROFILE_CHANGES, partition, customer, value))
        return partition

    def _departed_from(self, root: bytes) -> tuple[Departure, ...]:
        departed = self._departed.get(root)
        return tuple(sorted(departed, key=lambda gone: gone.leaf)) if departed else ()

    def _places_of(self, root: bytes) -> tuple[Place, ...]:
        if root not in self._moved:
            return ()
        return tuple(Place(leaf, self._rows[leaf].moves) for leaf in sorted(self._members[root]))

    # --- rows and states ------------------------------------------------------------------------------------

    def _put(self, row: LeafRow, **changes: object) -> LeafRow:
        new = self._rows[row.leaf] = replace(row, **changes)
        return new

    def _raise_version(self, leaf: bytes, recorded_at: int) -> LeafRow:
        row = self._rows[leaf]
        return self._put(row, version=row.version + 1, changed_at=recorded_at)

    def _encode_customer(self, root: bytes, recorded_at: int) -> tuple[int, bytes]:
        """Raise a customer's version and keep the state it is told with; returns both."""
        row = self._rows[root]
        version, state = row.version + 1, profiles.encode(self._states.customer(row))
        if row.merged:
            self._rows[root] = replace(row, version=version, changed_at=recorded_at, merged=state)
        else:
            self._rows[root] = replace(row, version=version, changed_at=recorded_at, state=state)
            self._stale.discard(root)
        return version, state


def _said(fact: IdentityLinked | IdentityUnlinked) -> Assertion:
    tie = isinstance(fact, IdentityLinked)
    alias = isinstance(fact, IdentityLinked) and fact.alias
    who = fact.a, fact.b
    return assertion(*who, tie=tie, alias=alias, operator=fact.operator, occurred_at=fact.occurred_at, id=fact.id)


def _listed(row: LeafRow, state: profiles.Profile) -> ListingRow:
    purchases, spend, currency = profiles.spending(state)
    return ListingRow(row.leaf, row.workspace, state.first_at or 0, state.last_at or 0, purchases, spend, currency)
