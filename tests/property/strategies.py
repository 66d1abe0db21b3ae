"""Hypothesis strategies of the domain: touchpoints with few keys and close times, so that they meet."""

from typing import Any

from hypothesis import strategies as st

from shared.events import PROVIDER, PUBLIC, SECRET, Touchpoint
from shared.ids import day_of
from shared.vocabulary import CHANNELS, KINDS, Kind, Property, normalise
from tests.builders import DAY_MS, NOON_MS, a_leaf

leaves = st.sampled_from([a_leaf(name, rank) for name in "ab" for rank in (0, 4)])
trusts = st.sampled_from([PUBLIC, PROVIDER, SECRET])
moments = st.one_of(
    st.integers(0, 3).map(lambda n: NOON_MS + n),
    st.integers(-1500, 10).map(lambda day: NOON_MS + day * DAY_MS),
    st.integers(NOON_MS - 90 * DAY_MS, NOON_MS),
)
"""Times that often tie, often lie far apart, and otherwise fall anywhere in the last 90 days."""

_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31), st.sampled_from(["", "x", "ی"]))
_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["1", "2"]),
    "text": st.sampled_from(["x", "y"]),
    "boolean": st.booleans(),
    "time": moments,
    "object": st.dictionaries(st.sampled_from("abc"), _SCALARS, max_size=2),
    "amount": st.sampled_from([0, 1, "2.50", 10]),
    "currency": st.sampled_from(["EUR", "IRR"]),
}


def _values(declared: Property) -> st.SearchStrategy[Any]:
    if declared.choices:
        return st.sampled_from(declared.choices)
    if declared.type == "integer":
        return st.integers(max(declared.low or 0, 1 if declared.name == "score" else 0), min(declared.high or 9, 5))
    return _BY_TYPE[declared.type]


def _properties(kind: Kind, same_ids: bool) -> st.SearchStrategy[dict[str, Any]]:
    told = {declared.name: _values(declared) for declared in kind.properties}
    if same_ids:
        told.update({p.name: st.just("1") for p in kind.properties if p.type == "id"})
    always = {p.name for p in kind.properties if p.required or (same_ids and p.type == "id")}
    sent = st.fixed_dictionaries(
        {name: values for name, values in told.items() if name in always},
        optional={name: values for name, values in told.items() if name not in always},
    )
    return sent.map(lambda properties: normalise(kind.name, properties, default_currency="EUR"))


_IDS = st.integers(0, 3).map(lambda number: bytes((number,)) * 16)


def _of_kind(kind: str, same_ids: bool) -> st.SearchStrategy[Touchpoint]:
    def build(own_id: bytes, at: int, channel: str, leaf: bytes, properties: dict[str, Any]) -> Touchpoint:
        return Touchpoint(own_id, day_of(at), kind, channel, (leaf,), at, None, properties, {})

    channels = st.sampled_from([KINDS[kind].channel, *CHANNELS[:2]])
    return st.builds(build, _IDS, moments, channels, leaves, _properties(KINDS[kind], same_ids))


def touchpoints(
    kinds: tuple[str, ...] = tuple(KINDS), same_ids: bool = False
) -> st.SearchStrategy[tuple[Touchpoint, int]]:
    """One touchpoint and the trust of the key that brought it.

    Touchpoint ids are drawn from few, so that they tie across sources; with `same_ids` all business keys are "1".
    """
    return st.tuples(st.one_of([_of_kind(kind, same_ids) for kind in kinds]), trusts)


_MEETING = (
    ("purchased", "refunded"),
    ("ticket_opened", "ticket_resolved", "ticket_reopened"),
    ("call_made",),
    ("complained",),
    ("survey_answered",),
    ("email_delivered", "email_opened", "push_opened"),
    ("subscription_started", "subscription_renewed", "subscription_cancelled", "payment_failed"),
    ("identified", "grouped"),
    ("page_viewed", "ticket_replied"),
)
histories = st.one_of(
    st.lists(touchpoints(), max_size=14),
    *(st.lists(touchpoints(kinds, same_ids=True), min_size=2, max_size=8) for kinds in _MEETING),
)
"""What happened to one customer: (touchpoint, trust) in some order; mostly reports of one thing, so that they meet."""
