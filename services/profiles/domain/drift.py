"""Where two foldings of one log differ: leaf by leaf for a rebuild, feature by feature for a person. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from shared import profile as profiles
from shared.ids import leaf_text

PLACE, ERASED, MISSING = "customer", "erased", "leaf"
"""What can differ beside features: the customer a leaf belongs to, whether it is erased, whether it is there at all."""

NOTHING = profiles.encode(profiles.new())
"""A leaf of which nothing was folded has this state or none, as it happens to have been a customer or not."""


class Compared(NamedTuple):
    """What counts of a leaf when two foldings are compared: never versions, positions or times."""

    leaf: bytes
    workspace: str
    root: bytes
    state: bytes
    merged: bytes
    erased: bool

    @property
    def is_blank(self) -> bool:
        """Whether it says nothing: a command that is not folded yet may make such a row."""
        return self.state in (b"", NOTHING) and not self.merged and self.root == self.leaf and not self.erased

    @property
    def counted(self) -> "Compared":
        """As it counts: an erased leaf has no state, and the state of nothing is none."""
        if self.erased:
            return self._replace(state=b"", merged=b"")
        return self._replace(state=b"") if self.state == NOTHING else self


class Digesting(Protocol):
    """A running hash."""

    def update(self, data: bytes, /) -> object: ...


def digest_into(total: Digesting, leaf: bytes, state: bytes, root: bytes, erased: bool) -> None:
    """One leaf's part of a digest over leaves in their order, each value framed by its length. Blank leaves add
    nothing, an erased one counts with an empty state.
    """
    state = b"" if erased or state == NOTHING else state
    if not state and root == leaf and not erased:
        return
    for part in (leaf, state, root):
        total.update(len(part).to_bytes(4, "big"))
        total.update(part)


def differences(live: Compared | None, made: Compared | None) -> tuple[str, ...]:
    """Names of what differs between a leaf as it is live and as the log gives it; () when nothing does."""
    live, made = _counted(live), _counted(made)
    if live is None or made is None:
        return () if live is made else (MISSING,)
    if live == made:
        return ()
    found = [
        name for name, one, other in ((PLACE, live.root, made.root), (ERASED, live.erased, made.erased)) if one != other
    ]
    names = {*profiles.differing(live.state, made.state), *profiles.differing(live.merged, made.merged)}
    return (*found, *(component.name for component in profiles.COMPONENTS if component.name in names))


def _counted(one: Compared | None) -> Compared | None:
    return None if one is None or one.is_blank else one.counted


# --- what a person is shown -----------------------------------------------------------------------------------


class Drift(NamedTuple):
    """One value that is stored otherwise than the log says. `feature`: as the profile names it."""

    customer: bytes
    leaf: bytes
    feature: str
    stored: Any
    refolded: Any


def drifts(customer: bytes, leaf: bytes, stored: bytes, refolded: bytes) -> list[Drift]:
    """Where a stored state differs from the refolded one, feature by feature as REST shows them. b"" is nothing.

    A component whose difference no shown feature tells is named itself, with its bytes in short. A stored state that
    cannot be read is one drift of the feature `state`.
    """
    stored, refolded = stored or NOTHING, refolded or NOTHING
    if stored == refolded:
        return []
    try:
        names = profiles.differing(stored, refolded)
        mine, other = _profile(stored), _profile(refolded)
    except Exception as error:  # whatever the stored bytes trip over: they are the drift
        return [Drift(customer, leaf, "state", f"cannot be read: {type(error).__name__}", f"{len(refolded)} bytes")]
    at = max(mine.last_at or 0, other.last_at or 0)
    one, two = profiles.summary(mine, at), profiles.summary(other, at)
    found = [
        Drift(customer, leaf, name, one.get(name), two.get(name)) for name in two if one.get(name) != two.get(name)
    ]
    if found:
        return found
    return [Drift(customer, leaf, name, _short(stored, name), _short(refolded, name)) for name in names or ("state",)]


def placed(customer: bytes, leaf: bytes, feature: str, stored: Any, refolded: Any) -> list[Drift]:
    """The drift of one plain value; [] when both are the same. Bytes are shown as ids."""
    if stored == refolded:
        return []
    return [Drift(customer, leaf, feature, _shown(stored), _shown(refolded))]


def listed(customer: bytes, stored: Mapping[str, Any] | None, refolded: Mapping[str, Any] | None) -> list[Drift]:
    """Where the row a customer is listed by differs from what its state says."""
    if stored is None or refolded is None:
        return placed(customer, customer, "listing", _presence(stored), _presence(refolded))
    return [
        one for name in refolded for one in placed(customer, customer, f"listing.{name}", stored[name], refolded[name])
    ]


def _presence(row: Mapping[str, Any] | None) -> str:
    return "absent" if row is None else "present"


def _profile(state: bytes) -> profiles.Profile:
    return profiles.decode(state) if state else profiles.new()


def _short(state: bytes, name: str) -> str:
    if name == "state" or not state:
        return f"{len(state)} bytes"
    return profiles.narrowed(state, name).hex()[:80]


def _shown(value: Any) -> Any:
    return leaf_text(value) if isinstance(value, bytes) else value
