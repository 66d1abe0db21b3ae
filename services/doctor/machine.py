"""The machine under the house: versions, the data folder, disk, clock, ports."""

import os
import shutil
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

import httpx

from services import local_access
from services.all_in_one import AllInOneSettings
from services.doctor.finding import Finding, clock_steps, disk, fail, modes, numbers, ok, plain, requirement, warn
from services.first_start import UNFINISHED_RESTORE
from services.ingest.settings import IngestSettings
from shared.clock import Clock
from shared.errors import RaftarError
from shared.keyring import Keyring

PYTHON_MIN, SQLITE_MIN = (3, 11), (3, 35)
CLOCK_SECONDS = 0.2
ANSWER_SECONDS = 2.0


def versions() -> Iterator[Finding]:
    """Python, SQLite, and every library this Raftar was made for."""
    sqlite = sqlite3.sqlite_version
    here = f"Raftar {version('raftar')}, Python {sys.version.split()[0]}, SQLite {sqlite}"
    if sys.version_info[:2] < PYTHON_MIN or numbers(sqlite) < SQLITE_MIN:
        yield fail("versions", here, "install Python 3.11 or newer (with SQLite 3.35 or newer), then `make run` anew")
    else:
        yield ok("versions", here)
    installed = {plain(one.metadata["Name"] or ""): one.version for one in distributions()}
    installed["sys_platform"] = sys.platform
    try:
        wrong = [said for line in requires("raftar") or () if (said := requirement(line, installed))]
    except PackageNotFoundError:
        wrong = ["raftar is not installed as a package"]
    if wrong:
        yield fail("versions", "; ".join(wrong[:4]), "install again in a fresh environment: make clean, then make run")
    else:
        yield ok("versions", "every library is of a version this Raftar was made for")


def data_folder(settings: AllInOneSettings) -> Iterator[Finding]:
    """The folder is there, whole, ours alone, and takes a file."""
    folder = settings.data_dir
    if not folder.is_dir():
        yield fail(
            "folder", f"{folder} is not there", "name it with RAFTAR_DATA_DIR, or start a first house: raftar run"
        )
        return
    if (folder / UNFINISHED_RESTORE).exists():
        yield fail("folder", f"what was put into {folder} was not finished", "remove the folder, then restore again")
    if not os.access(folder, os.W_OK):
        yield fail("folder", f"{folder} cannot be written", "run as its owner, or give it to the user of the services")
        return
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        yield warn("folder", f"others can look into {folder}", f"chmod 700 {folder}")
    else:
        yield ok("folder", f"{folder} is there, and ours alone")
    free = shutil.disk_usage(folder).free
    yield disk(free, IngestSettings().ingest_disk_reserve_bytes, str(folder))


def clock(reading: Clock) -> Iterator[Finding]:
    """The wall clock beside the monotonic one, for a moment."""
    wall, monotonic = reading.now_ms(), reading.monotonic()
    time.sleep(CLOCK_SECONDS)
    yield clock_steps(reading.now_ms() - wall, (reading.monotonic() - monotonic) * 1000)


def keys(settings: AllInOneSettings) -> Iterator[Finding]:
    """Every workspace has its secrets here, and nobody else can read them."""
    keyring = Keyring(settings.data_dir)
    names = keyring.workspaces()
    if not names:
        yield warn(
            "keys",
            f"there is no workspace's key in {settings.data_dir / 'keys'}",
            "put the keys folder back from where it is kept; a house that never ran makes them at first start",
        )
        return
    for name in names:
        try:
            keyring.leaf_secret(name)
            keyring.sealing_public(name)
            count = len(keyring.private_keys(name))
        except RaftarError as error:
            yield fail("keys", str(error), "restore the keys folder from where it is kept; they cannot be made again")
            continue
        if count:
            yield ok("keys", f"workspace {name} has its leaf secret and {count} private sealing keys")
        else:
            yield warn("keys", f"workspace {name} has no private sealing key here", "names stay unreadable: bring it")
    yield modes(_private_files(settings.data_dir))


def _private_files(data_dir: Path) -> dict[str, int]:
    access = data_dir / local_access.FILE_NAME
    found = [path for path in (data_dir / "keys").rglob("*") if path.is_file() and path.suffix != ".public"]
    return {str(path): path.stat().st_mode for path in [*found, *([access] if access.exists() else [])]}


def ports(settings: AllInOneSettings) -> Iterator[Finding]:
    """Each service answers and is ready, or its port is free; where it stood last is in cli.json."""
    known = None
    try:
        known = local_access.load(settings.data_dir)
    except ValueError as error:
        yield fail("ports", str(error), "python -m services init --new-keys")
    for name in ("ingest", "profiles", "scoring"):
        port: int = getattr(settings, f"{name}_port")
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
        url = (getattr(known, f"{name}_url") if known else "") or f"http://{host}:{port}"
        yield _answer(name, url)


def _answer(name: str, url: str) -> Finding:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=ANSWER_SECONDS, trust_env=False)
        told = answer.json()["checks"]
    except httpx.TransportError as error:
        return _silent(name, url, error)
    except (ValueError, KeyError, TypeError):
        return fail(
            "ports", f"something else than {name} answers at {url}", f"set RAFTAR_{name.upper()}_PORT to another"
        )
    broken = [check for check, figures in told.items() if not figures.get("ok", True)]
    if answer.status_code != 200 or broken:
        return fail("ports", f"{name} at {url} is not ready: {', '.join(broken)}", f"look at {url}/readyz: it says why")
    return ok("ports", f"{name} at {url} is ready")


def _silent(name: str, url: str, error: httpx.TransportError) -> Finding:
    where = httpx.URL(url)
    try:
        socket.create_connection((where.host, where.port or 80), ANSWER_SECONDS).close()
        taken = True
    except OSError:
        taken = False
    if taken:
        said = f"{url} takes connections and does not answer as {name} does ({type(error).__name__})"
        return fail("ports", said, f"see what listens there, or set RAFTAR_{name.upper()}_PORT to another port")
    return warn("ports", f"{name} does not run at {url}", "start it: raftar run, or python -m services." + name)
