"""Hypothesis strategies of the domain: touchpoints with few keys and close times, so that they meet."""

from typing import Any

from hypothesis import strategies as st

from shared.events import PROVIDER, PUBLIC, SECRET, Touchpoint
from shared.ids import day_of
from shared.vocabulary import CHANNELS, KINDS, normalise
from tests.builders import DAY_MS, NOON_MS, a_leaf

leaves = st.sampled_from([a_leaf(name, rank) for name in "ab" for rank in (0, 4)])
trusts = st.sampled_from([PUBLIC, PROVIDER, SECRET])
moments = st.one_of(
    st.integers(0, 3).map(lambda n: NOON_MS + n),
    st.integers(-1500, 10).map(lambda day: NOON_MS + day * DAY_MS),
    st.integers(NOON_MS - 90 * DAY_MS, NOON_MS),
)
"""Times that often tie, often lie far apart, and otherwise fall anywhere in the last 90 days."""

_SMALL_IDS = st.sampled_from(["1", "2"])
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31), st.text(max_size=3))


def _value(kind: str, name: str, draw: st.DrawFn) -> Any:
    declared = next(p for p in KINDS[kind].properties if p.name == name)
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "id": _SMALL_IDS,
        "text": st.sampled_from(["x", "y"]),
        "choice": st.sampled_from(declared.choices or ("",)),
        "boolean": st.booleans(),
        "integer": st.integers(declared.low or 0, min(declared.high or 9, 5)),
        "time": moments,
        "object": st.dictionaries(st.sampled_from("abc"), _SCALARS, max_size=2),
        "amount": st.sampled_from([0, 1, "2.50", 10]),
        "currency": st.sampled_from(["EUR", "IRR"]),
    }
    return draw(strategies[declared.type])


@st.composite
def properties_of(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Properties of `kind` as the log keeps them, each optional one present or not."""
    sent = {
        declared.name: _value(kind, declared.name, draw)
        for declared in KINDS[kind].properties
        if declared.required or draw(st.booleans())
    }
    if kind == "survey_answered":
        sent["score"] = draw(st.integers(1, 5))
    return normalise(kind, sent, default_currency="EUR")


@st.composite
def touchpoints(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[Touchpoint, int]:
    """One touchpoint and the trust of the key that brought it; ids are drawn from few, so they tie across sources."""
    kind = draw(st.sampled_from(kinds))
    at = draw(moments)
    own_id = bytes([draw(st.integers(0, 255))]) * 16
    channel = draw(st.sampled_from([KINDS[kind].channel, *CHANNELS[:2]]))
    properties = draw(properties_of(kind))
    leaf = draw(leaves)
    return Touchpoint(own_id, day_of(at), kind, channel, (leaf,), at, None, properties, {}), draw(trusts)


histories = st.lists(touchpoints(), max_size=14)
"""What happened to one customer: (touchpoint, trust) in some order."""
