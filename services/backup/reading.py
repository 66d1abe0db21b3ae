"""What SQLite files say of themselves: a topic its identity and bounds, a database its checkpoints and revision."""

import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from services.backup.manifest import SavedCheckpoint, SavedDatabase, SavedKeys, SavedTopic, Unusable
from shared.keyring import Keyring
from shared.settings import HouseSettings

SQLITE_HEAD = b"SQLite format 3\0"
LOG_FOLDER, KEYS_FOLDER = "log", "keys"


def databases_of(data_dir: Path) -> list[Path]:
    """The database files of a house, sorted."""
    return sorted(path for path in data_dir.glob("*.db") if is_sqlite(path))


def topics_of(settings: HouseSettings) -> list[Path]:
    """The topics' files of a house, sorted so that the door's (`touchpoints`) comes last."""
    found = (path for path in settings.log_dir.glob("*.sqlite") if is_sqlite(path))
    return sorted(found, key=lambda path: (path.stem == "touchpoints", path.name))


def is_sqlite(path: Path) -> bool:
    """Whether the file begins as SQLite's do."""
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEAD)) == SQLITE_HEAD


@contextmanager
def still(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection on a file that nobody writes: it leaves nothing beside it. Raises Unusable for a damaged file."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    except sqlite3.DatabaseError as error:
        raise Unusable(f"{path} cannot be read ({error}): use another backup") from error
    finally:
        connection.close()


def check_pages(connection: sqlite3.Connection, name: str) -> None:
    """Raise Unusable where SQLite finds the file's pages damaged."""
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise Unusable(f"{name} is damaged ({said}): use another backup")


def topic_in(connection: sqlite3.Connection) -> SavedTopic:
    """Identity and bounds of the topic in this file."""
    (identity,) = connection.execute("SELECT identity FROM meta").fetchone()
    following, earliest = connection.execute("SELECT next, earliest FROM head").fetchone()
    return SavedTopic(identity, tuple(zip(array("q", earliest), array("q", following), strict=True)))


def database_in(connection: sqlite3.Connection) -> SavedDatabase:
    """Revision, checkpoints and waiting facts of the database in this file."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    revision = connection.execute("SELECT version_num FROM alembic_version").fetchone() if _VERSION in tables else None
    rows = (
        connection.execute(
            "SELECT topic, partition, position, last_position, log_identity FROM checkpoint ORDER BY topic, partition"
        ).fetchall()
        if "checkpoint" in tables
        else []
    )
    (outbox_rows,) = connection.execute("SELECT count(*) FROM outbox").fetchone() if "outbox" in tables else (0,)
    return SavedDatabase(revision[0] if revision else "", tuple(SavedCheckpoint(*row) for row in rows), outbox_rows)


_VERSION = "alembic_version"


def keys_in(keyring: Keyring) -> dict[str, SavedKeys]:
    """Fingerprints of the keys of every workspace. Raises Stopped for a workspace that lost its leaf secret."""
    return {
        workspace: SavedKeys(
            blake2b(keyring.leaf_secret(workspace), digest_size=8, person=b"raftar-backup").hexdigest(),
            tuple(sorted(keyring.private_keys(workspace))),
        )
        for workspace in keyring.workspaces()
    }
