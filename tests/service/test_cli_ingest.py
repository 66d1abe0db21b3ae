"""The command line against a real door in a process of its own: keys, and imports that survive interruption."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.cli.errors import Unreachable
from services.cli.importing.column_map import column_map
from services.cli.importing.importer import Importer, Outcome
from services.cli.importing.progress import Bookmark
from services.cli.importing.rows import Source
from services.cli.rest import Rest
from services.first_start import first_start, open_log
from services.local_access import LocalAccess
from shared.clock import SystemClock
from shared.codec import decode
from shared.events import ImportFinished, TouchpointsRecorded
from shared.settings import HouseSettings
from shared.topics import TOUCHPOINTS

PARTITIONS = 2
ROWS = 1_234


class Door:
    """A door on its own data folder: start, kill, and the command line's view of it."""

    def __init__(self, folder: Path, access: LocalAccess, port: int) -> None:
        self.folder, self.access, self.url = folder, access, f"http://127.0.0.1:{port}"
        self._environment = {
            **os.environ,
            "RAFTAR_DATA_DIR": str(folder),
            "RAFTAR_PARTITIONS": str(PARTITIONS),
            "RAFTAR_INGEST_PORT": str(port),
            "RAFTAR_INGEST_URL": self.url,
            "RAFTAR_KAFKA_BOOTSTRAP": "",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.ingest"], env=self._environment, stdout=subprocess.DEVNULL
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def raftar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextmanager
    def rest(self, pause: Callable[[float], None] | None = None) -> Iterator[Rest]:
        rest = Rest("ingest", self.url, self.access.secret_key, **({"pause": pause} if pause else {}))
        try:
            yield rest
        finally:
            rest.close()

    def wait_until_ready(self) -> None:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False, timeout=10) as client:
            assert client.get(f"{self.url}/livez").status_code == 200


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    settings = HouseSettings(data_dir=tmp_path / "data", partitions=PARTITIONS, kafka_bootstrap="", database_url="")
    started = await first_start(settings, SystemClock())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    door = Door(settings.data_dir, started.access, port)
    door.start()
    door.wait_until_ready()
    yield door
    door.stop()


def orders(folder: Path, rows: int = ROWS) -> Path:
    path = folder / "orders.csv"
    lines = [f"{1 + n % 97},2024-05-{1 + n % 28:02},{n}.50" for n in range(rows)]
    path.write_text("customer,date,total\n" + "\n".join(lines) + "\n")
    return path


MAPPED = (
    *("--map", "customer=user_id", "--map", "date=occurred_at", "--map", "total=properties.amount"),
    *("--set", "kind=purchased", "--set", "properties.currency=EUR"),
)


def source_of(path: Path) -> Source:
    rules = ("customer=user_id", "date=occurred_at", "total=properties.amount")
    return Source(path, column_map(rules, ("kind=purchased", "properties.currency=EUR"), ZoneInfo("UTC")))


async def in_the_log(door: Door) -> tuple[Counter[bytes], set[str], int]:
    """How often each touchpoint id lies in the log, under which imports, and on how many partitions one ended."""
    ids, imports, ends = Counter[bytes](), set[str](), 0
    settings = HouseSettings(data_dir=door.folder, partitions=PARTITIONS, kafka_bootstrap="", database_url="")
    async with open_log(settings, SystemClock()) as log:
        for partition, bounds in (await log.bounds(TOUCHPOINTS)).items():
            position = bounds.earliest
            while position < bounds.end:
                batch = await log.read(TOUCHPOINTS, partition, position)
                position = batch.next_position
                for record in batch.records:
                    fact = decode(record.value)
                    ends += isinstance(fact, ImportFinished)
                    if isinstance(fact, TouchpointsRecorded):
                        ids.update(touchpoint.id for touchpoint in fact.touchpoints)
                        imports.add(fact.import_id)
    return ids, imports, ends


async def test_a_file_is_imported_once_and_finished_on_every_partition(door: Door, tmp_path: Path) -> None:
    path = orders(tmp_path)
    first = door.raftar("import", str(path), *MAPPED, "--json")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert (summary["accepted"], summary["refused"], summary["already_done"]) == (ROWS, 0, False)
    second = door.raftar("import", str(path), *MAPPED)
    assert "was imported before" in second.stdout
    ids, imports, ends = await in_the_log(door)
    assert set(ids.values()) == {1}
    assert len(ids) == ROWS
    assert imports == {summary["import_id"]}
    assert ends == PARTITIONS


async def test_sending_it_again_repeats_the_same_ids(door: Door, tmp_path: Path) -> None:
    path = orders(tmp_path, 20)
    door.raftar("import", str(path), *MAPPED)
    door.raftar("import", str(path), *MAPPED, "--again")
    ids, imports, _ = await in_the_log(door)
    assert set(ids.values()) == {2}
    assert len(imports) == 2


async def test_an_interrupted_import_goes_on_where_it_stopped(door: Door, tmp_path: Path) -> None:
    source = source_of(orders(tmp_path))
    bookmark = Bookmark(door.folder, source, "here")

    def stop_after_two_batches(_: int, outcome: Outcome) -> None:
        if outcome.progress.rows_done >= 1000:
            raise KeyboardInterrupt

    with door.rest() as rest, pytest.raises(KeyboardInterrupt):
        Importer(rest, source, bookmark, stop_after_two_batches).run()
    assert bookmark.load().rows_done == 1000
    with door.rest() as rest:
        outcome = Importer(rest, source, bookmark, lambda *_: None).run()
    assert outcome.progress.accepted == ROWS
    ids, imports, _ = await in_the_log(door)
    assert (len(ids), set(ids.values()), len(imports)) == (ROWS, {1}, 1)


async def test_a_door_that_dies_under_an_import_is_waited_for(door: Door, tmp_path: Path) -> None:
    source = source_of(orders(tmp_path))
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        door.start()
        door.wait_until_ready()

    def kill_after_one_batch(_: int, outcome: Outcome) -> None:
        if outcome.progress.rows_done == 500:
            door.stop(signal.SIGKILL)

    with door.rest(pause) as rest:
        outcome = Importer(rest, source, Bookmark(door.folder, source, "here"), kill_after_one_batch).run()
    assert waited == [1.0]
    assert outcome.progress.accepted == ROWS
    ids, _, _ = await in_the_log(door)
    assert len(ids) == ROWS


async def test_an_import_closed_meanwhile_goes_on_under_a_new_id(door: Door, tmp_path: Path) -> None:
    source = source_of(orders(tmp_path))

    with door.rest(lambda _: None) as rest:

        def close_it(_: int, outcome: Outcome) -> None:
            if outcome.progress.rows_done == 500:
                rest.post(f"/v1/imports/{outcome.progress.import_id}/finish")

        outcome = Importer(rest, source, Bookmark(door.folder, source, "here"), close_it).run()
    assert (outcome.progress.accepted, outcome.progress.refused) == (ROWS, 0)
    ids, imports, ends = await in_the_log(door)
    assert (len(ids), len(imports), ends) == (ROWS, 2, 2 * PARTITIONS)


async def test_refused_rows_are_told_with_their_row_and_reason(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = {"kind": "logged_in", "user_id": "7", "occurred_at": "2024-05-01T00:00:00Z"}
    path.write_text("\n".join(json.dumps(line) for line in (good, {**good, "kind": "loged_in"}, good)) + "\n{\n")
    done = door.raftar("import", str(path))
    assert done.returncode == 4
    assert "2 touchpoints" in done.stdout
    assert "row 2: kind:" in done.stderr
    assert "row 4: not JSON" in done.stderr


async def test_keys_are_made_listed_and_revoked(door: Door) -> None:
    made = json.loads(door.raftar("keys", "create", "write", "--source", "shop", "--json").stdout)
    assert made["key"].startswith("rk_w_")
    listed = json.loads(door.raftar("keys", "list", "--json").stdout)
    assert made["key_id"] in {key["key_id"] for key in listed}
    assert not any("key" in key for key in listed)
    assert door.raftar("keys", "revoke", made["key_id"]).returncode == 0
    (revoked,) = [k for k in json.loads(door.raftar("keys", "list", "--json").stdout) if k["key_id"] == made["key_id"]]
    assert revoked["revoked_at"]
    assert door.raftar("keys", "revoke", "nobody").returncode == 1


async def test_no_door_no_key_and_no_file_say_the_next_step(door: Door, tmp_path: Path) -> None:
    door.stop()
    unreachable = door.raftar("keys", "list")
    assert (unreachable.returncode, "raftar run" in unreachable.stderr) == (3, True)
    with door.rest(lambda _: None) as rest, pytest.raises(Unreachable):
        rest.post("/v1/imports", patience_seconds=5)
    csv = door.raftar("import", str(orders(tmp_path)))
    assert (csv.returncode, "--map" in csv.stderr) == (2, True)
    assert door.raftar("import", str(tmp_path / "nowhere.csv")).returncode == 2
    assert door.raftar("keys", "create", "secret", "--source", "crm").returncode == 2
