"""Why a leaf stands where it stands: a reason code with its arguments, and the one sentence REST gives.

Only leaves and their ranks appear, never what a person typed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from services.profiles.domain.identity import ALONE, CROWDED, ERASED, JOINED, LEAVES_MAX, SHARED, Place, Ties
from shared.identifiers import RANK_NAMES
from shared.ids import leaf_rank, leaf_text

LISTED_MAX = 5
"""So many leaves a sentence names; a device may be shared by thousands."""


class Explanation(NamedTuple):
    """`code`: one of the keys of `SENTENCES` · `ties`: the higher-ranked leaves that decided, sorted ·
    `customers`: the roots those belong to, sorted · `aliases`: the other leaves of its alias class, sorted."""

    leaf: bytes
    code: str
    customer: bytes
    ties: tuple[bytes, ...] = ()
    customers: tuple[bytes, ...] = ()
    aliases: tuple[bytes, ...] = ()


SENTENCES = {
    "erased": "This {kind} was erased; ties to it count for nothing until it is reinstated.",
    "joined": "This {kind} belongs to customer {customer} because {via} tied to {ties}, and to no other customer.",
    "shared": "This {kind} stands alone because {via} tied to {count} customers (a shared device or inbox): "
    "{customers}.",
    "crowded": "This {kind} stands alone because customer {customers}, which it is tied to, has no room for all that "
    "would join it ({leaves_max} identifiers at most: a bot or a kiosk).",
    "crowded_aliases": "This {kind} stands alone because more identifiers are aliases of it than one customer may "
    "have ({leaves_max}).",
    "aliased": "This {kind} is the same customer as {aliases}, by an explicit alias.",
    "hidden": "This {kind} is a customer of its own: whatever it is tied to stands alone itself and ties nobody.",
    "alone": "This {kind} is a customer of its own: it is tied to nothing that stands above it.",
}


def explain(leaf: bytes, ties: Ties, places: Mapping[bytes, Place]) -> Explanation:
    """Why `leaf` has its place in `places`, which must hold its alias class and every leaf those are tied to.

    `ties`: leaf → tied leaves and whether by an alias. A leaf missing from `places` counts as standing alone, untied.
    """
    place = places[leaf]
    if place.standing == ERASED:
        return Explanation(leaf, "erased", place.root)
    members = _alias_class(leaf, ties, places)
    aliases = tuple(sorted(members - {leaf}))
    above = {other for member in members for other in ties(member) if leaf_rank(other) < leaf_rank(leaf)}
    seen = tuple(sorted(other for other in above if other in places and places[other].ties))
    customers = tuple(sorted({places[other].root for other in seen}))
    dissolved = any(places[other].root != place.root for other in aliases)
    code = _code(place, bool(aliases), dissolved, bool(above), bool(seen))
    return Explanation(leaf, code, place.root, seen, customers, aliases)


def sentence(explanation: Explanation, leaves_max: int = LEAVES_MAX) -> str:
    """The explanation as one English sentence; leaves appear as kind and 32 hexadecimal digits."""
    return SENTENCES[explanation.code].format(
        kind=RANK_NAMES[leaf_rank(explanation.leaf)],
        customer=leaf_text(explanation.customer),
        via="it or an alias of it is" if explanation.aliases else "it is",
        ties=_listed(tuple(map(_named, explanation.ties))),
        count=len(explanation.customers),
        customers=_listed(tuple(map(leaf_text, explanation.customers))),
        aliases=_listed(tuple(map(_named, explanation.aliases))),
        leaves_max=leaves_max,
    )


def _named(leaf: bytes) -> str:
    return f"{RANK_NAMES[leaf_rank(leaf)]} {leaf_text(leaf)}"


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


def _alias_class(leaf: bytes, ties: Ties, places: Mapping[bytes, Place]) -> frozenset[bytes]:
    reached, edge = {leaf}, [leaf]
    while edge:
        near = {other for other, alias in ties(edge.pop()).items() if alias and _is_peer(leaf, other, places)} - reached
        reached |= near
        edge.extend(near)
    return frozenset(reached)


def _is_peer(leaf: bytes, other: bytes, places: Mapping[bytes, Place]) -> bool:
    return leaf_rank(other) == leaf_rank(leaf) and other in places and places[other].standing != ERASED


def _code(place: Place, has_aliases: bool, dissolved: bool, has_ties: bool, sees_ties: bool) -> str:
    if place.standing != ALONE:
        crowded = "crowded_aliases" if dissolved else "crowded"
        return {CROWDED: crowded, SHARED: "shared", JOINED: "joined"}[place.standing]
    if has_aliases:
        return "aliased"
    return "hidden" if has_ties and not sees_ties else "alone"
