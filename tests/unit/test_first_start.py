"""A first start makes what a house needs, once: on a real SQLite log in a folder of its own."""

import shutil
import stat
from pathlib import Path

import pytest

from services import local_access
from services.first_start import FirstStart, first_start, open_log
from services.local_access import LocalAccess
from shared.access import SCOPES, Access
from shared.clock import FrozenClock, SystemClock
from shared.codec import decode
from shared.errors import Stopped
from shared.events import DefinitionPublished, Fact
from shared.keyring import Keyring
from shared.settings import HouseSettings
from shared.topics import DEFINITIONS


def a_house(folder: Path, **changes: object) -> HouseSettings:
    return HouseSettings(data_dir=folder / "data", partitions=2, kafka_bootstrap="", database_url="").model_copy(
        update=changes
    )


async def start(settings: HouseSettings, new_keys: bool = False) -> FirstStart:
    return await first_start(settings, SystemClock(), new_keys)


async def facts_of(settings: HouseSettings) -> list[Fact]:
    async with open_log(settings, FrozenClock()) as log:
        batch = await log.read(DEFINITIONS, 0, (await log.bounds(DEFINITIONS))[0].earliest)
    return [fact for record in batch.records if isinstance(fact := decode(record.value), Fact)]


async def access_of(settings: HouseSettings) -> Access:
    access = Access()
    for fact in await facts_of(settings):
        access = access.evolve(fact)
    return access


async def test_the_first_start_makes_workspace_keys_and_rules(tmp_path: Path) -> None:
    settings = a_house(tmp_path, time_zone="Asia/Tehran", region="ir")
    started = await start(settings)
    access = await access_of(settings)
    workspace = access.workspaces["main"]
    assert (workspace.time_zone, workspace.region) == ("Asia/Tehran", "IR")
    assert workspace.sealing_public == Keyring(settings.data_dir).sealing_public("main")[1]
    write, secret = access.key(started.access.write_key), access.key(started.access.secret_key)
    assert write is not None
    assert secret is not None
    assert (write.kind, write.scopes) == ("write", frozenset({"write"}))
    assert (secret.kind, secret.scopes) == ("secret", frozenset(SCOPES))
    published = [fact for fact in await facts_of(settings) if isinstance(fact, DefinitionPublished)]
    assert [fact.version for fact in published] == [1]
    assert published[0].rules["name"] == "default"


async def test_a_second_start_writes_nothing_and_still_knows_the_keys(tmp_path: Path) -> None:
    settings = a_house(tmp_path)
    first, facts = await start(settings), await facts_of(settings)
    second = await start(settings)
    assert second.done == []
    assert second.access == first.access
    assert await facts_of(settings) == facts


async def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    settings = a_house(tmp_path)
    await start(settings)
    path = settings.data_dir / local_access.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


async def test_a_start_that_died_before_the_facts_is_completed(tmp_path: Path) -> None:
    settings = a_house(tmp_path)
    Keyring(settings.data_dir).create("main")  # secrets made, then the power went
    local_access.save(settings.data_dir, LocalAccess(workspace="main", write_key="never told to anybody"))
    started = await start(settings)
    assert (await access_of(settings)).key(started.access.write_key) is not None


async def test_lost_keys_are_replaced_on_request_and_the_old_ones_still_open(tmp_path: Path) -> None:
    settings = a_house(tmp_path)
    first = await start(settings)
    (settings.data_dir / local_access.FILE_NAME).unlink()
    assert (await start(settings)).access.secret_key == ""
    again = await start(settings, new_keys=True)
    access = await access_of(settings)
    assert access.key(again.access.secret_key) is not None
    assert access.key(first.access.secret_key) is not None


async def test_a_known_workspace_without_its_secrets_stops_with_what_to_do(tmp_path: Path) -> None:
    settings = a_house(tmp_path)
    await start(settings)
    shutil.rmtree(settings.data_dir / "keys")
    with pytest.raises(Stopped, match="backup"):
        await start(settings)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / local_access.FILE_NAME).write_text("{")
    with pytest.raises(ValueError, match=r"cli\.json is damaged"):
        local_access.load(tmp_path)


def test_no_file_is_no_access(tmp_path: Path) -> None:
    assert local_access.load(tmp_path) is None
