"""Facts of the topic `definitions`: workspaces, keys, rules and models, imports, and requests to tell all again."""

from typing import Any, ClassVar

from shared.events.fact import Fact


class WorkspaceDefined(Fact, frozen=True, array_like=True):
    """A workspace: its fixed time zone, its phone region and the public key personal data is sealed to.

    Said again with another sealing key when that is rotated: doors seal to the key of the last one. `created_at`: of
    this definition; the first one's is the birth of the workspace.
    """

    NAME: ClassVar[str] = "workspace.defined"
    workspace: str
    time_zone: str
    region: str
    sealing_key: str
    sealing_public: bytes
    created_at: int


class KeyCreated(Fact, frozen=True, array_like=True):
    """An API key: only the SHA-256 of its secret is kept. `kind` is `write` (public) or `secret`."""

    NAME: ClassVar[str] = "key.created"
    workspace: str
    key_id: str
    digest: bytes
    kind: str
    source: str
    scopes: tuple[str, ...]
    label: str
    created_at: int


class KeyRevoked(Fact, frozen=True, array_like=True):
    """This key opens nothing any more."""

    NAME: ClassVar[str] = "key.revoked"
    workspace: str
    key_id: str
    revoked_at: int


class SealingKeyDestroyed(Fact, frozen=True, array_like=True):
    """What was sealed to this key can never be read again: who holds its private half destroys it on reading this."""

    NAME: ClassVar[str] = "sealing.key.destroyed"
    workspace: str
    name: str
    destroyed_at: int


class DefinitionPublished(Fact, frozen=True, array_like=True):
    """A version of what decides, from `effective_at` on: `rules` (the pack) and `model` (parameters)."""

    NAME: ClassVar[str] = "definition.published"
    workspace: str
    version: int
    effective_at: int
    rules: dict[str, Any]
    model: dict[str, Any]


class ImportStarted(Fact, frozen=True, array_like=True):
    """A history import began; until it is finished its customers are held."""

    NAME: ClassVar[str] = "import.started"
    workspace: str
    import_id: str
    source: str
    started_at: int


class ImportClosed(Fact, frozen=True, array_like=True):
    """`import.finished` was asked for: by the importer, or by the door after an idle hour (`idle`)."""

    NAME: ClassVar[str] = "import.closed"
    workspace: str
    import_id: str
    idle: bool
    closed_at: int


class RepublishRequested(Fact, frozen=True, array_like=True):
    """Profiles are to tell every customer of the house again, with its present version, then `republish.passed`."""

    NAME: ClassVar[str] = "republish.requested"
    id: str
    requested_at: int
