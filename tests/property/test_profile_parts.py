"""A large stored state is decoded part by part, when somebody asks; nobody can tell it from one decoded whole."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Touchpoint
from shared.profile import COMPONENTS, Profile, decode, encode, fold, merge, new, summary
from shared.profile.state import STATE_VERSION, WHOLE_BYTES
from shared.vocabulary import KINDS
from tests.builders import NOON_MS, a_touchpoint
from tests.property.strategies import touchpoints

EVERY_KIND = [(a_touchpoint(kind.name, at=NOON_MS, **kind.example), 2) for kind in KINDS.values()]

histories = st.lists(touchpoints(), max_size=4)


def folded(profile: Profile, history: list[tuple[Touchpoint, int]]) -> Profile:
    for touchpoint, trust in history:
        fold(profile, touchpoint, "shop", trust)
    return profile


def stored(history: list[tuple[Touchpoint, int]]) -> bytes:
    """A large state."""
    state = encode(folded(new(), [*EVERY_KIND, *history]))
    assert len(state) > WHOLE_BYTES
    return state


@given(histories, histories)
def test_folding_on_gives_the_bytes_of_folding_all(
    history: list[tuple[Touchpoint, int]], more: list[tuple[Touchpoint, int]]
) -> None:
    whole = folded(new(), [*EVERY_KIND, *history, *more])
    assert encode(folded(decode(stored(history)), more)) == encode(whole)
    assert folded(decode(stored(history)), more) == whole
    assert encode(decode(stored(history))) == stored(history)


@given(histories, histories)
def test_merging_and_reading_open_what_they_need(
    history: list[tuple[Touchpoint, int]], other: list[tuple[Touchpoint, int]]
) -> None:
    whole, mine = folded(new(), [*EVERY_KIND, *history]), decode(stored(history))
    assert encode(merge(mine, folded(new(), other))) == encode(merge(whole, folded(new(), other)))
    assert encode(mine) == stored(history)
    assert summary(decode(stored(history)), NOON_MS) == summary(whole, NOON_MS)
    assert (decode(stored(history)).first_at, decode(stored(history)).last_at) == (whole.first_at, whole.last_at)


@pytest.mark.parametrize("component", [component.name for component in COMPONENTS])
def test_a_part_that_is_none_is_told_when_it_is_asked_for(component: str) -> None:
    parts = msgspec.msgpack.decode(stored([])[1:])
    place = [one.name for one in COMPONENTS].index(component)
    parts[place] = "no such part"
    with pytest.raises(ValueError, match="no profile state"):
        decode(bytes((STATE_VERSION,)) + msgspec.msgpack.encode(parts)).part(component)
