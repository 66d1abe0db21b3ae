"""Keyring: private files, made once, never overwritten, and a clear next step when something is missing."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.errors import InvalidField, RaftarError
from shared.keyring import KeyMissing, Keyring
from shared.sealing import Opener, Sealer


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    made = Keyring(tmp_path / "data")
    made.create("main")
    return made


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_workspace_has_a_secret_and_a_pair_that_fits(keyring: Keyring) -> None:
    assert len(keyring.leaf_secret("main")) == 32
    name, public = keyring.sealing_public("main")
    sealed = Sealer(name, public).seal({0: {"ip": "192.0.2.1"}}, 1)
    assert Opener(keyring.private_keys("main")).open(sealed) == {0: {"ip": "192.0.2.1"}}
    assert keyring.workspaces() == ["main"]


def test_files_are_600_in_700_folders_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Keyring(tmp_path / "data").create("main")
    finally:
        os.umask(before)
    for path in (tmp_path / "data" / "keys").rglob("*"):
        assert _mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert _mode(tmp_path / "data" / "keys") == 0o700


def test_creating_again_changes_nothing(keyring: Keyring) -> None:
    before = keyring.leaf_secret("main"), keyring.sealing_public("main"), keyring.private_keys("main")
    keyring.create("main")
    assert (keyring.leaf_secret("main"), keyring.sealing_public("main"), keyring.private_keys("main")) == before


def test_workspaces_share_nothing(keyring: Keyring) -> None:
    keyring.create("second")
    assert keyring.leaf_secret("main") != keyring.leaf_secret("second")
    assert keyring.sealing_public("main")[0] != keyring.sealing_public("second")[0]
    assert keyring.workspaces() == ["main", "second"]


def test_many_creators_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Keyring(tmp_path).create("main"), range(8)))
    keyring = Keyring(tmp_path)
    name, public = keyring.sealing_public("main")
    assert Opener(keyring.private_keys("main")).open(Sealer(name, public).seal({0: {"a": 1}}, 0)) == {0: {"a": 1}}
    assert not list((tmp_path / "keys").rglob(".*"))


def test_a_crash_between_the_files_is_finished_by_the_next_create(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.create("main")
    secret = keyring.leaf_secret("main")
    for path in (tmp_path / "keys" / "main" / "sealing").iterdir():
        path.unlink()
    keyring.create("main")
    assert keyring.leaf_secret("main") == secret
    assert keyring.private_keys("main")


@pytest.mark.parametrize("ask", [Keyring.leaf_secret, Keyring.sealing_public])
def test_a_missing_key_says_what_to_do(tmp_path: Path, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(KeyMissing, match=r"backup.*init"):
        ask(Keyring(tmp_path), "main")
    assert issubclass(KeyMissing, RaftarError)


def test_a_lost_leaf_secret_is_never_replaced_silently(keyring: Keyring, tmp_path: Path) -> None:
    (tmp_path / "data" / "keys" / "main" / "leaf.secret").unlink()
    with pytest.raises(KeyMissing, match="lost its leaf secret"):
        keyring.create("main")


def test_a_cut_key_file_is_refused(keyring: Keyring, tmp_path: Path) -> None:
    (tmp_path / "data" / "keys" / "main" / "leaf.secret").write_bytes(b"short")
    with pytest.raises(KeyMissing, match="5 bytes"):
        keyring.leaf_secret("main")


def test_destroyed_private_keys_are_simply_absent(keyring: Keyring, tmp_path: Path) -> None:
    for path in (tmp_path / "data" / "keys" / "main" / "sealing").glob("*.private"):
        path.unlink()
    assert keyring.private_keys("main") == {}
    assert keyring.sealing_public("main")


@pytest.mark.parametrize("name", ["", "../main", "a/b", ".", "Main", "a" * 64, "-a", "main\n", "سلام"])
def test_names_that_are_no_folder_names_are_refused(keyring: Keyring, name: str) -> None:
    with pytest.raises(InvalidField, match="workspace"):
        keyring.create(name)


def test_a_rotated_pair_stands_behind_the_first_which_still_opens(keyring: Keyring) -> None:
    first, public = keyring.sealing_public("main")
    old = Sealer(first, public).seal({0: {"a": 1}}, 0)
    second, newer = keyring.rotate("main")
    assert (first[:5], second[:5]) == ("0001-", "0002-")
    assert keyring.sealing_public("main") == (second, newer)
    assert keyring.sealing_names("main") == [first, second]
    opener = Opener(keyring.private_keys("main"))
    assert opener.open(old) == opener.open(Sealer(second, newer).seal({0: {"a": 1}}, 0)) == {0: {"a": 1}}


def test_a_destroyed_key_is_overwritten_and_gone_and_its_name_stays(keyring: Keyring, tmp_path: Path) -> None:
    first, _ = keyring.sealing_public("main")
    secret = keyring.private_keys("main")[first]
    held = next(tmp_path.rglob(f"{first}.private")).open("rb")  # whoever has the file open sees what became of it
    keyring.rotate("main")
    assert keyring.destroy("main", first)
    assert first not in keyring.private_keys("main")
    assert keyring.sealing_names("main")[0] == first
    with held:
        overwritten = held.read()
    assert len(overwritten) == len(secret)
    assert overwritten != secret
    assert not keyring.destroy("main", first)
    with pytest.raises(InvalidField):
        keyring.destroy("main", "../leaf")
