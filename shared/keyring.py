"""Keys on disk: each workspace's leaf secret and sealing key pairs, made once, never overwritten, mode 600.

`<data>/keys/<workspace>/leaf.secret` turns identifiers into leaves: losing it means that no returning customer is
recognised again. `<data>/keys/<workspace>/sealing/<name>.private` opens personal data: losing it means that what
was sealed to it can never be read again. Back the folder up; destroy a private key only on purpose.
"""

import os
import re
from hashlib import blake2b
from pathlib import Path

from nacl.public import PrivateKey
from nacl.utils import random

from shared.errors import InvalidField, Stopped

KEY_BYTES = 32
_WORKSPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NAME = re.compile(r"[0-9]{4,9}-[0-9a-f]{1,64}")


class KeyMissing(Stopped):
    """A key file is not here, or not a key; the message says what to do next."""


class Keyring:
    """The keys below one data folder. Every call reads the disk: what was destroyed is gone at once."""

    def __init__(self, data_dir: Path) -> None:
        """Makes nothing; `create` does."""
        self._folder = Path(data_dir) / "keys"

    def create(self, workspace: str) -> None:
        """Make the workspace's leaf secret and first sealing pair where missing; safe to repeat and to crash in.

        Raises InvalidField for a name that is not 1–63 of a-z 0-9 _ -, KeyMissing where sealing keys are here but the
        leaf secret is not: a new secret would silently cut every customer off from their past.
        """
        home = self._home(workspace)
        sealing = home / "sealing"
        for folder in (self._folder, home, sealing):
            _make_private_folder(folder)
        secret = home / "leaf.secret"
        sealed_before = any(sealing.glob("*.public"))  # asked first: whoever adds a pair has written the secret before
        if not secret.exists():
            if sealed_before:
                raise KeyMissing(_missing(secret, f"workspace {workspace!r} has sealing keys but lost its leaf secret"))
            _write_once(secret, random(KEY_BYTES))
        if not any(sealing.glob("*.public")):
            self._add_pair(sealing, 1)

    def rotate(self, workspace: str) -> tuple[str, bytes]:
        """Add a sealing pair behind the newest one; returns its name and public half. Raises KeyMissing.

        Nothing seals to it before doors hear of it (`WorkspaceDefined`), so a crash in between leaves a pair to use.
        """
        folder = self._home(workspace) / "sealing"
        number = int(self.sealing_public(workspace)[0].partition("-")[0]) + 1
        self._add_pair(folder, number)
        return self.sealing_public(workspace)

    def destroy(self, workspace: str, name: str) -> bool:
        """Overwrite and delete a private key; its public half stays, and says that it was here. False: it was not here.

        A crash in the middle leaves a file that is no key any more, or the whole one: destroying again finishes.
        """
        path = self._home(workspace) / "sealing" / f"{_known_name(name)}.private"
        try:
            with path.open("r+b", buffering=0) as file:
                file.write(random(KEY_BYTES))
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
        path.unlink(missing_ok=True)  # another process may destroy it at the same moment
        _sync_folder(path.parent)
        return True

    def sealing_names(self, workspace: str) -> list[str]:
        """Names of every sealing key that is or was here, oldest first."""
        return sorted(path.stem for path in (self._home(workspace) / "sealing").glob("*.public"))

    def leaf_secret(self, workspace: str) -> bytes:
        """The 32 bytes that make leaves of identifiers. Raises KeyMissing."""
        return _read(self._home(workspace) / "leaf.secret", workspace)

    def sealing_public(self, workspace: str) -> tuple[str, bytes]:
        """Name and 32 bytes of the newest sealing key, the one doors seal to. Raises KeyMissing."""
        folder = self._home(workspace) / "sealing"
        newest = max(folder.glob("*.public"), default=folder / "0001.public", key=lambda path: path.name)
        return newest.stem, _read(newest, workspace)

    def private_keys(self, workspace: str) -> dict[str, bytes]:
        """Name → 32 bytes of every private key still here; {} where all were destroyed. Raises KeyMissing for a file
        that is no key."""
        paths = sorted((self._home(workspace) / "sealing").glob("*.private"))
        return {path.stem: _read(path, workspace) for path in paths}

    def workspaces(self) -> list[str]:
        """Names of the workspaces that have a folder here, sorted."""
        return sorted(path.name for path in self._folder.glob("*") if path.is_dir())

    def _home(self, workspace: str) -> Path:
        if not _WORKSPACE.fullmatch(workspace):
            raise InvalidField("workspace", "use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit")
        return self._folder / workspace

    def _add_pair(self, folder: Path, number: int) -> None:
        """Private half first: a public key without its private half would seal what nobody can open."""
        private = PrivateKey.generate()
        public = bytes(private.public_key)
        name = f"{number:04d}-{blake2b(public, digest_size=6).hexdigest()}"
        _write_once(folder / f"{name}.private", bytes(private))
        _write_once(folder / f"{name}.public", public)


def _known_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidField("name", "is no sealing key's name, as `raftar keys sealing` lists them")
    return name


def _make_private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write_once(path: Path, content: bytes) -> None:
    """Whole or not at all, on disk before this returns; a file that exists wins (another process was first)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{random(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, workspace: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise KeyMissing(_missing(path, f"workspace {workspace!r} has no key here")) from error
    if len(content) != KEY_BYTES:
        raise KeyMissing(_missing(path, f"this file has {len(content)} bytes, a key has {KEY_BYTES}"))
    return content


def _missing(path: Path, what: str) -> str:
    return (
        f"{path}: {what}; restore the keys folder from its backup, or, for a workspace that never had data, "
        "run `python -m services init`"
    )
