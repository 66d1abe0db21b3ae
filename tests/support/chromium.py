"""A real Chromium, headless, that can resolve no name: what a page draws, and what it asks for."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.required import unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--virtual-time-budget=10000",
    "--dump-dom",
)
PAGE_SECONDS = 90
RENDERER = "URL_REQUEST"
OWN_HOSTS = ("google.com", "googleapis.com", "gvt1.com")
"""Chromium's own business, which the rules above keep from leaving: no page of ours may name them (see tests/house)."""


def open_page(url: str, folder: Path) -> tuple[str, set[str]]:
    """The page's HTML once drawn, and every address requested for it. `folder`: for a profile of its own."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        unavailable("Chromium", "no chromium on the path (on Debian: apt-get install chromium)")
    net_log = folder / "requests.json"
    ended = subprocess.run(
        [found, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}", url],
        capture_output=True,
        text=True,
        timeout=PAGE_SECONDS,
        env=os.environ | {"HOME": str(folder)},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout, _requested(net_log)


def _requested(net_log: Path) -> set[str]:
    log = json.loads(net_log.read_text())
    source = log["constants"]["logSourceType"][RENDERER]
    asked = {
        event["params"]["url"]
        for event in log["events"]
        if event["source"]["type"] == source and "url" in event.get("params", {})
    }
    return {url for url in asked if url.startswith("http") and not _is_own(url)}


def _is_own(url: str) -> bool:
    return url.split("/")[2].partition(":")[0].endswith(OWN_HOSTS)
