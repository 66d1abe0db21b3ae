"""A backup is one instant of files that are being written; a restore puts exactly that back, or says why not."""

import json
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.__main__ import main
from services.all_in_one import migrate
from services.backup.cut import one_instant
from services.backup.manifest import Manifest, Unusable
from services.backup.restore import check, missing_keys, restore
from services.backup.save import back_up
from services.cli import app
from services.first_start import UNFINISHED_RESTORE, first_start
from shared.clock import SystemClock
from shared.errors import NotAccepting, Stopped
from shared.keyring import Keyring
from shared.settings import HouseSettings

CLOCK = SystemClock()
ROUNDS_SEEN = 200


def quiet(_file: str, _done: int, _total: int) -> None:
    """Nobody watches the progress."""


@pytest.fixture
async def settings(tmp_path: Path) -> HouseSettings:
    """A house that was started once: tables, topics, keys, one workspace."""
    made = HouseSettings(data_dir=tmp_path / "data", partitions=4, kafka_bootstrap="", database_url="")
    await migrate(made)
    await first_start(made, CLOCK)
    return made


def saved(settings: HouseSettings, folder: Path, **options: bool) -> Manifest:
    return back_up(settings, folder, CLOCK, quiet, **options)


def test_one_instant_of_files_that_are_written_in_turn(tmp_path: Path) -> None:
    """A writer raises a number in the first file, then in the second: one instant never shows the second ahead."""
    paths = [tmp_path / name for name in ("first.db", "second.db")]
    for path in paths:
        with closing(sqlite3.connect(path)) as made:
            made.executescript("PRAGMA journal_mode=WAL; CREATE TABLE n (n INTEGER); INSERT INTO n VALUES (0);")
    stop = threading.Event()

    def write() -> None:
        with (
            closing(sqlite3.connect(paths[0], timeout=30)) as one,
            closing(sqlite3.connect(paths[1], timeout=30)) as two,
        ):
            while not stop.is_set():
                for connection in (one, two):
                    with connection:
                        connection.execute("UPDATE n SET n = n + 1")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = []
        for _ in range(ROUNDS_SEEN):
            with one_instant(paths, CLOCK) as readers:
                seen.append(tuple(readers[path].execute("SELECT n FROM n").fetchone()[0] for path in paths))
    finally:
        stop.set()
        writer.join()
    assert all(first - second in (0, 1) for first, second in seen)
    assert len(set(seen)) > 1, "nothing was written meanwhile"


def test_a_file_that_is_never_free_is_said_and_all_locks_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.backup.cut.HELD_SECONDS_MAX", 0.02)
    monkeypatch.setattr("services.backup.cut.ATTEMPTS_MAX", 2)
    free, taken = tmp_path / "free.db", tmp_path / "taken.db"
    for path in (free, taken):
        with closing(sqlite3.connect(path)) as made:
            made.executescript("PRAGMA journal_mode=WAL; CREATE TABLE n (n INTEGER);")
    with closing(sqlite3.connect(taken, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotAccepting, match="too busy"), one_instant([free, taken], CLOCK):
            pass
        with closing(sqlite3.connect(free, isolation_level=None, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")


def test_what_was_backed_up_is_put_back_byte_for_byte(settings: HouseSettings, tmp_path: Path) -> None:
    manifest = saved(settings, tmp_path / "backup")
    fresh = tmp_path / "fresh"
    assert restore(tmp_path / "backup", fresh, quiet, settings.data_dir / "keys") == manifest
    assert {path.name for path in fresh.iterdir()} == {"profiles.db", "scoring.db", "log", "keys"}
    for path in (tmp_path / "backup").rglob("*.[ds][bq]*"):
        assert path.read_bytes() == (fresh / path.relative_to(tmp_path / "backup")).read_bytes()
    assert Keyring(fresh).leaf_secret("main") == Keyring(settings.data_dir).leaf_secret("main")
    assert missing_keys(manifest, fresh) == []


def test_nobody_else_may_read_a_backup_or_what_was_restored(settings: HouseSettings, tmp_path: Path) -> None:
    saved(settings, tmp_path / "backup", with_keys=True)
    restore(tmp_path / "backup", tmp_path / "fresh", quiet)
    for folder in (tmp_path / "backup", tmp_path / "fresh"):
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
        assert {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")] if path.is_dir()} == {0o700}


def test_keys_lie_in_a_backup_only_when_asked_for(settings: HouseSettings, tmp_path: Path) -> None:
    secret = Keyring(settings.data_dir).leaf_secret("main")
    for asked in (False, True):
        folder = tmp_path / f"backup-{asked}"
        saved(settings, folder, with_keys=asked)
        assert any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file()) == asked


def test_what_is_missing_of_the_keys_is_said(settings: HouseSettings, tmp_path: Path) -> None:
    manifest = saved(settings, tmp_path / "backup")
    fresh = tmp_path / "fresh"
    restore(tmp_path / "backup", fresh, quiet)
    assert "copy them to" in missing_keys(manifest, fresh)[0]
    Keyring(fresh).create("main")
    said = missing_keys(manifest, fresh)
    assert "nobody would be recognised" in said[0]
    assert "stays unreadable" in said[1]


def test_a_folder_that_holds_something_is_never_overwritten(settings: HouseSettings, tmp_path: Path) -> None:
    saved(settings, tmp_path / "backup")
    with pytest.raises(Unusable, match="nothing is ever overwritten"):
        restore(tmp_path / "backup", settings.data_dir, quiet)
    with pytest.raises(Unusable, match="not empty"):
        saved(settings, tmp_path / "backup")
    with pytest.raises(Unusable, match="lies in the data folder"):
        saved(settings, settings.data_dir / "backup")


def test_keys_that_were_put_back_first_stay_as_they_are(settings: HouseSettings, tmp_path: Path) -> None:
    manifest = saved(settings, tmp_path / "backup")
    shutil.copytree(settings.data_dir / "keys", tmp_path / "fresh" / "keys")
    restore(tmp_path / "backup", tmp_path / "fresh", quiet)
    assert missing_keys(manifest, tmp_path / "fresh") == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a byte of the log": ("log/touchpoints.sqlite", flip, "not what was written"),
    "a byte of a database": ("scoring.db", flip, "not what was written"),
    "the end of a database": ("profiles.db", cut, "were written: use another"),
    "a file": ("log/definitions.sqlite", Path.unlink, "not whole"),
    "the manifest": ("manifest.json", flip, "another backup"),
    "no manifest": ("manifest.json", Path.unlink, "not finished"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_backup_is_refused_and_no_house_starts_on_what_was_begun(
    what: str, settings: HouseSettings, tmp_path: Path
) -> None:
    name, damage, said = DAMAGES[what]
    backup, fresh = tmp_path / "backup", tmp_path / "fresh"
    saved(settings, backup)
    damage(backup / name)
    with pytest.raises(Unusable, match=said):
        check(backup, quiet)
    with pytest.raises(Unusable, match=said):
        restore(backup, fresh, quiet)
    assert not fresh.exists() or (fresh / UNFINISHED_RESTORE).exists()


async def test_a_restore_that_was_interrupted_anywhere_is_seen(settings: HouseSettings, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    saved(settings, backup)
    steps = _restore_until(backup, tmp_path / "whole", 10**9)
    for step in range(1, steps, max(1, steps // 6)):
        fresh = tmp_path / f"fresh-{step}"
        with pytest.raises(KeyboardInterrupt):
            _restore_until(backup, fresh, step)
        with pytest.raises(Stopped, match="not finished"):
            await first_start(settings.model_copy(update={"data_dir": fresh}), CLOCK)
        with pytest.raises(Unusable, match="not finished"):
            restore(backup, fresh, quiet)


def _restore_until(backup: Path, fresh: Path, step: int) -> int:
    """Restore, interrupted at its `step`th progress; returns how many there were."""
    seen = 0

    def told(_file: str, _done: int, _total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            raise KeyboardInterrupt

    restore(backup, fresh, told)
    return seen


def test_a_backup_that_fails_leaves_no_folder_behind(settings: HouseSettings, tmp_path: Path) -> None:
    def told(_file: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(settings, tmp_path / "backup", CLOCK, told)
    assert not (tmp_path / "backup").exists()


def test_a_database_ahead_of_its_log_is_no_backup(settings: HouseSettings, tmp_path: Path) -> None:
    with closing(sqlite3.connect(settings.data_dir / "profiles.db")) as database, database:
        database.execute("INSERT INTO checkpoint VALUES ('touchpoints', 0, 1, 1, 5, -1, 4, 0, 'another log')")
    with pytest.raises(Unusable, match="of log another log"):
        saved(settings, tmp_path / "backup")


def test_tables_of_a_newer_version_are_not_restored_by_an_older_one(settings: HouseSettings, tmp_path: Path) -> None:
    with closing(sqlite3.connect(settings.data_dir / "scoring.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    saved(settings, tmp_path / "backup")
    with pytest.raises(Unusable, match="does not know: restore it with Raftar"):
        restore(tmp_path / "backup", tmp_path / "fresh", quiet)
    assert not (tmp_path / "fresh").exists()


def test_a_house_on_kafka_or_postgresql_is_told_its_own_way(settings: HouseSettings, tmp_path: Path) -> None:
    for other in ({"kafka_bootstrap": "127.0.0.1:1"}, {"database_url": "postgresql://nobody@127.0.0.1:1/none"}):
        with pytest.raises(Unusable, match="pg_dump"):
            saved(settings.model_copy(update=other), tmp_path / "backup")


@pytest.fixture
def typed(settings: HouseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the house by their variables."""
    for name in ("RAFTAR_KAFKA_BOOTSTRAP", "RAFTAR_DATABASE_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAFTAR_DATA_DIR", str(settings.data_dir))


def test_raftar_hands_the_commands_on(typed: None, tmp_path: Path) -> None:
    words = ["backup", str(tmp_path / "backup"), "--with-keys", "--json"]
    assert CliRunner().invoke(app, words).exit_code == 0
    checked = CliRunner().invoke(app, ["restore", str(tmp_path / "backup"), "--check", "--json"])
    assert (checked.exit_code, json.loads(checked.output)["with_keys"]) == (0, True)
    assert CliRunner().invoke(app, ["restore", str(tmp_path / "nothing")]).exit_code == 1


def test_the_commands_say_what_they_did_and_what_comes_next(
    typed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = str(tmp_path / "backup")
    assert main(["backup", backup]) == 0
    assert "The keys are NOT in it" in capsys.readouterr().out
    assert main(["restore", backup, "--check"]) == 0
    assert "is whole" in capsys.readouterr().out
    assert main(["backup", backup]) == 1
    assert "not empty" in capsys.readouterr().err
    monkeypatch.setenv("RAFTAR_DATA_DIR", str(tmp_path / "fresh"))
    assert main(["restore", backup, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["with_keys"], told["partitions"], len(told["ends"]["touchpoints"])) == (False, 4, 4)
    assert "copy them to" in told["missing"][0]
