"""The profile state: INITIAL, fold, ⊕ and its canonical bytes. Every feature is one component of `COMPONENTS`.

`fold` of any set of distinct touchpoints gives the same bytes in any order, and fold(A ∪ B) = fold(A) ⊕ fold(B).
A new feature is a component appended to the list and a rebuild of the projection.
"""

from typing import Any

import msgspec
from msgspec.structs import astuple

from shared.errors import NewerVersion, Poison
from shared.events import Touchpoint
from shared.profile.behaviour import behaviour_component, count_unknown
from shared.profile.care import CALLS, COMPLAINTS, SURVEYS, TICKETS
from shared.profile.component import Component, Fold, Profile
from shared.profile.messages import MESSAGES
from shared.profile.orders import ORDERS
from shared.profile.subscriptions import SUBSCRIPTIONS
from shared.profile.traits import TRAITS
from shared.vocabulary import KINDS

FOLD_VERSION = 1
"""Raised when the same log folds to other states than before: a component was added or folds differently.

A projection folded by an older version goes on, and is rebuilt with a report of what differs instead of a proof that
nothing does."""

STATE_VERSION = 1
"""First byte of every state. Raised when a part changes its meaning; appending a component needs no new version."""

_KEYED: tuple[Component[Any], ...] = (
    ORDERS, TICKETS, CALLS, COMPLAINTS, SURVEYS, MESSAGES, SUBSCRIPTIONS, TRAITS,
)  # fmt: skip

BEHAVIOUR = behaviour_component({kind: needs for component in _KEYED for kind, needs in component.counts.items()})

COMPONENTS: tuple[Component[Any], ...] = (BEHAVIOUR, *_KEYED)
"""All features. The order is the storage format: only ever append."""

_Parts = msgspec.defstruct(
    "Parts",
    [(component.name, component.state | None, None) for component in COMPONENTS],
    namespace={"DECODERS": {component.name: msgspec.msgpack.Decoder(component.state) for component in COMPONENTS}},
    array_like=True,
    gc=False,
)

_RawParts = msgspec.defstruct(
    "RawParts", [(component.name, msgspec.Raw, msgspec.Raw(b"\xc0")) for component in COMPONENTS], array_like=True
)

_NO_PART = msgspec.Raw(b"\xc0")

WHOLE_BYTES = 512
"""A state of up to so many bytes is decoded whole: that takes no longer than taking it apart."""

_Step = tuple[str, Any, Fold[Any]]


def _steps_of(kind: str) -> tuple[_Step, ...]:
    concerned = [component for component in COMPONENTS if kind in component.folds]
    return tuple((component.name, component.empty, component.folds[kind]) for component in concerned)


_STEPS: dict[str, tuple[_Step, ...]] = {kind: _steps_of(kind) for kind in KINDS}
_UNKNOWN: tuple[_Step, ...] = (("behaviour", BEHAVIOUR.empty, count_unknown),)

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_Parts)
_splitter = msgspec.msgpack.Decoder(_RawParts)
_VERSION_BYTE = bytes((STATE_VERSION,))


def new() -> Profile:
    """INITIAL: the profile of nothing, the neutral element of `merge`. A fresh one, since `fold` changes in place."""
    return Profile(_Parts())


def fold(profile: Profile, touchpoint: Touchpoint, source: str, trust: int) -> None:
    """Fold one touchpoint into `profile`, in place. Kinds this code does not know are counted.

    `source`: who reported it (no component tells sources apart so far) · `trust`: of its key, PUBLIC, PROVIDER or
    SECRET. The caller removes duplicates by id first. Raises Poison for a touchpoint that cannot be folded; the
    profile is then half changed and must be thrown away and folded again without it.
    """
    parts = profile.parts
    try:
        for name, empty, step in _STEPS.get(touchpoint.kind, _UNKNOWN):
            part = getattr(parts, name)
            if part.__class__ is msgspec.Raw:
                part = profile.part(name)
            if part is None:
                part = empty()
                setattr(parts, name, part)
            step(part, touchpoint, trust)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Poison(f"{touchpoint.kind}: {type(error).__name__}: {error}") from error


def merge(a: Profile, b: Profile) -> Profile:
    """a ⊕ b: the profile of the touchpoints of both. Commutative and associative, `new()` is neutral; pure."""
    parts = _Parts()
    for component in COMPONENTS:
        mine, other = a.part(component.name), b.part(component.name)
        if mine is not None or other is not None:
            merged = component.merge(
                component.empty() if mine is None else mine, component.empty() if other is None else other
            )
            setattr(parts, component.name, merged)
    return Profile(parts)


def encode(profile: Profile) -> bytes:
    """The canonical bytes: equal profiles give equal bytes, whatever the order of their touchpoints.

    Raises Poison when a folded value has no bytes (a number beyond 64 bits).
    """
    try:
        return _VERSION_BYTE + _encoder.encode(profile.parts)
    except (OverflowError, TypeError, ValueError) as error:
        raise Poison(f"state has no bytes: {error}") from error


def decode(data: bytes) -> Profile:
    """The inverse of `encode`. Raises NewerVersion for a newer state, ValueError for bytes that are no state.

    Of a large state only behaviour is decoded, which nearly every touchpoint changes. The other parts are decoded when
    somebody asks for them, which may raise ValueError then, and are written back as they came when nobody does.
    """
    if len(data) <= WHOLE_BYTES:
        return Profile(_decoded(_decoder, data))
    parts = (None if part == _NO_PART else part for part in astuple(_decoded(_splitter, data)))
    profile = Profile(_Parts(*parts))
    profile.part(BEHAVIOUR.name)
    return profile


def narrowed(data: bytes, *names: str) -> bytes:
    """The state with the parts of these components only, and none of them decoded: equal parts give equal bytes.

    Raises as `decode` does.
    """
    parts = _decoded(_splitter, data)
    return _VERSION_BYTE + _encoder.encode(_RawParts(**{name: getattr(parts, name) for name in names}))


def differing(a: bytes, b: bytes) -> tuple[str, ...]:
    """Names of the components whose parts differ between two states, in the order of COMPONENTS. b"" is the empty one.

    Raises as `decode` does.
    """
    if a == b:
        return ()
    mine, other = (_decoded(_splitter, state) if state else _RawParts() for state in (a, b))
    names = (component.name for component in COMPONENTS)
    return tuple(name for name in names if bytes(getattr(mine, name)) != bytes(getattr(other, name)))


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    if not data:
        raise ValueError("a state has at least one byte")
    if data[0] > STATE_VERSION:
        raise NewerVersion(
            f"profile state version {data[0]} is newer than {STATE_VERSION}: deploy the newer code first"
        )
    try:
        return decoder.decode(memoryview(data)[1:])
    except msgspec.MsgspecError as error:
        raise ValueError(f"no profile state: {error}") from error
