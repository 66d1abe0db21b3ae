"""The rules of identity by example: one case for each sentence of the rule, and what a step has to read for it."""

from itertools import pairwise

import pytest

from services.profiles.domain.explanation import explain, sentence
from services.profiles.domain.identity import (
    ALONE,
    CROWDED,
    ERASED,
    JOINED,
    NOT_FULL,
    SHARED,
    Assertion,
    Place,
    assertion,
    holding,
    places,
    unseen,
)
from services.profiles.domain.neighbourhood import Neighbourhood, Row


def leaf(rank: int, number: int) -> bytes:
    return bytes([rank]) + number.to_bytes(15, "big")


ALI, SARA = leaf(0, 1), leaf(0, 2)
INBOX, OTHER_INBOX = leaf(1, 1), leaf(1, 2)
PHONE, TICKETS = leaf(2, 1), leaf(3, 1)
COOKIE, OTHER_COOKIE = leaf(4, 1), leaf(4, 2)


def tied(
    one: bytes, other: bytes, *, alias: bool = False, at: int = 0, tie: bool = True, operator: bool = False
) -> Assertion:
    return assertion(one, other, tie=tie, alias=alias, operator=operator, occurred_at=at, id=bytes(16))


def placed(*said: Assertion, erased: tuple[bytes, ...] = (), leaves_max: int = 1000) -> dict[bytes, Place]:
    return places((), holding(said).values(), erased, leaves_max)


def why(leaf: bytes, *said: Assertion, erased: tuple[bytes, ...] = (), leaves_max: int = 1000) -> tuple[str, str]:
    ties: dict[bytes, dict[bytes, bool]] = {}
    for one in filter(lambda one: one.ties, holding(said).values()):
        ties.setdefault(one.a, {})[one.b] = one.alias
        ties.setdefault(one.b, {})[one.a] = one.alias
    found = explain(leaf, lambda one: ties.get(one, {}), placed(*said, erased=erased, leaves_max=leaves_max))
    return found.code, sentence(found, leaves_max)


def test_a_cookie_tied_to_one_user_is_that_user() -> None:
    found = placed(tied(COOKIE, ALI))
    assert found == {ALI: Place(ALI, ALONE), COOKIE: Place(ALI, JOINED)}
    code, text = why(COOKIE, tied(COOKIE, ALI))
    assert code == "joined"
    assert text == (
        f"This anonymous id belongs to customer {ALI.hex()} because it is tied to user id {ALI.hex()}, "
        "and to no other customer."
    )


def test_a_chain_through_email_phone_and_ticket_is_one_customer() -> None:
    chain = [tied(COOKIE, TICKETS), tied(TICKETS, PHONE), tied(PHONE, INBOX), tied(INBOX, ALI)]
    assert {place.root for place in placed(*chain).values()} == {ALI}
    assert placed(*chain) == placed(*reversed(chain))


def test_a_shared_device_stands_alone_and_merges_nobody() -> None:
    said = [tied(COOKIE, ALI), tied(COOKIE, SARA)]
    found = placed(*said)
    assert found[COOKIE] == Place(COOKIE, SHARED)
    assert (found[ALI].root, found[SARA].root) == (ALI, SARA)
    code, text = why(COOKIE, *said)
    assert code == "shared"
    assert "stands alone because it is tied to 2 customers (a shared device or inbox)" in text


def test_who_is_tied_only_to_a_shared_inbox_does_not_see_it() -> None:
    said = [
        tied(INBOX, ALI),
        tied(INBOX, SARA),
        tied(COOKIE, INBOX),
        tied(OTHER_COOKIE, INBOX),
        tied(OTHER_COOKIE, ALI),
    ]
    found = placed(*said)
    assert found[INBOX].standing == SHARED
    assert found[COOKIE] == Place(COOKIE, ALONE)
    assert found[OTHER_COOKIE] == Place(ALI, JOINED)
    assert why(COOKIE, *said)[0] == "hidden"


def test_two_ties_into_one_customer_are_not_shared() -> None:
    assert placed(tied(INBOX, ALI), tied(COOKIE, INBOX), tied(COOKIE, ALI))[COOKIE] == Place(ALI, JOINED)


def test_users_join_only_by_an_alias() -> None:
    assert placed(tied(ALI, SARA)) == {}
    found = placed(tied(ALI, SARA, alias=True), tied(COOKIE, ALI), tied(COOKIE, SARA))
    assert {place.root for place in found.values()} == {ALI}
    code, text = why(SARA, tied(ALI, SARA, alias=True))
    assert (code, text) == (
        "aliased",
        f"This user id is the same customer as user id {ALI.hex()}, by an explicit alias.",
    )


def test_a_tie_within_one_rank_says_nothing_and_undoes_no_alias() -> None:
    alias = tied(COOKIE, OTHER_COOKIE, alias=True, at=1)
    held = holding([alias, tied(COOKIE, OTHER_COOKIE, at=2)])
    assert list(held.values()) == [alias]


def test_an_alias_class_moves_as_one() -> None:
    alias = tied(INBOX, OTHER_INBOX, alias=True)
    found = placed(alias, tied(INBOX, ALI))
    assert found[INBOX] == found[OTHER_INBOX] == Place(ALI, JOINED)
    assert "it or an alias of it is tied to" in why(OTHER_INBOX, alias, tied(INBOX, ALI))[1]
    shared = placed(alias, tied(INBOX, ALI), tied(OTHER_INBOX, SARA))
    assert shared[INBOX] == shared[OTHER_INBOX] == Place(INBOX, SHARED)


def test_a_crowd_stands_alone_as_a_whole_with_everyone_below() -> None:
    """Room for three: the user and its inbox fit, three cookies do not, so none of them joins."""
    cookies = [leaf(4, n) for n in range(3)]
    said = [tied(INBOX, ALI), *(tied(cookie, ALI) for cookie in cookies)]
    found = placed(*said, leaves_max=3)
    assert found[ALI] == Place(ALI, ALONE, full=4)
    assert found[INBOX] == Place(ALI, JOINED)
    assert all(found[cookie] == Place(cookie, CROWDED) for cookie in cookies)
    code, text = why(cookies[0], *said, leaves_max=3)
    assert code == "crowded"
    assert "3 identifiers at most: a bot or a kiosk" in text
    inboxes = [tied(leaf(1, n), ALI) for n in range(3)]
    lower = placed(*inboxes, tied(COOKIE, ALI), leaves_max=3)
    assert lower[ALI].full == 1
    assert lower[COOKIE] == Place(COOKIE, CROWDED)


def test_aliases_beyond_the_limit_dissolve() -> None:
    users = [leaf(0, n) for n in range(4)]
    said = [tied(one, other, alias=True) for one, other in pairwise(users)]
    found = placed(*said, leaves_max=3)
    assert all(found[user] == Place(user, CROWDED) for user in users)
    assert why(users[0], *said, leaves_max=3)[0] == "crowded_aliases"


def test_an_erased_leaf_stands_alone_and_its_ties_are_void() -> None:
    said = [tied(INBOX, ALI), tied(COOKIE, INBOX), tied(OTHER_COOKIE, ALI)]
    found = placed(*said, erased=(ALI,))
    assert found[ALI] == Place(ALI, ERASED)
    assert found[INBOX] == Place(INBOX, ALONE)
    assert found[COOKIE] == Place(INBOX, JOINED)
    assert found[OTHER_COOKIE] == Place(OTHER_COOKIE, ALONE)
    assert why(ALI, *said, erased=(ALI,))[0] == "erased"


def test_the_last_writer_holds_and_an_operator_beats_everybody() -> None:
    tie, untie = tied(COOKIE, ALI, at=1), tied(COOKIE, ALI, at=2, tie=False)
    assert holding([untie, tie]) == {tie.pair: untie}
    again = tied(COOKIE, ALI, at=3)
    assert holding([again, untie, tie]) == {tie.pair: again}
    operator = tied(COOKIE, ALI, at=0, tie=False, operator=True)
    assert holding([again, operator]) == {tie.pair: operator}


def test_a_leaf_cannot_be_tied_to_itself() -> None:
    with pytest.raises(ValueError, match="itself"):
        tied(ALI, ALI)


# --- what a step reads ---------------------------------------------------------------------------------------


class Database:
    """Rows as the steps before left them; counts what is asked."""

    def __init__(self) -> None:
        self.places: dict[bytes, Place] = {}
        self.held: dict[bytes, dict[bytes, Assertion]] = {}
        self.asked = 0

    def step(self, *said: Assertion, leaves_max: int = 1000) -> Neighbourhood:
        found = Neighbourhood(said, leaves_max=leaves_max)
        self.asked = 0
        while found.wanted() or found.wanted_customers():
            self.asked += len(found.wanted())
            rows = [Row(one, self.place(one), tuple(self.held.get(one, {}).values())) for one in found.wanted()]
            found.add(rows, {root: self.members(root) for root in found.wanted_customers()})
        for holds in found.held():
            self.held.setdefault(holds.a, {})[holds.b] = self.held.setdefault(holds.b, {})[holds.a] = holds
        self.places |= found.places()
        return found

    def place(self, one: bytes) -> Place:
        return self.places.get(one, unseen(one))

    def members(self, root: bytes) -> list[bytes]:
        return [root, *(one for one, place in self.places.items() if place.root == root and one != root)]


def test_a_new_cookie_reads_two_rows_however_many_its_user_has() -> None:
    database = Database()
    database.step(*(tied(leaf(4, n), ALI) for n in range(100)))
    found = database.step(tied(leaf(4, 100), ALI))
    assert database.asked == 2
    assert found.moves() == {leaf(4, 100): ALI}
    assert len(found.customers()[ALI]) == 102
    assert found.customers()[leaf(4, 100)] == ()


def test_one_more_cookie_of_a_full_customer_reads_two_rows_too() -> None:
    database = Database()
    database.step(*(tied(leaf(4, n), ALI) for n in range(50)), leaves_max=20)
    found = database.step(tied(leaf(4, 50), ALI), leaves_max=20)
    assert database.asked == 2
    assert found.places() == {leaf(4, 50): Place(leaf(4, 50), CROWDED)}
    assert found.moves() == {}


def test_a_tie_that_holds_already_moves_nothing_and_reads_its_two_rows() -> None:
    database = Database()
    database.step(tied(COOKIE, ALI))
    assert database.step(tied(COOKIE, ALI)).held() == ()
    later = tied(COOKIE, ALI, at=9)
    found = database.step(later)
    assert database.asked == 2
    assert (found.held(), found.places(), found.customers()) == ((later,), {}, {})


def test_a_customer_gets_room_again_when_one_of_its_crowd_is_unlinked() -> None:
    database = Database()
    cookies = [leaf(4, n) for n in range(3)]
    database.step(*(tied(cookie, ALI) for cookie in cookies), leaves_max=3)
    assert database.place(ALI).full == 4
    found = database.step(tied(cookies[2], ALI, tie=False, operator=True), leaves_max=3)
    assert found.moves() == {cookies[0]: ALI, cookies[1]: ALI}
    assert database.place(ALI).full == NOT_FULL


def test_an_unlink_gives_back_what_the_link_took() -> None:
    database = Database()
    database.step(tied(INBOX, ALI), tied(COOKIE, INBOX))
    found = database.step(tied(INBOX, ALI, tie=False, operator=True))
    assert found.moves() == {INBOX: INBOX, COOKIE: INBOX}
    assert found.customers() == {ALI: (ALI,), INBOX: (INBOX, COOKIE)}


def test_nothing_is_said_before_everything_is_known() -> None:
    found = Neighbourhood([tied(COOKIE, ALI)])
    assert found.wanted() == {COOKIE, ALI}
    with pytest.raises(ValueError, match="wanted"):
        found.moves()
    with pytest.raises(ValueError, match="both erase and reinstate"):
        Neighbourhood(erased=[ALI], reinstated=[ALI])
