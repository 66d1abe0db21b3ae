"""Backing up a running embedded house: one instant of all its files, copied, checked, and signed off by a manifest.

The manifest is written last: a folder without one is no backup.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from services.backup.cut import one_instant
from services.backup.manifest import (
    FILE_NAME,
    FORMAT,
    Manifest,
    SavedDatabase,
    SavedFile,
    SavedTopic,
    Unusable,
    contradictions,
    to_bytes,
)
from services.backup.reading import (
    KEYS_FOLDER,
    check_pages,
    database_in,
    databases_of,
    keys_in,
    still,
    topic_in,
    topics_of,
)
from services.local_access import FILE_NAME as ACCESS_FILE
from services.local_access import FOLDER_OWNER_ONLY, OWNER_ONLY
from shared.clock import Clock
from shared.keyring import Keyring
from shared.settings import HouseSettings

COPY_PAGES = 4096
SPARE_BYTES = 64 << 20
HASHED_BYTES = 1 << 20

Told = Callable[[str, int, int], None]
"""Progress: (file, bytes done of all, bytes of all)."""


@dataclass(slots=True)
class _Progress:
    """Counts bytes over all files and tells of them."""

    total_bytes: int
    told: Told
    done_bytes: int = 0

    def of_file(self, name: str, page_bytes: int) -> Callable[[int, int, int], None]:
        """What SQLite's backup calls: (status, pages left, pages of the file)."""
        before = self.done_bytes

        def copied(_status: int, left: int, pages: int) -> None:
            self.done_bytes = before + (pages - left) * page_bytes
            self.told(name, self.done_bytes, max(self.total_bytes, self.done_bytes))

        return copied


def back_up(settings: HouseSettings, folder: Path, clock: Clock, told: Told, with_keys: bool = False) -> Manifest:
    """Write a backup of the house into `folder` (new or empty) while it runs or stands still; returns its manifest.

    Raises Unusable for a house that is not embedded or not here and for a folder that cannot take it, NotAccepting
    where the house is too busy. What was begun is removed when it fails.
    """
    _check_house(settings)
    _check_folder(settings, folder)
    keys = keys_in(Keyring(settings.data_dir))
    databases, topics = databases_of(settings.data_dir), topics_of(settings)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
    with _removed_on_failure(folder, made):
        folder.chmod(FOLDER_OWNER_ONLY)
        paths = [*databases, *topics]
        check_space(sum(map(_size_with_wal, paths)), folder)
        with one_instant(paths, clock) as readers:
            taken_at = clock.now_ms()
            _copy_all(settings.data_dir, folder, readers, told)
        if with_keys:
            _copy_keys(settings.data_dir, folder)
        saved_topics = {path.stem: _described_topic(folder / path.relative_to(settings.data_dir)) for path in topics}
        saved_databases = {path.stem: _described(folder / path.name) for path in databases}
        if wrong := contradictions(saved_topics, saved_databases):
            raise Unusable(f"the house contradicts itself: {'; '.join(wrong)}; run `raftar doctor`")
        manifest = Manifest(
            format=FORMAT,
            raftar=version("raftar"),
            sqlite=sqlite3.sqlite_version,
            taken_at=taken_at,
            workspace=settings.workspace,
            partitions=len(saved_topics["touchpoints"].bounds),
            with_keys=with_keys,
            files=tuple(described(folder, path) for path in _files_in(folder)),
            topics=saved_topics,
            databases=saved_databases,
            keys=keys,
        )
        write_flushed(folder / FILE_NAME, to_bytes(manifest))
        flush_folders(folder)
    return manifest


def described(folder: Path, path: Path) -> SavedFile:
    """Path, size and checksum of one file below `folder`."""
    return SavedFile(path.relative_to(folder).as_posix(), path.stat().st_size, checksum(path))


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    total = sha256()
    with path.open("rb") as file:
        while block := file.read(HASHED_BYTES):
            total.update(block)
    return total.hexdigest()


def new_private_file(path: Path) -> int:
    """A descriptor of a fresh file of mode 600, its folders made with mode 700."""
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir(mode=FOLDER_OWNER_ONLY)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)


def write_flushed(path: Path, data: bytes) -> None:
    """A new private file with this content, on disk before this returns."""
    with os.fdopen(new_private_file(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folders(folder: Path) -> None:
    """A power cut must not take back the names of files in `folder` and below."""
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        flush(path)


def flush(path: Path) -> None:
    """Put a file or folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(needed_bytes: int, folder: Path) -> None:
    """Raise Unusable where `folder`'s disk has not this much to spare."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise Unusable(
            f"{folder} has {free >> 20} MiB free, {(needed_bytes + SPARE_BYTES) >> 20} MiB are needed: "
            "make room, or choose another disk"
        )


def _check_house(settings: HouseSettings) -> None:
    if settings.kafka_bootstrap or settings.database_url:
        raise Unusable(
            "this house stands on Kafka or PostgreSQL: their own tools back them up, in this order: pg_dump of the "
            "schemas profiles and scoring, then the topics, then the keys folder; see docs/how-to/backup.md"
        )
    if not (settings.log_dir / "touchpoints.sqlite").exists():
        raise Unusable(f"there is no house in {settings.data_dir}: name its folder with RAFTAR_DATA_DIR")


def _check_folder(settings: HouseSettings, folder: Path) -> None:
    inside, home = folder.resolve(), settings.data_dir.resolve()
    if inside == home or home in inside.parents:
        raise Unusable(f"{folder} lies in the data folder: what takes one takes both; choose a folder elsewhere")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Unusable(f"{folder} is not empty: name a new folder for each backup")


def _size_with_wal(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


@contextmanager
def _removed_on_failure(folder: Path, made: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in list(folder.iterdir()):  # it was empty before us
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if made:
            folder.rmdir()
        raise


def _copy_all(data_dir: Path, folder: Path, readers: Mapping[Path, sqlite3.Connection], told: Told) -> None:
    page_bytes = {path: int(reader.execute("PRAGMA page_size").fetchone()[0]) for path, reader in readers.items()}
    pages = {path: int(reader.execute("PRAGMA page_count").fetchone()[0]) for path, reader in readers.items()}
    progress = _Progress(sum(pages[path] * page_bytes[path] for path in readers), told)
    for path, reader in readers.items():
        target = folder / path.relative_to(data_dir)
        os.close(new_private_file(target))
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode=OFF")  # nobody else reads it yet; a failure removes it
            copy.execute("PRAGMA synchronous=OFF")  # flushed below, once
            reader.backup(copy, pages=COPY_PAGES, progress=progress.of_file(target.name, page_bytes[path]))
        flush(target)


def _copy_keys(data_dir: Path, folder: Path) -> None:
    for path in sorted((data_dir / KEYS_FOLDER).rglob("*")):
        if path.is_file():
            write_flushed(folder / path.relative_to(data_dir), path.read_bytes())
    access = data_dir / ACCESS_FILE
    if access.exists():
        write_flushed(folder / ACCESS_FILE, access.read_bytes())


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _described_topic(path: Path) -> SavedTopic:
    with still(path) as connection:
        check_pages(connection, path.name)
        return topic_in(connection)


def _described(path: Path) -> SavedDatabase:
    with still(path) as connection:
        check_pages(connection, path.name)
        return database_in(connection)
