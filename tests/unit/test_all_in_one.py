"""What the one command decides before anything runs: ports, the folder's lock, and what it tells to paste."""

import json
import shlex
import socket
from pathlib import Path

import pytest

from services.all_in_one import (
    AllInOneSettings,
    CannotStart,
    migrate,
    one_house_per_folder,
    ready_curl,
    remember,
    rooms,
    welcome,
)
from services.first_start import FirstStart
from services.local_access import LocalAccess, load
from shared.settings import HouseSettings


def settings_of(profiles_port: int = 0) -> AllInOneSettings:
    return AllInOneSettings(host="127.0.0.1", ingest_port=0, profiles_port=profiles_port, scoring_port=0)


def test_port_0_takes_free_ports_that_differ() -> None:
    house = rooms(settings_of())
    assert [room.name for room in house] == ["ingest", "profiles", "scoring"]
    assert len({room.port for room in house} - {0}) == 3
    assert house[0].port_variable == "RAFTAR_INGEST_PORT"


def test_a_taken_port_is_named_with_the_setting_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotStart, match="RAFTAR_PROFILES_PORT"):
            rooms(settings_of(taken.getsockname()[1]))


def test_two_houses_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        one_house_per_folder(tmp_path),
        pytest.raises(CannotStart, match="RAFTAR_DATA_DIR"),
        one_house_per_folder(tmp_path),
    ):
        pass
    with one_house_per_folder(tmp_path):
        pass


async def test_tables_are_made_twice_without_harm(tmp_path: Path) -> None:
    settings = HouseSettings(data_dir=tmp_path, database_url="")
    await migrate(settings)
    await migrate(settings)
    assert {path.name for path in tmp_path.glob("*.db")} == {"profiles.db", "scoring.db"}


def test_where_the_services_are_is_kept_for_the_command_line(tmp_path: Path) -> None:
    settings = AllInOneSettings(data_dir=tmp_path, host="0.0.0.0", ingest_port=0, profiles_port=0, scoring_port=0)
    house = rooms(settings)
    access = remember(settings, FirstStart(LocalAccess(workspace="main", secret_key="k")), house)
    assert access == load(tmp_path)
    assert access.ingest_url == f"http://127.0.0.1:{house[0].port}"


def test_the_curl_to_paste_is_one_that_a_shell_understands() -> None:
    access = LocalAccess(workspace="main", secret_key="rk_s_1_2", write_key="rk_w_1_2", ingest_url="http://127.0.0.1:1")
    words = shlex.split(ready_curl(access))
    assert words[0] == "curl"
    assert words[words.index("-u") + 1] == "rk_s_1_2:"
    assert json.loads(words[words.index("-d") + 1])["kind"] == "complained"
    assert ready_curl(access) in welcome(access, Path("data/logs"))
    assert "rk_w_1_2" in welcome(access, Path("data/logs"))


def test_keys_that_are_not_known_are_not_invented() -> None:
    assert "--new-keys" in welcome(LocalAccess(workspace="main"), Path("data/logs"))
