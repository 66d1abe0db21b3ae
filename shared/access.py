"""Access as facts: workspaces and keys are a pure fold of `definitions`, and whoever presents a key is found here.

A key's text is `rk_w_<id>_<secret>` (write: public, may only append) or `rk_s_<id>_<secret>` (secret, with scopes).
Only the SHA-256 of its 256-bit secret is kept; a plain hash is enough for a secret that nobody can guess.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from shared.errors import InvalidField, NotAllowed
from shared.events import PUBLIC, SECRET, Fact, KeyCreated, KeyRevoked, SealingKeyDestroyed, WorkspaceDefined

WRITE, READ, ACT, ADMIN = "write", "read", "act", "admin"
SCOPES = (WRITE, READ, ACT, ADMIN)
"""write: post touchpoints · read: customers and alerts · act: link, unlink, acknowledge, erase · admin: keys."""

WRITE_KEY, SECRET_KEY = "write", "secret"
_LETTER = {WRITE_KEY: "w", SECRET_KEY: "s"}
_KIND = {letter: kind for kind, letter in _LETTER.items()}

ID_BYTES, SECRET_BYTES = 8, 32
KEY_RANDOM_BYTES = ID_BYTES + SECRET_BYTES
"""How many random bytes `new_key` needs."""

KEY_TEXT_LENGTH = len("rk_w_") + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES
_NOBODY = bytes(32)


class MissingScope(NotAllowed):
    """The key is good, but not for this: ask an administrator for one with the scope named in the message."""

    code = "missing_scope"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """One key that doors sealed to: since when, until its successor was told, and when it was destroyed (epoch ms)."""

    name: str
    since: int
    until: int | None = None
    destroyed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace as its definition says: time zone, phone region, and the public key personal data is sealed to.

    `sealing_keys`: every key it ever had, oldest first; the last one is in use.
    """

    name: str
    time_zone: str
    region: str
    sealing_key: str
    sealing_public: bytes
    created_at: int
    sealing_keys: tuple[SealingKey, ...] = ()

    @property
    def destroyed_keys(self) -> frozenset[str]:
        """Names of the keys that open nothing any more."""
        return frozenset(key.name for key in self.sealing_keys if key.destroyed_at is not None)


@dataclass(frozen=True, slots=True)
class Key:
    """One key without its secret. `revoked_at` None: it opens what its scopes say."""

    key_id: str
    workspace: str
    source: str
    kind: str
    scopes: frozenset[str]
    label: str
    created_at: int
    digest: bytes = field(repr=False)
    revoked_at: int | None = None

    @property
    def trust(self) -> int:
        """Trust of what this key brings: PUBLIC for a write key, SECRET for a secret one."""
        return SECRET if self.kind == SECRET_KEY else PUBLIC

    def require(self, scope: str) -> "Key":
        """This key when it has `scope`. Raises MissingScope."""
        if scope not in self.scopes:
            raise MissingScope(f"this key lacks the scope {scope!r}; make one with it by POST /v1/keys")
        return self


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what, as far as the topic was read. `Access()` knows nobody."""

    workspaces: Mapping[str, Workspace] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)

    def evolve(self, fact: Fact) -> "Access":
        """The access after `fact`; facts about other things change nothing.

        A workspace keeps its time zone and birth, a key id its first key for ever: a repeat of either, with other
        content, is no way to take over what exists. A workspace's sealing key and region follow the last definition.
        """
        if isinstance(fact, WorkspaceDefined):
            return replace(self, workspaces={**self.workspaces, fact.workspace: self._workspace(fact)})
        if isinstance(fact, KeyCreated) and fact.key_id not in self.keys:
            return replace(self, keys={**self.keys, fact.key_id: _key(fact)})
        if isinstance(fact, KeyRevoked):
            return self._revoked(fact)
        if isinstance(fact, SealingKeyDestroyed):
            return self._destroyed(fact)
        return self

    def key(self, presented: str) -> Key | None:
        """The live key whose text was presented, or None for anything else.

        Looked up by its public id, then compared in constant time; an unknown id costs the same comparison.
        """
        kind, key_id, secret = _parts(presented)
        key = self.keys.get(key_id)
        digest = sha256(secret.encode("utf-8", "replace")).digest()
        matches = hmac.compare_digest(digest, key.digest if key else _NOBODY)
        if key is None or not matches or key.kind != kind or key.revoked_at is not None:
            return None
        return key if key.workspace in self.workspaces else None

    @property
    def first_workspace(self) -> str:
        """The workspace that was defined first: its administrators run the house. "" while there is none."""
        return next(iter(self.workspaces), "")

    def keys_of(self, workspace: str) -> list[Key]:
        """All keys of a workspace, revoked ones too, oldest first."""
        return sorted((k for k in self.keys.values() if k.workspace == workspace), key=lambda k: k.created_at)

    def _workspace(self, fact: WorkspaceDefined) -> Workspace:
        first = self.workspaces.get(fact.workspace)
        return Workspace(
            name=fact.workspace,
            time_zone=first.time_zone if first else fact.time_zone,
            region=fact.region,
            sealing_key=fact.sealing_key,
            sealing_public=fact.sealing_public,
            created_at=first.created_at if first else fact.created_at,
            sealing_keys=_sealing_keys(first.sealing_keys if first else (), fact),
        )

    def _destroyed(self, fact: SealingKeyDestroyed) -> "Access":
        """The key in use cannot be destroyed: doors seal to it."""
        workspace = self.workspaces.get(fact.workspace)
        if workspace is None or fact.name == workspace.sealing_key:
            return self
        keys = tuple(
            replace(key, destroyed_at=fact.destroyed_at) if key.name == fact.name and key.destroyed_at is None else key
            for key in workspace.sealing_keys
        )
        return replace(self, workspaces={**self.workspaces, fact.workspace: replace(workspace, sealing_keys=keys)})

    def _revoked(self, fact: KeyRevoked) -> "Access":
        key = self.keys.get(fact.key_id)
        if key is None or key.workspace != fact.workspace or key.revoked_at is not None:
            return self
        return replace(self, keys={**self.keys, key.key_id: replace(key, revoked_at=fact.revoked_at)})


def new_key(
    kind: str, workspace: str, source: str, scopes: tuple[str, ...], label: str, now: int, random: bytes
) -> tuple[KeyCreated, str]:
    """A new key: the fact to append, and the text to show once and forget.

    `kind` is write or secret; a write key has the scope `write` and no other · `now` epoch milliseconds ·
    `random`: KEY_RANDOM_BYTES bytes from the system's generator. Raises InvalidField.
    """
    _check(kind, source, scopes)
    if len(random) != KEY_RANDOM_BYTES:
        raise ValueError(f"a key needs {KEY_RANDOM_BYTES} random bytes")
    key_id, secret = random[:ID_BYTES].hex(), random[ID_BYTES:].hex()
    digest = sha256(secret.encode()).digest()
    fact = KeyCreated(workspace, key_id, digest, kind, source, tuple(sorted(set(scopes))), label, now)
    return fact, f"rk_{_LETTER[kind]}_{key_id}_{secret}"


def _check(kind: str, source: str, scopes: tuple[str, ...]) -> None:
    if kind not in _LETTER:
        raise InvalidField("kind", "is `write` (public, for websites) or `secret` (for your own systems)")
    if not source:
        raise InvalidField("source", "names what sends with this key, for example `website`")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidField("scopes", f"are one or more of {', '.join(SCOPES)}")
    if kind == WRITE_KEY and set(scopes) != {WRITE}:
        raise InvalidField("scopes", "a write key is public and can only have `write`; make a secret key instead")


def _sealing_keys(known: tuple[SealingKey, ...], fact: WorkspaceDefined) -> tuple[SealingKey, ...]:
    """The keys once `fact` names the one in use. One that was told before never comes into use again as another."""
    if any(key.name == fact.sealing_key for key in known):
        return known
    ended = tuple(key if key.until is not None else replace(key, until=fact.created_at) for key in known)
    return (*ended, SealingKey(fact.sealing_key, since=fact.created_at))


def _key(fact: KeyCreated) -> Key:
    scopes = frozenset(fact.scopes) & {WRITE} if fact.kind == WRITE_KEY else frozenset(fact.scopes)
    return Key(
        fact.key_id, fact.workspace, fact.source, fact.kind, scopes, fact.label, fact.created_at, fact.digest
    )  # fmt: skip


def _parts(presented: str) -> tuple[str, str, str]:
    """Kind, id and secret of a key's text; ("", "", …) for anything else."""
    parts = presented.split("_", 3)
    if len(presented) != KEY_TEXT_LENGTH or len(parts) != 4 or parts[0] != "rk":
        return "", "", presented[:KEY_TEXT_LENGTH]
    return _KIND.get(parts[1], ""), parts[2], parts[3]
