"""Secrets as profiles needs them: opening what doors sealed, and turning identifiers into leaves."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from shared.access import Workspace
from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.errors import InvalidField, RaftarError, Retryable
from shared.events import Sealed
from shared.identifiers import leaf_of, normalise
from shared.sealing import Opener, PersonalFields

REMEMBERED_SECONDS = 60.0
"""Private keys are read from disk this often: a destroyed one opens nothing any more after it."""
LOOKED_AGAIN_SECONDS = 1.0
STRANGE_SECONDS = 10.0


class Secrets(Protocol):
    """Where secrets are kept (`shared.keyring.Keyring`)."""

    def leaf_secret(self, workspace: str) -> bytes:
        """The workspace's 32 bytes. Raises Stopped when they are not here."""

    def private_keys(self, workspace: str) -> dict[str, bytes]:
        """Name → private key of each sealing key that was not destroyed."""

    def sealing_names(self, workspace: str) -> list[str]:
        """Names of every sealing key that is or was here."""


class KeyAway(Retryable):
    """A sealing key in use is not on this machine yet: going on would lose what was sealed to it for good."""

    code = "sealing_key_away"


class _Known(NamedTuple):
    """What was last read from disk: when, which private keys, and which keys are or were here at all."""

    read_at: float
    private: frozenset[str]
    here: frozenset[str]
    opener: Opener


class Openers:
    """Opens sealed fields with the private keys of their workspace. `workspaces`: as `definitions` tells them now."""

    def __init__(
        self, secrets: Secrets, clock: Clock, workspaces: Callable[[], Mapping[str, Workspace]] = dict[str, Workspace]
    ) -> None:
        self._secrets, self._clock, self._workspaces = secrets, clock, workspaces
        self._known: dict[str, _Known] = {}
        self._strange: dict[tuple[str, str], float] = {}  # keys nobody told of → when first met

    def open(self, workspace: str, sealed: Sealed) -> PersonalFields:
        """The personal fields; {} where the private key was destroyed. Raises Poison.

        Raises Stopped where the workspace has no secrets on this machine at all, and KeyAway where a key in use was not
        brought here yet: going on would lose every personal value for good.
        """
        known = self._read(workspace, sealed.key)
        if sealed.key not in known.private:
            self._check_destroyed(workspace, sealed.key, known)
            return {}
        return known.opener.open(sealed)

    def forget(self, workspace: str) -> None:
        """Forget every key of a workspace: one was destroyed or made."""
        self._known.pop(workspace, None)

    def away(self) -> list[str]:
        """`workspace/name` of every sealing key in use that is not on this machine."""
        named = ((name, one.sealing_key) for name, one in self._workspaces().items())
        return [f"{workspace}/{key}" for workspace, key in named if not self._is_here(workspace, key)]

    def _is_here(self, workspace: str, key: str) -> bool:
        try:
            return key in self._secrets.sealing_names(workspace)
        except RaftarError:
            return False

    def _check_destroyed(self, workspace: str, key: str, known: _Known) -> None:
        """A destroyed key leaves its public half, or is told as destroyed; a key of neither kind was never here.

        One that nobody told of may be so new that we have not read of it; after a while it is nobody's key.
        """
        told = self._workspaces().get(workspace)
        if key in known.here or told is None or key in told.destroyed_keys:
            return
        now = self._clock.monotonic()
        is_told = any(one.name == key for one in told.sealing_keys)
        if is_told or now - self._strange.setdefault((workspace, key), now) < STRANGE_SECONDS:
            raise KeyAway(
                f"sealing key {key} of workspace {workspace!r} is not on this machine: copy both its files in "
                f"keys/{workspace}/sealing/ from the machine it was made on"
            )

    def _read(self, workspace: str, key: str) -> _Known:
        now, known = self._clock.monotonic(), self._known.get(workspace)
        if known is not None:
            patience = REMEMBERED_SECONDS if key in known.private else LOOKED_AGAIN_SECONDS
            if key in known.private | known.here and now - known.read_at < patience:
                return known
        self._secrets.leaf_secret(workspace)
        private = self._secrets.private_keys(workspace)
        here = frozenset(self._secrets.sealing_names(workspace))
        same = known is not None and private.keys() == known.private
        opener = known.opener if known is not None and same else Opener(private)
        fresh = self._known[workspace] = _Known(now, frozenset(private), here, opener)
        return fresh


class Leaves:
    """Identifiers → leaves, by each workspace's own secret and phone region."""

    def __init__(self, secrets: Secrets, feed: DefinitionsFeed) -> None:
        self._secrets, self._feed = secrets, feed
        self._kept: dict[str, bytes] = {}

    def of(self, workspace: str, identifier: str, field: str) -> tuple[bytes, str, str]:
        """(leaf, kind, normalised value) of `kind:value`. Raises InvalidField naming `field`, Stopped."""
        kind, value = _parted(identifier, field)
        region = self._feed.workspaces[workspace].region
        normalised = normalise(kind, value, region, field=field)
        return leaf_of(self._secret(workspace), workspace, kind, normalised), kind, normalised

    def missing(self) -> list[str]:
        """Workspaces whose secrets are not on this machine."""
        return [name for name in self._feed.workspaces if not self._has_secret(name)]

    def _secret(self, workspace: str) -> bytes:
        if workspace not in self._kept:
            self._kept[workspace] = self._secrets.leaf_secret(workspace)
        return self._kept[workspace]

    def _has_secret(self, workspace: str) -> bool:
        try:
            self._secret(workspace)
        except RaftarError:
            return False
        return True


def _parted(identifier: str, field: str) -> tuple[str, str]:
    """`provider:zendesk:17` has a kind of two words, every other kind is one word."""
    words = identifier.split(":", 2 if identifier.startswith("provider:") else 1)
    kind, value = ":".join(words[:-1]), words[-1]
    if not kind or not value:
        raise InvalidField(field, "is written kind:value, for example email:sara@example.com or user:42")
    return kind, value
