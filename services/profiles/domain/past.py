"""A customer as of one instant and as known at another, pure: which touchpoints count, which leaves belong together.

*As of* T cuts what happened: touchpoints that occurred up to T. *Known at* T cuts what was recorded: touchpoints and
ties recorded up to T, so that who belongs to whom is decided as it was then. Both together are the log cut at the one
and read up to the other. What was erased is in no past: it is left out as if it had never been recorded.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec

from services.profiles.domain.identity import Assertion, Place, holding, places
from services.profiles.domain.rows import Body
from shared import profile as profiles
from shared.events import Touchpoint

WALK_LEAVES_MAX = 20_000
"""So many leaves are looked at to find out who belonged together; who is tied to more is no person."""

_decode_body = msgspec.msgpack.Decoder(Body).decode


class Cut(NamedTuple):
    """Where the past is cut, in epoch milliseconds, both ends included; None does not cut."""

    as_of: int | None = None
    known_at: int | None = None

    @property
    def is_present(self) -> bool:
        """Whether nothing is cut."""
        return self.as_of is None and self.known_at is None

    @property
    def at(self) -> int | None:
        """The instant asked about: `as_of`, else `known_at`."""
        return self.known_at if self.as_of is None else self.as_of

    def knows(self, recorded_at: int) -> bool:
        """Whether something recorded then was known."""
        return self.known_at is None or recorded_at <= self.known_at

    def counts(self, occurred_at: int, recorded_at: int) -> bool:
        """Whether a touchpoint had happened and was known."""
        return (self.as_of is None or occurred_at <= self.as_of) and self.knows(recorded_at)


PRESENT = Cut()


class TooManyTies(Exception):
    """More leaves are tied to the one asked for than are looked at."""


class Walk:
    """Everything that is tied to a leaf, however far. Answer `wanted` with `add` until nothing is wanted.

    Identity is decided rank by rank over all that is tied together, so the answer needs all of it.
    """

    def __init__(self, leaf: bytes, leaves_max: int = WALK_LEAVES_MAX) -> None:
        self.wanted = frozenset({leaf})
        self._leaf, self._leaves_max = leaf, leaves_max
        self._seen = {leaf}
        self._said: set[Assertion] = set()

    def add(self, said: Iterable[Assertion]) -> None:
        """Every assertion known then that names one of the wanted leaves. Raises TooManyTies."""
        found = set(said)
        self._said |= found
        near = {leaf for one in holding(found).values() if one.ties for leaf in one.pair}
        self.wanted = frozenset(near - self._seen)
        self._seen |= near
        if len(self._seen) > self._leaves_max:
            raise TooManyTies

    @property
    def leaves(self) -> frozenset[bytes]:
        """All leaves met."""
        return frozenset(self._seen)

    def known(self, erased: Collection[bytes]) -> "Known":
        """Who belonged together, now that nothing is wanted any more. `erased`: those of `leaves` that are."""
        placed = places(self._seen, holding(self._said).values(), erased)
        root = placed[self._leaf].root
        return Known(root, tuple(sorted(leaf for leaf in placed if placed[leaf].root == root)), self._said, placed)


class Known(NamedTuple):
    """A customer as known then: the root, all leaves by rank, what was said about them, and everybody's place."""

    root: bytes
    leaves: tuple[bytes, ...]
    said: Collection[Assertion]
    places: dict[bytes, Place]


class Seen(NamedTuple):
    """A touchpoint as the table keeps it, to be folded again. `body` is blank once erased."""

    day: int
    id: bytes
    scope: bytes
    leaf: bytes
    kind: str
    channel: str
    occurred_at: int
    recorded_at: int
    body: bytes

    @property
    def order(self) -> tuple[int, bytes, bytes, int]:
        """Place in the order of time: the key of timelines."""
        return self.occurred_at, self.id, self.scope, self.day


class Told(NamedTuple):
    """A touchpoint as the fold takes it: with who reported it, and the trust of their key."""

    touchpoint: Touchpoint
    source: str
    trust: int


def told_of(seen: Seen) -> Told:
    """The touchpoint behind a row whose body is not blank."""
    body = _decode_body(seen.body)
    touchpoint = Touchpoint(
        seen.id, seen.day, seen.kind, seen.channel, body.leaves, seen.occurred_at, body.client_at, body.properties,
        body.context, body.name,
    )  # fmt: skip
    return Told(touchpoint, body.source, body.trust)


def counted(rows: Iterable[Seen], cut: Cut) -> Iterator[tuple[Seen, Told]]:
    """The touchpoints that count under `cut`, decoded."""
    for row in rows:
        if row.body and cut.counts(row.occurred_at, row.recorded_at):
            yield row, told_of(row)


def folded(rows: Iterable[Seen], cut: Cut) -> profiles.Profile:
    """The profile of these touchpoints as far as they count under `cut`; in any order the same."""
    state = profiles.new()
    for _, told in counted(rows, cut):
        profiles.fold(state, *told)
    return state
