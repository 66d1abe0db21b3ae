"""What a backup says of itself: versions, files with checksums, where each log ends and how far each service folded.

Pure: the two places that write and read it (`save`, `restore`) hand in what they found.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec

from shared.errors import RaftarError

FORMAT = 1
FILE_NAME = "manifest.json"


class Unusable(RaftarError):
    """This backup, or this folder, cannot be used so; the message says what to do."""


class SavedFile(msgspec.Struct, frozen=True):
    """One file: its path below the data folder, its size and SHA-256."""

    path: str
    size_bytes: int
    sha256: str


class SavedTopic(msgspec.Struct, frozen=True):
    """One topic: the log's own id of it, and `[earliest, end]` of each partition."""

    identity: str
    bounds: tuple[tuple[int, int], ...]


class SavedCheckpoint(msgspec.Struct, frozen=True):
    """How far a service folded a partition, of which log; `last_position` is -1 where it folded nothing yet."""

    topic: str
    partition: int
    position: int
    last_position: int
    log_identity: str


class SavedDatabase(msgspec.Struct, frozen=True):
    """One database: the revision of its tables ("" where it has none), its checkpoints, facts not yet relayed."""

    revision: str
    checkpoints: tuple[SavedCheckpoint, ...]
    outbox_rows: int


class SavedKeys(msgspec.Struct, frozen=True):
    """Keys of a workspace: a fingerprint of its leaf secret and the names of its private sealing keys."""

    leaf_secret: str
    private: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True):
    """The whole backup. `keys` says which keys belong to it; `with_keys`: whether they lie in it."""

    format: int
    raftar: str
    sqlite: str
    taken_at: int
    workspace: str
    partitions: int
    with_keys: bool
    files: tuple[SavedFile, ...]
    topics: dict[str, SavedTopic]
    databases: dict[str, SavedDatabase]
    keys: dict[str, SavedKeys]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


class _Sealed(msgspec.Struct, frozen=True):
    """The file as it lies on disk: the manifest's own bytes and their checksum."""

    sha256: str
    manifest: msgspec.Raw


def to_bytes(manifest: Manifest) -> bytes:
    """The manifest as readable JSON that notices its own damage."""
    return msgspec.json.format(msgspec.json.encode({"sha256": _checksum(manifest), "manifest": manifest})) + b"\n"


def from_bytes(data: bytes) -> Manifest:
    """The inverse of `to_bytes`. Raises Unusable for a damaged manifest or one of a newer format."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        form = msgspec.json.decode(sealed.manifest, type=dict[str, object]).get("format")
        if form != FORMAT:
            raise Unusable(f"this backup has format {form}, this Raftar reads format {FORMAT}: use a newer Raftar")
        manifest = msgspec.json.decode(sealed.manifest, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Unusable(f"{FILE_NAME} is damaged ({error}): use another backup") from error
    if _checksum(manifest) != sealed.sha256:
        raise Unusable(f"{FILE_NAME} is not what was written (its checksum differs): use another backup")
    return manifest


def _checksum(manifest: Manifest) -> str:
    return sha256(msgspec.json.encode(manifest, order="deterministic")).hexdigest()


def contradictions(topics: Mapping[str, SavedTopic], databases: Mapping[str, SavedDatabase]) -> list[str]:
    """Every checkpoint the logs do not carry: another log, or one that ends before what was folded; [] when all fit.

    A log may be ahead of the databases, never behind them: what it lacks could not be folded again.
    """
    wrong: list[str] = []
    for service, database in sorted(databases.items()):
        for held in database.checkpoints:
            wrong += _contradictions(service, held, topics.get(held.topic))
    return wrong


def _contradictions(service: str, held: SavedCheckpoint, topic: SavedTopic | None) -> Sequence[str]:
    place = f"{service} folded {held.topic}/{held.partition}"
    if topic is None:
        return [f"{place}, a log that is not here"]
    if topic.identity != held.log_identity:
        return [f"{place} of log {held.log_identity}, here is log {topic.identity}"]
    if not held.partition < len(topic.bounds):
        return [f"{place}, the log has {len(topic.bounds)} partitions"]
    end = topic.bounds[held.partition][1]
    if held.position > end:
        return [f"{place} up to {held.position}, the log ends at {end}"]
    return []
