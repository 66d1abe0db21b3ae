"""A customer as of T and as known at T is what the log, cut at T, folds to: over random histories."""

from collections.abc import Sequence

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.profiles.domain.past import Cut, Known, Seen, Walk, folded
from services.profiles.domain.rows import LeafRow, TouchpointRow
from shared import profile as profiles
from shared.events import (
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    LeafErased,
    LeafReinstated,
    Touchpoint,
    TouchpointsRecorded,
)
from tests.builders import NOON_MS, a_record, a_touchpoint
from tests.property.test_step import LEAVES, sequences
from tests.property.test_step import folded as step
from tests.simulation.memory_profiles import MemoryProfiles

Leaves = dict[bytes, LeafRow]
instants = st.one_of(st.none(), st.integers(-1, 4).map(lambda n: NOON_MS + n * 1000))
records = st.one_of(st.none(), st.integers(-1, 10).map(lambda n: NOON_MS + n))
"""The step's records are recorded a millisecond apart, what happened in them seconds apart and in any order."""


def seen(row: TouchpointRow) -> Seen:
    """The row as the past reads it."""
    return Seen(
        row.day, row.id, row.scope, row.leaf, row.kind, row.channel, row.occurred_at, row.recorded_at, row.body
    )  # fmt: skip


def known(database: MemoryProfiles, leaf: bytes, cut: Cut) -> Known:
    """Who belonged together, from the table of ties alone."""
    rows: Leaves = database.tables["leaf"]
    walk = Walk(leaf)
    while walk.wanted:
        walk.add(
            edge.said
            for edge in database.tables["edge"].values()
            if walk.wanted.intersection(edge.said.pair)
            and cut.knows(edge.recorded_at)
            and all(edge.recorded_at > rows[one].erased_at for one in edge.said.pair)
        )
    return walk.known([one for one in walk.leaves if one in rows and rows[one].erased])


def cut_log(facts: Sequence[Fact], rows: Leaves, cut: Cut, *, as_of: bool) -> list[Fact]:
    """The log up to `known_at` without what was erased since; with `as_of` also without what happened later."""
    kept: list[Fact] = []
    before: set[tuple[object, ...]] = set()  # whatever became of it, a touchpoint counts the first time only
    for n, fact in enumerate(facts):
        at = NOON_MS + n
        if cut.known_at is not None and at > cut.known_at:
            kept.append(NOTHING)
        elif isinstance(fact, TouchpointsRecorded):
            new = [one for one in fact.touchpoints if _first(before, fact.source, one)]
            told = [_left(one, rows, at) for one in new if not _is_void(rows, one.leaves[0], at)]
            if as_of and cut.as_of is not None:
                told = [one for one in told if one.occurred_at <= cut.as_of]
            kept.append(msgspec.structs.replace(fact, touchpoints=tuple(told)))
        elif isinstance(fact, IdentityLinked | IdentityUnlinked):
            void = _is_void(rows, fact.a, at) or _is_void(rows, fact.b, at)
            kept.append(NOTHING if void else fact)
        else:
            kept.append(NOTHING)
    return kept


NOTHING = TouchpointsRecorded("main", "nobody", 0, 0, None, "", ())


def _first(before: set[tuple[object, ...]], source: str, touchpoint: Touchpoint) -> bool:
    key = touchpoint.day, touchpoint.id, source, touchpoint.leaves[0]
    is_first = key not in before
    before.add(key)
    return is_first


def _left(touchpoint: Touchpoint, rows: Leaves, at: int) -> Touchpoint:
    owner, *others = touchpoint.leaves
    return msgspec.structs.replace(
        touchpoint, leaves=(owner, *(one for one in others if not _is_void(rows, one, at)))
    )  # fmt: skip


def _is_void(rows: Leaves, leaf: bytes, at: int) -> bool:
    """Whether what is recorded about a leaf then says nothing any more."""
    return leaf in rows and (rows[leaf].erased or at <= rows[leaf].erased_at)


def state_bytes(row: LeafRow | None) -> bytes:
    return b"" if row is None or row.state == profiles.encode(profiles.new()) else row.state


AGAIN = a_record(a_touchpoint("page_viewed", at=NOON_MS, leaves=(LEAVES[0],)))
FORGOTTEN = [kind("main", b"e" * 16, LEAVES[0], NOON_MS) for kind in (LeafErased, LeafReinstated)]


@settings(max_examples=300)
@example([AGAIN, *FORGOTTEN, AGAIN], LEAVES[0], Cut(None, None))  # sent again, what was erased does not come back
@given(sequences, st.sampled_from(LEAVES), st.builds(Cut, instants, records))
def test_the_past_is_what_the_log_cut_there_folds_to(facts: list[Fact], leaf: bytes, cut: Cut) -> None:
    """Members from the ties known then, and the state of what had happened then: as a refold of the cut log has them.

    Histories have late events, duplicates, links, unlinks, erasures and reinstatements.
    """
    live = step(facts, [len(facts)])
    rows: Leaves = live.tables["leaf"]
    if leaf in rows and rows[leaf].erased:
        return  # nobody by this id, in no past
    told = known(live, leaf, cut)
    members = step(cut_log(facts, rows, cut, as_of=False), [len(facts)]).tables["leaf"]
    root = members[leaf].root if leaf in members else leaf
    assert told.root == root
    assert set(told.leaves) == {one for one in members if members[one].root == root} | {leaf}

    touchpoints = [seen(row) for row in live.tables["touchpoint"].values() if row.leaf in told.leaves]
    cut_states = step(cut_log(facts, rows, cut, as_of=True), [len(facts)]).tables["leaf"]
    whole = profiles.new()
    for one in told.leaves:
        if state := state_bytes(cut_states.get(one)):
            whole = profiles.merge(whole, profiles.decode(state))
    assert folded(touchpoints, cut) == whole


@given(sequences, st.sampled_from(LEAVES))
def test_an_uncut_past_is_the_present(facts: list[Fact], leaf: bytes) -> None:
    """Without a cut the ties give the customer that the step keeps, and the rows the very bytes of its state."""
    live = step(facts, [len(facts)])
    rows: Leaves = live.tables["leaf"]
    if leaf not in rows or rows[leaf].erased:
        return
    root = rows[rows[leaf].root]
    told = known(live, leaf, Cut())
    assert (told.root, set(told.leaves)) == (root.leaf, {one for one in rows if rows[one].root == root.leaf})
    touchpoints = [seen(row) for row in live.tables["touchpoint"].values() if row.leaf in told.leaves]
    state = root.merged or root.state
    assert profiles.encode(folded(touchpoints, Cut())) == (state or profiles.encode(profiles.new()))
