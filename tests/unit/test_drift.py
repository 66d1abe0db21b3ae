"""Where two foldings differ, and what is told of it: pure, on hand-made states."""

from hypothesis import given
from hypothesis import strategies as st

from services.profiles.domain.drift import (
    ERASED,
    MISSING,
    NOTHING,
    PLACE,
    Compared,
    differences,
    digest_into,
    drifts,
)
from services.profiles.domain.rows import LeafRow
from services.profiles.domain.telling import Was, told
from services.profiles.domain.terms import House
from shared import profile as profiles
from shared.codec import decode
from shared.events import SECRET, CustomerAbsorbed, CustomerErased, CustomerParked, Departure, Place, ProfileChanged
from tests.builders import NOON_MS, a_leaf, a_touchpoint

A, B, C = a_leaf("a"), a_leaf("b", 1), a_leaf("c", 4)
HOUSE = House(4, 1 << 19)


def state(*orders: str, views: int = 0) -> bytes:
    """A state with these orders and page views."""
    profile = profiles.new()
    for n, order in enumerate(orders):
        buy = a_touchpoint("purchased", at=NOON_MS + n, leaf=A, order_id=order, amount=5, currency="EUR")
        profiles.fold(profile, buy, "shop", SECRET)
    for n in range(views):
        profiles.fold(profile, a_touchpoint(at=NOON_MS + n, leaf=A), "shop", SECRET)
    return profiles.encode(profile)


def compared(own: bytes = b"", root: bytes = A, merged: bytes = b"", *, erased: bool = False) -> Compared:
    """Leaf A."""
    return Compared(A, "main", root, own, merged, erased)


def test_what_differs_is_named() -> None:
    """Features in their order, the customer, erasure; nothing for equal leaves."""
    one, two = compared(state("1", views=1)), compared(state("1", "2", views=1))
    assert differences(one, one) == ()
    assert differences(one, two) == ("behaviour", "orders")
    assert differences(one, compared(one.state, root=B)) == (PLACE,)
    assert differences(one, compared(b"", erased=True))[0] == ERASED
    assert differences(compared(one.state, merged=state("1")), compared(one.state, merged=state("2"))) == ("orders",)
    assert differences(one, None) == differences(None, one) == (MISSING,)


def test_a_leaf_that_says_nothing_is_no_difference() -> None:
    """A row a command made before it was folded; the state of nothing; what an erased leaf still carries."""
    assert differences(compared(), None) == differences(None, compared(NOTHING)) == ()
    assert differences(compared(NOTHING, root=B), compared(b"", root=B)) == ()
    assert differences(compared(state("1"), erased=True), compared(erased=True)) == ()


def test_digests_frame_what_they_take() -> None:
    """Nothing of a blank leaf; an erased one without its state; no two different leaves alike."""
    seen = set()
    for leaf in (compared(), compared(b"x"), compared(b"", root=b"x"), compared(b"x", erased=True)):
        total = bytearray()
        digest_into(_Total(total), leaf.leaf, leaf.state, leaf.root, leaf.erased)
        seen.add(bytes(total))
    assert b"" in seen
    assert len(seen) == 4


class _Total:
    """Takes bytes as a hash does."""

    def __init__(self, into: bytearray) -> None:
        self._into = into

    def update(self, data: bytes, /) -> None:
        """More bytes."""
        self._into += data


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_drift_is_found_exactly_where_states_differ(orders: int, views: int, others: int, seen: int) -> None:
    one = state(*map(str, range(orders)), views=views)
    two = state(*map(str, range(others)), views=seen)
    found = drifts(A, A, one, two)
    assert bool(found) == (one != two)
    assert all(drift.stored != drift.refolded for drift in found)
    assert {drift.feature for drift in found} >= ({"money"} if orders != others else set())


def test_a_stored_state_that_cannot_be_read_is_drift_itself() -> None:
    [found] = drifts(A, A, b"\x01\xff\xff", state("1"))
    assert found.feature == "state"
    assert "cannot be read" in found.stored


# --- what is told -----------------------------------------------------------------------------------------------


def row(leaf: bytes, root: bytes = b"", version: int = 3, **more: object) -> LeafRow:
    """A leaf's row."""
    return LeafRow(leaf, "main", root or leaf, version=version, **more)  # type: ignore[arg-type]


def test_a_state_that_differs_is_an_ordinary_change_one_version_further() -> None:
    out = told([Was(A, A)], {A: row(A, state=state("1"))}, {A: [A]}, HOUSE, 77)
    [parcel] = out.parcels
    assert decode(parcel.value) == ProfileChanged("main", A, 4, 77, state("1"))
    assert [(one.leaf, one.version, one.changed_at) for one in out.rows] == [(A, 4, 77)]


def test_a_leaf_that_has_another_customer_is_told_to_both() -> None:
    """B was a customer with C; now both are A's."""
    rows = {A: row(A, state=state("1"), merged=state("1", "2")), B: row(B, A, moves=1), C: row(C, A, moves=2)}
    out = told([Was(B, B), Was(C, B)], rows, {A: [A, B, C], B: []}, HOUSE, 77)
    facts = {parcel.key: decode(parcel.value) for parcel in out.parcels}
    places = (Place(A, 0), Place(B, 1), Place(C, 2))
    assert facts[A] == ProfileChanged("main", A, 4, 77, state("1", "2"), (), places)
    assert facts[B] == CustomerAbsorbed("main", B, A, 4, 77)


def test_a_customer_that_lost_a_leaf_says_where_it_went() -> None:
    """C was A's and is B's now."""
    rows = {A: row(A, state=state("1")), B: row(B, state=state("2")), C: row(C, B, moves=5)}
    out = told([Was(C, A)], rows, {A: [A], B: [B, C]}, HOUSE, 77)
    facts = {parcel.key: decode(parcel.value) for parcel in out.parcels}
    gone = (Departure(C, 5, B),)
    assert facts[A] == ProfileChanged("main", A, 4, 77, state("1"), (), (Place(A, 0),), "", gone)
    assert facts[B] == ProfileChanged("main", B, 4, 77, state("2"), (), (Place(B, 0), Place(C, 5)))


def test_a_customer_of_whom_nothing_is_left_is_told_as_erased() -> None:
    out = told([Was(A, A)], {A: row(A)}, {A: [A]}, HOUSE, 77)
    assert decode(out.parcels[0].value) == CustomerErased("main", A, 4, 77)


def test_a_state_too_large_to_send_is_parked() -> None:
    out = told([Was(A, A)], {A: row(A, state=b"x" * 100)}, {A: [A]}, House(4, 50), 77)
    assert isinstance(decode(out.parcels[0].value), CustomerParked)
    assert out.parked[0].reason.startswith("its state has")
