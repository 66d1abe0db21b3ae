"""Profiles as a process to run: probes, metrics, documentation, odd input, and an orderly end."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from migrations import migrate
from services.cli.rest import Rest
from services.first_start import first_start
from services.profiles.digest import digest, refold
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import open_database
from shared.events import ErasureRequested, IdentityLinked
from shared.heaps import HEAPS_MAX
from shared.ids import partition_of
from shared.log.ownership import AllPartitions
from shared.log.port import Outgoing, Ownership
from shared.log.sqlite import SqliteLog
from shared.settings import HouseSettings
from shared.topics import TOUCHPOINTS
from tests.builders import NOON_MS, a_leaf, a_record, a_touchpoint
from tests.service.profiles_house import MAIN, PARTITIONS, House, house, page_view
from tests.support.heaps import heaps_of

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["sqlite", "postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A running house on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house(tmp_path, url) as made:
        yield made


async def ready(home: House, wanted: int, check: str = "", stopped: bool = False) -> Any:
    """The readiness once its status is `wanted` (and `check` shows a stopped partition)."""
    async with asyncio.timeout(20):
        while True:
            answer = await home.client.get("/readyz")
            body = answer.json()
            if answer.status_code == wanted and (not stopped or body["checks"][check]["stopped"]):
                return body
            await asyncio.sleep(0.02)


async def test_readiness_shows_lag_and_fails_on_a_stopped_partition(home: House) -> None:
    """A fact of a newer version stops its partition, visibly; the others go on."""
    person = home.person(user="1")
    await home.track(person, page_view())
    await home.settle()
    body = await ready(home, 200)
    assert body["checks"]["touchpoints"]["ok"]
    assert set(body["checks"]) >= {"database", "definitions", "secrets", "segment-changes", "touchpoints-failed"}
    newer = msgspec.msgpack.encode(("touchpoints.recorded", 99, []))
    await home.log.append(TOUCHPOINTS, [Outgoing(2, newer)])
    body = await ready(home, 503, "touchpoints", stopped=True)
    assert "deploy the newer code" in body["checks"]["touchpoints"]["stopped"]["2"]
    metrics = (await home.client.get("/metrics")).text
    assert 'raftar_profiles_stopped_partitions{topic="touchpoints"} 1.0' in metrics


async def test_metrics_tell_what_was_folded_and_how_far_behind(home: House) -> None:
    """Counters of the step and the loop, gauges by partition."""
    person = home.person(user="1")
    for _ in range(2):
        await home.track(person, page_view(id="same"))
    await home.settle()
    metrics = (await home.client.get("/metrics")).text
    assert "raftar_profiles_touchpoints_total 2.0" in metrics
    assert "raftar_profiles_duplicates_total 1.0" in metrics
    assert 'raftar_profiles_loop_folded_records_total{topic="touchpoints"} 2.0' in metrics
    assert 'raftar_profiles_worker_alive{topic="churn-alerts"} 1.0' in metrics
    for name in ("outbox_rows", "lag_records", "oldest_unread_seconds", "frontier_age_seconds", "loop_refused_total"):
        assert f"# HELP raftar_profiles_{name.removesuffix('_total')}" in metrics
    assert "user:1" not in metrics
    told = [line.rpartition(" ")[0] for line in metrics.splitlines() if not line.startswith("#")]
    assert len(told) == len(set(told)), "a metric is told twice"


class Failing(AllPartitions):
    """An ownership whose start fails for a while, as with a group that cannot be joined."""

    fails = True

    async def start(self) -> None:
        """Fail while it is so."""
        if Failing.fails:
            raise ConnectionError("the group cannot be joined")


async def test_a_worker_that_dies_is_replaced_and_shown(tmp_path: Path) -> None:
    """Not ready while nobody folds; then a fresh worker takes over and nothing is lost."""
    Failing.fails = True

    def owns(topic: str) -> Ownership:
        return Failing(PARTITIONS) if topic == TOUCHPOINTS else AllPartitions(4)

    async with house(tmp_path, owns=owns) as home:
        body = await ready(home, 503)
        assert not body["checks"]["touchpoints"]["ok"]
        Failing.fails = False
        await home.track(home.person(user="1"), page_view())
        await home.settle()
        await ready(home, 200)
        metrics = (await home.client.get("/metrics")).text
        deaths = metrics.partition('raftar_profiles_worker_deaths_total{topic="touchpoints"} ')[2].split("\n")[0]
        assert float(deaths) >= 1


async def test_openapi_and_the_docs_page(home: House) -> None:
    """Every route is documented, with examples; the page loads nothing from elsewhere."""
    document = (await home.client.get("/openapi.json")).json()
    paths = {
        "/v1/customers", "/v1/customers/{customer_id}", "/v1/customers/{customer_id}/timeline", "/v1/customers/link",
        "/v1/customers/{customer_id}/identifiers", "/v1/customers/unlink", "/v1/failed", "/v1/failed/{failed_id}",
    }  # fmt: skip
    assert paths <= set(document["paths"])
    assert document["components"]["schemas"]["TieWanted"]["examples"]
    assert (await home.client.get("/docs")).status_code == 200


ODD = (
    "/v1/customers?limit=0", "/v1/customers?limit=201", "/v1/customers?limit=x", "/v1/customers?sort=name",
    "/v1/customers?next=x", "/v1/customers?next=%00", "/v1/customers?next=é", "/v1/customers?next=" + "A" * 500,
    "/v1/customers?next=lKFjoWF4AA", "/v1/customers?stage=%00", "/v1/customers?risk_min=2",
    "/v1/customers?risk_min=nan", "/v1/customers?spend_min=99999999999999999999", "/v1/customers?seen_after=yesterday",
    "/v1/customers?seen_after=99999999999999999999", "/v1/customers?identifier=" + "x" * 700,
    "/v1/customers?identifier=user:%00", "/v1/customers?identifier=user:%ff%fe", "/v1/customers?identifier=",
    "/v1/customers/%00", "/v1/customers/" + "é" * 32, "/v1/customers/" + "0" * 33, "/v1/customers/" + " 0" * 16,
    "/v1/customers/x/timeline?kind=%00", "/v1/customers/x/timeline?kind=" + "a" * 65,
    "/v1/customers/x/timeline?" + "kind=purchased&" * 21, "/v1/customers/x/timeline?from=x",
    "/v1/failed?next=x", "/v1/failed?limit=-1", "/v1/failed/" + "9" * 300, "/v1/nothing",
)  # fmt: skip


async def test_odd_input_is_refused_never_a_fault(home: House) -> None:
    """Every answer to nonsense is a 4xx with a flat code, message and detail."""
    for path in ODD:
        answer = await home.get(path)
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert {"code", "message", "detail"} <= set(answer.json()), path
    for times in ("1700000000", "0001-01-01T00:00:00", "9999-12-31T23:59:59Z", "-62135596800"):
        for name in ("seen_after", "seen_before"):
            assert (await home.get("/v1/customers", **{name: times})).status_code in (200, 422)
    for number in (-(2**63) + 1, 2**63 - 1):
        assert (await home.get("/v1/customers", spend_min=number)).status_code == 200
    for body in (
        b"",
        b"{",
        b"\xff",
        b"[" * 10_000,
        b'{"a":"\\ud800:x","b":"user:1"}',
        b'{"a":"user:\\u0000","b":"user:1"}',
    ):
        answer = await home.client.post("/v1/customers/link", content=body, headers=home._bearer(MAIN))
        assert 400 <= answer.status_code < 500, body
    big = await home.client.post("/v1/customers/link", content=b" " * 70_000, headers=home._bearer(MAIN))
    assert big.status_code == 413


async def test_the_digest_is_the_same_folded_anew(home: House) -> None:
    """Links, erasures, parked and repeated touchpoints: the log alone gives the same leaves and customers."""
    people = [home.person(user=f"u{n}", anonymous=f"c{n % 3}") for n in range(6)]
    for number, person in enumerate(people * 2):
        at = NOON_MS + number
        buy = a_touchpoint("purchased", at=at, id=f"b{number % 9}", order_id=f"o{number}", amount=5, currency="EUR")
        await home.track(person, page_view(at), buy)
    await home.settle()
    a, b = people[0].leaves[0], people[1].leaves[0]
    await home.append(min(a, b), IdentityLinked(MAIN, b"l" * 16, min(a, b), max(a, b), True, True, NOON_MS))
    await home.append(people[2].leaves[0], ErasureRequested(MAIN, b"e" * 16, people[2].leaves[0], NOON_MS))
    await home.settle()
    assert (await home.post("/v1/customers/link", {"a": "user:u4", "b": "user:u5"})).status_code == 202
    await home.settle()
    again = await refold(home.log)
    assert again.digest == await digest(home.database)
    assert again.touchpoints == (await home.rows("SELECT count(*) AS n FROM touchpoint"))[0].n
    assert again.leaves == (await home.rows("SELECT count(*) AS n FROM leaf"))[0].n
    await home.track(people[3], page_view(NOON_MS + 99))
    await home.settle()
    assert (await refold(home.log)).digest != again.digest


async def test_the_process_starts_answers_the_command_line_and_ends_in_time(tmp_path: Path) -> None:
    """`python -m services.profiles` on a free port; SIGTERM in the middle of a backlog ends it within ten seconds.

    What it left is folded by the next start, once.
    """
    settings = HouseSettings(data_dir=tmp_path, partitions=PARTITIONS, _env_file=None)
    started = await first_start(settings, SystemClock())
    unmigrated = await asyncio.to_thread(_run_to_end, tmp_path)
    assert unmigrated.returncode != 0
    assert "services migrate" in unmigrated.stdout
    database = open_database("", tmp_path, "profiles")
    await migrate(database, "profiles")
    await database.close()
    await _backlog(settings)
    async with _process(tmp_path) as (process, url):
        await asyncio.to_thread(_ask, url, started.access.secret_key)
        assert 0 < await _folded(url, 1) < BACKLOG
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert process.stdout is not None
        assert '"level": "error"' not in process.stdout.read()
    async with _process(tmp_path) as (process, url):
        async with asyncio.timeout(60):
            while (await _checks(url))["touchpoints"]["lag_records"] != 0:
                await asyncio.sleep(0.05)
        assert heaps_of(process.pid) < HEAPS_MAX, "its threads share them, and the first is its own"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    log = SqliteLog(settings.log_dir, SystemClock())
    database = open_database("", tmp_path, "profiles")
    try:
        again = await refold(log)
        assert again.touchpoints == BACKLOG
        assert again.digest == await digest(database)
    finally:
        await log.close()
        await database.close()


BACKLOG = 60_000


async def _backlog(settings: HouseSettings) -> None:
    log = SqliteLog(settings.log_dir, SystemClock())
    leaves = [a_leaf(f"u{n}") for n in range(400)]
    views = [a_touchpoint(at=NOON_MS + n, leaf=leaves[n % 400]) for n in range(BACKLOG)]
    out = [
        Outgoing(partition_of(leaf, PARTITIONS), encode(a_record(*views[number::400])))
        for number, leaf in enumerate(leaves)
    ]
    await log.append(TOUCHPOINTS, out)
    await log.close()


async def _folded(url: str, least: int) -> float:
    """Touchpoints folded, once there are `least`."""
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            metrics = (await client.get(f"{url}/metrics")).text
            line = next(one for one in metrics.splitlines() if one.startswith("raftar_profiles_touchpoints_total "))
            count = float(line.split()[1])
            if count >= least:
                return count
            await asyncio.sleep(0.005)


async def _checks(url: str) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{url}/readyz")).json()["checks"]


@contextlib.asynccontextmanager
async def _process(folder: Path) -> AsyncIterator[tuple["subprocess.Popen[str]", str]]:
    """The service as a process and its URL; ended with the block."""
    process = subprocess.Popen(_COMMAND, env=_environment(folder), cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        yield process, await asyncio.wait_for(asyncio.to_thread(_listening, process), 30)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    own = {"RAFTAR_DATA_DIR": str(folder), "RAFTAR_PARTITIONS": str(PARTITIONS), "RAFTAR_PROFILES_PORT": "0"}
    return clean | own


_COMMAND = [sys.executable, "-m", "services.profiles"]


def _run_to_end(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_COMMAND, env=_environment(folder), cwd=PROJECT, capture_output=True, text=True, timeout=60)


def _listening(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        said = msgspec.json.decode(line)
        if said["event"] == "listening":
            return str(said["url"])
    raise AssertionError("it ended before it listened")


def _ask(url: str, key: str) -> None:
    rest = Rest("profiles", url, key)
    try:
        assert set(rest.get("/v1/customers")) == {"items", "next"}
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
    finally:
        rest.close()
