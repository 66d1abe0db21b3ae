"""From a key to all the domain needs to know of its sender, and to the sealer of its workspace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from services.ingest.domain.terms import Sender
from shared.access import Key, Workspace
from shared.definitions import DefinitionsFeed
from shared.errors import RaftarError
from shared.events import SECRET, Sealed
from shared.sealing import Sealer

HOUR_MS = 3_600_000


class Secrets(Protocol):
    """Where leaf secrets are kept (`shared.keyring.Keyring`)."""

    def leaf_secret(self, workspace: str) -> bytes:
        """The workspace's 32 bytes. Raises Stopped when they are not here."""


@dataclass(slots=True)
class _Known:
    workspace: Workspace
    sender: Sender


class Senders:
    """Senders and sealers, made once a key and workspace definition. A leaf secret never changes, so it is kept."""

    def __init__(self, secrets: Secrets, feed: DefinitionsFeed, default_currency: str) -> None:
        self._secrets, self._feed = secrets, feed
        self._default_currency = default_currency
        self._leaf_secrets: dict[str, bytes] = {}
        self._known: dict[str, _Known] = {}
        self._sealers: dict[str, tuple[bytes, Sealer]] = {}

    def of(self, key: Key) -> Sender:
        """The sender behind a live key. Raises Stopped when the workspace's leaf secret is not on this machine."""
        workspace = self._feed.workspaces[key.workspace]
        known = self._known.get(key.key_id)
        if known is None or known.workspace is not workspace:
            known = self._known[key.key_id] = _Known(workspace, self._make(key, workspace))
        return known.sender

    def sealing(self, workspace: str, now_ms: int) -> Callable[[dict[int, dict[str, Any]]], Sealed]:
        """A function that seals the personal fields of one record of this workspace at this time."""
        definition = self._feed.workspaces[workspace]
        public, sealer = self._sealers.get(workspace, (b"", None))
        if sealer is None or public != definition.sealing_public:
            sealer = Sealer(definition.sealing_key, definition.sealing_public)
            self._sealers[workspace] = definition.sealing_public, sealer
        made, hour = sealer, now_ms // HOUR_MS
        return lambda personal: made.seal(personal, hour)

    def missing(self) -> list[str]:
        """Workspaces whose leaf secret is not here: their touchpoints cannot be taken in."""
        return [name for name in self._feed.workspaces if not self._has_secret(name)]

    def _make(self, key: Key, workspace: Workspace) -> Sender:
        return Sender(
            workspace=key.workspace,
            source=key.source,
            trust=key.trust,
            leaf_secret=self._leaf_secret(key.workspace),
            region=workspace.region,
            default_currency=self._default_currency,
            history_allowed=key.trust == SECRET,
        )

    def _leaf_secret(self, workspace: str) -> bytes:
        if workspace not in self._leaf_secrets:
            self._leaf_secrets[workspace] = self._secrets.leaf_secret(workspace)
        return self._leaf_secrets[workspace]

    def _has_secret(self, workspace: str) -> bool:
        try:
            self._leaf_secret(workspace)
        except RaftarError:
            return False
        return True
