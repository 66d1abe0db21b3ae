"""Secrets as profiles needs them: opening what doors sealed, and turning identifiers into leaves."""

from typing import Protocol

from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.errors import InvalidField, RaftarError
from shared.events import Sealed
from shared.identifiers import leaf_of, normalise
from shared.sealing import Opener, PersonalFields

REMEMBERED_SECONDS = 60.0
"""Private keys are read from disk this often: a destroyed one opens nothing any more after it."""
LOOKED_AGAIN_SECONDS = 1.0


class Secrets(Protocol):
    """Where secrets are kept (`shared.keyring.Keyring`)."""

    def leaf_secret(self, workspace: str) -> bytes:
        """The workspace's 32 bytes. Raises Stopped when they are not here."""

    def private_keys(self, workspace: str) -> dict[str, bytes]:
        """Name → private key of each sealing key that was not destroyed."""


class Openers:
    """Opens sealed fields with the private keys of their workspace."""

    def __init__(self, secrets: Secrets, clock: Clock) -> None:
        self._secrets, self._clock = secrets, clock
        self._known: dict[str, tuple[float, frozenset[str], Opener]] = {}

    def open(self, workspace: str, sealed: Sealed) -> PersonalFields:
        """The personal fields; {} where the private key was destroyed. Raises Poison.

        Raises Stopped where the workspace has no secrets on this machine at all: then the keys folder is missing, and
        going on would lose every personal value for good.
        """
        return self._opener(workspace, sealed.key).open(sealed)

    def _opener(self, workspace: str, key: str) -> Opener:
        now = self._clock.monotonic()
        read_at, names, opener = self._known.get(workspace, (float("-inf"), frozenset[str](), None))
        patience = REMEMBERED_SECONDS if key in names else LOOKED_AGAIN_SECONDS
        if opener is not None and now - read_at < patience:
            return opener
        self._secrets.leaf_secret(workspace)
        private = self._secrets.private_keys(workspace)
        fresh = opener if opener is not None and private.keys() == names else Opener(private)
        self._known[workspace] = now, frozenset(private), fresh
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
