"""The one command as a user meets it: it starts, what it prints works when pasted, it survives and it ends."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services import local_access
from services.local_access import LocalAccess
from tests.house import metrics_page
from tests.support import chromium

START_SECONDS = 90.0
ALERT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """A house in a process of its own, and what it printed."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    printed: str
    access: LocalAccess

    def services(self) -> dict[str, psutil.Process]:
        """The three service processes by name."""
        children = psutil.Process(self.process.pid).children()
        named = ((re.search(r"services\.(\w+)", " ".join(child.cmdline())), child) for child in children)
        return {match[1]: child for match, child in named if match}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("house")
    ports = {f"RAFTAR_{name}_PORT": "0" for name in ("INGEST", "PROFILES", "SCORING")}
    embedded = {"RAFTAR_KAFKA_BOOTSTRAP": "", "RAFTAR_DATABASE_URL": "", "RAFTAR_DATA_DIR": str(folder / "data")}
    said = folder / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "run"], env=os.environ | ports | embedded, stdout=file
        )
    try:
        eventually(START_SECONDS, lambda: process.poll() is not None or "Ctrl-C stops everything" in said.read_text())
        assert process.poll() is None, said.read_text()
        access = local_access.load(folder / "data")
        assert access is not None
        yield Running(process, folder / "data", said.read_text(), access)
    finally:
        process.terminate()
        process.wait(timeout=40)


def paste(line: str) -> Any:
    """Send what a printed curl would send, and return the decoded answer."""
    words = shlex.split(line)
    assert words[0] == "curl"
    user, _, password = words[words.index("-u") + 1].partition(":")
    url = next(word for word in words if word.startswith("http://"))
    with httpx.Client(auth=(user, password), trust_env=False, timeout=10) as client:
        if "-d" in words:
            return client.post(url, content=words[words.index("-d") + 1]).raise_for_status().json()
        return client.get(url).raise_for_status().json()


def eventually(seconds: float, ask: Any) -> Any:
    """Ask until the answer is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return answer


def test_the_printed_requests_work_when_pasted_and_bring_an_alert(house: Running) -> None:
    post, alerts = (line for line in house.printed.splitlines() if line.startswith("curl "))
    assert paste(post)["accepted"] == 1
    listed = eventually(ALERT_SECONDS, lambda: paste(alerts)["items"])
    assert "bad_experience" in str(listed)


def test_the_command_line_finds_the_house_and_its_customer(house: Running) -> None:
    environment = os.environ | {"RAFTAR_DATA_DIR": str(house.folder)}
    shown = subprocess.run(
        [sys.executable, "-m", "services.cli", "customer", "user:ada"], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "complained" in shown.stdout


def test_every_metric_is_documented(house: Running) -> None:
    urls = {name: getattr(house.access, f"{name}_url") for name in ("ingest", "profiles", "scoring")}
    written = metrics_page.page(metrics_page.serving(urls))
    assert metrics_page.PAGE.read_text() == written, "beside a running house: python -m tests.house.metrics_page"


def test_services_log_to_files_and_leave_the_screen_to_people(house: Running) -> None:
    assert "level" not in house.printed
    for name in ("ingest", "profiles", "scoring"):
        assert '"listening"' in (house.folder / "logs" / f"{name}.log").read_text()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["ingest", "profiles", "scoring"])
def test_the_api_page_opens_in_a_browser_and_needs_nothing_from_outside(
    house: Running, name: str, tmp_path: Path
) -> None:
    url = getattr(house.access, f"{name}_url")
    drawn, asked = chromium.open_page(f"{url}/docs", tmp_path)
    assert f"Raftar {name}" in drawn
    assert "opblock-summary" in drawn, "the operations were not drawn"
    assert {f"{url}/docs/swagger-ui-bundle.js", f"{url}/docs/swagger-ui.css", f"{url}/openapi.json"} <= asked
    assert [address for address in asked if not address.startswith(url)] == []


@pytest.mark.parametrize("name", ["ingest", "profiles", "scoring"])
def test_a_killed_service_comes_back_on_the_same_port(house: Running, name: str) -> None:
    first = house.services()[name]
    first.kill()
    url = getattr(house.access, f"{name}_url")
    with httpx.Client(trust_env=False, timeout=2) as client:
        eventually(30, lambda: first.pid != getattr(house.services().get(name), "pid", first.pid))
        eventually(30, lambda: ready(client, url))


def ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_it_ends_at_once_and_takes_its_services_along(house: Running) -> None:
    services = house.services()
    assert set(services) == {"ingest", "profiles", "scoring"}
    house.process.send_signal(signal.SIGINT)
    assert house.process.wait(timeout=30) == 0
    assert [name for name, process in services.items() if process.is_running()] == []
