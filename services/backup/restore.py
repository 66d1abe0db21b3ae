"""Putting a backup into an empty data folder: checked before, while and after it is copied, and seen when interrupted.

Files are copied under other names and take their own at the end, databases first, then the log; a mark stands in the
folder until all is there, and no house starts beside it.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from migrations import SERVICES, revisions
from services.backup.manifest import FILE_NAME, Manifest, SavedFile, Unusable, contradictions, from_bytes
from services.backup.reading import KEYS_FOLDER, LOG_FOLDER, check_pages, database_in, keys_in, still, topic_in
from services.backup.save import HASHED_BYTES, Told, check_space, flush_folders, new_private_file, write_flushed
from services.first_start import UNFINISHED_RESTORE
from services.local_access import FOLDER_OWNER_ONLY
from shared.keyring import Keyring

_DRAFT = ".restoring"
_MARK = b"What was being put into this folder is not whole. Remove the folder, then do it again.\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises Unusable where it is missing or damaged."""
    try:
        data = (folder / FILE_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unusable(f"{folder} has no {FILE_NAME}: it is no backup, or one that was not finished") from error
    return from_bytes(data)


def check(folder: Path, told: Told) -> Manifest:
    """Read the whole backup, write nothing: every file is there and is what was written. Raises Unusable."""
    manifest = read_manifest(folder)
    done = 0
    for file in manifest.files:
        path = _source(folder, file)
        total = sha256()
        with path.open("rb") as opened:
            while block := opened.read(HASHED_BYTES):
                total.update(block)
                done += len(block)
                told(file.path, done, manifest.size_bytes)
        _compare(file, total.hexdigest())
        _check_inside(path, file)
    _check_positions(manifest, folder, "")
    return manifest


def restore(folder: Path, data_dir: Path, told: Told, keys: Path | None = None) -> Manifest:
    """Put the backup in `folder` into `data_dir`, which is missing, empty, or holds nothing but `keys/`.

    `keys`: a keys folder kept elsewhere, for a backup made without them. Raises Unusable before the first byte where
    that can be known; a failure later leaves a folder that no house starts on.
    """
    manifest = read_manifest(folder)
    for file in manifest.files:
        _source(folder, file)
    _check_revisions(manifest)
    _check_target(data_dir, with_keys=manifest.with_keys or keys is not None)
    if keys is not None:
        _check_keys(keys, manifest)
    check_space(manifest.size_bytes, _existing(data_dir))
    unfinished(data_dir)
    _copy_drafts(folder, data_dir, manifest, told)
    _check_positions(manifest, data_dir, _DRAFT)
    for file in _in_order(manifest.files):
        target = data_dir / file.path
        _draft(data_dir, file).replace(target)
    if keys is not None:
        _copy_keys(keys, data_dir / KEYS_FOLDER)
    finished(data_dir)
    return manifest


def unfinished(data_dir: Path) -> None:
    """Make the folder and mark it: no house starts on it until it is `finished`."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
    write_flushed(data_dir / UNFINISHED_RESTORE, _MARK)
    flush_folders(data_dir)


def finished(data_dir: Path) -> None:
    """All is in the folder and on disk: a house may start on it."""
    flush_folders(data_dir)
    (data_dir / UNFINISHED_RESTORE).unlink()
    flush_folders(data_dir)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def missing_keys(manifest: Manifest, data_dir: Path) -> list[str]:
    """What is still to be done about keys, one sentence each; [] when all that belong to the backup are here."""
    keyring = Keyring(data_dir)
    said = []
    for workspace, saved in sorted(manifest.keys.items()):
        home = data_dir / KEYS_FOLDER / workspace
        if workspace not in keyring.workspaces():
            said.append(f"the keys of workspace {workspace} are not in this backup: copy them to {home}")
            continue
        here = keys_in(keyring)[workspace]
        if here.leaf_secret != saved.leaf_secret:
            said.append(f"{home / 'leaf.secret'} is not the one of this backup: nobody would be recognised; replace it")
        if lost := sorted(set(saved.private) - set(here.private)):
            said.append(f"{home / 'sealing'} lacks {', '.join(lost)}: what was sealed to them stays unreadable")
    return said


def _source(folder: Path, file: SavedFile) -> Path:
    path = folder / file.path
    parts = Path(file.path).parts
    if Path(file.path).is_absolute() or ".." in parts:
        raise Unusable(f"{FILE_NAME} names {file.path}, which lies outside the backup: use another backup")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise Unusable(f"{path} is missing: this backup is not whole, use another") from error
    if size != file.size_bytes:
        raise Unusable(f"{path} has {size} bytes, {file.size_bytes} were written: use another backup")
    return path


def _check_revisions(manifest: Manifest) -> None:
    for service in sorted(set(SERVICES) & manifest.databases.keys()):
        revision = manifest.databases[service].revision
        if revision not in revisions(service):
            raise Unusable(
                f"the {service} tables in this backup are of revision {revision}, which this version does not know: "
                f"restore it with Raftar {manifest.raftar} or newer"
            )


def _check_target(data_dir: Path, with_keys: bool) -> None:
    if not data_dir.exists():
        return
    if (data_dir / UNFINISHED_RESTORE).exists():
        raise Unusable(f"a restore into {data_dir} was not finished: remove the folder, then restore again")
    found = {path.name for path in data_dir.iterdir()}
    if found - {KEYS_FOLDER} or (with_keys and found):
        raise Unusable(
            f"{data_dir} is not empty ({', '.join(sorted(found)[:4])}): nothing is ever overwritten; move it away, or "
            "name another folder with RAFTAR_DATA_DIR"
        )


def _check_keys(keys: Path, manifest: Manifest) -> None:
    if manifest.with_keys:
        raise Unusable("this backup has its keys in it: leave --keys out")
    if absent := sorted(name for name in manifest.keys if not (keys / name / "leaf.secret").exists()):
        raise Unusable(f"{keys} has no keys of {', '.join(absent)}: name the folder that was called `keys`")


def _copy_drafts(folder: Path, data_dir: Path, manifest: Manifest, told: Told) -> None:
    done = 0
    for file in manifest.files:
        total = sha256()
        target = _draft(data_dir, file)
        with (folder / file.path).open("rb") as source, os.fdopen(new_private_file(target), "wb") as copy:
            while block := source.read(HASHED_BYTES):
                total.update(block)
                copy.write(block)
                done += len(block)
                told(file.path, done, manifest.size_bytes)
            copy.flush()
            os.fsync(copy.fileno())
        _compare(file, total.hexdigest())
        _check_inside(target, file)


def _draft(data_dir: Path, file: SavedFile) -> Path:
    return data_dir / f"{file.path}{_DRAFT}"


def _compare(file: SavedFile, found: str) -> None:
    if found != file.sha256:
        raise Unusable(f"{file.path} is not what was written (its checksum differs): use another backup")


def _check_inside(path: Path, file: SavedFile) -> None:
    if file.path.endswith((".db", ".sqlite")):
        with still(path) as connection:
            check_pages(connection, file.path)


def _check_positions(manifest: Manifest, folder: Path, suffix: str) -> None:
    """The files themselves must say what the manifest says of them, and each log must carry its checkpoints."""
    topics = {}
    for name, saved in manifest.topics.items():
        with still(folder / LOG_FOLDER / f"{name}.sqlite{suffix}") as connection:
            topics[name] = topic_in(connection)
        if topics[name] != saved:
            raise Unusable(f"topic {name} is another than {FILE_NAME} says: use another backup")
    databases = {}
    for name in manifest.databases:
        with still(folder / f"{name}.db{suffix}") as connection:
            databases[name] = database_in(connection)
    if wrong := contradictions(topics, databases):
        raise Unusable(f"the databases are ahead of the log: {'; '.join(wrong)}; use another backup")


def _in_order(files: Sequence[SavedFile]) -> list[SavedFile]:
    """State first, then the log, the door's topic last: whatever a crash leaves lacks its log, and no house starts."""
    return sorted(files, key=lambda file: (file.path.startswith(LOG_FOLDER), "touchpoints." in file.path, file.path))


def _copy_keys(keys: Path, target: Path) -> None:
    for path in sorted(keys.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            write_flushed(target / path.relative_to(keys), path.read_bytes())
    with suppress(FileNotFoundError):
        shutil.copymode(keys, target)
