"""The whole house in one command: migrate, first start, three services kept alive, and what to paste next.

This is the only module that knows all three services, and it knows them as commands and ports.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import msgspec
from pydantic import Field
from rich.console import Console

import migrations
from migrations import SERVICES
from services import local_access, logbook
from services.first_start import FirstStart, check_whole, first_start
from services.local_access import LocalAccess
from services.logbook import Logbook
from services.supervisor import Child, Supervisor
from shared.clock import Clock
from shared.database import open_database
from shared.errors import RaftarError
from shared.settings import HouseSettings

READY_SECONDS = 60.0
POLL_SECONDS = 0.1
RESTARTS_BEFORE_READY_MAX = 3


class CannotStart(RaftarError):
    """The house cannot start here; the message says what to change."""


class AllInOneSettings(HouseSettings):
    """The house's settings and the three ports. Port 0 takes a free one."""

    ingest_port: int = Field(8080, ge=0, le=65535, description="port of ingest; 0: a free one, printed")
    profiles_port: int = Field(8081, ge=0, le=65535, description="port of profiles; 0: a free one, printed")
    scoring_port: int = Field(8082, ge=0, le=65535, description="port of scoring; 0: a free one, printed")


@dataclass(frozen=True, slots=True)
class Room:
    """One service: its name, the module that runs it, the variable that holds its port."""

    name: str
    module: str
    port: int

    @property
    def port_variable(self) -> str:
        return f"RAFTAR_{self.name.upper()}_PORT"


def rooms(settings: AllInOneSettings) -> tuple[Room, ...]:
    """The three services with their ports settled. Raises CannotStart when a port is taken."""
    wanted = {"ingest": settings.ingest_port, "profiles": settings.profiles_port, "scoring": settings.scoring_port}
    return tuple(Room(name, f"services.{name}", _port(settings.host, name, port)) for name, port in wanted.items())


async def run(settings: AllInOneSettings, clock: Clock, console: Console) -> int:
    """Start the house and keep it until SIGINT or SIGTERM. Returns the exit code.

    Raises RaftarError, with the next step in its message, when the house cannot start.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    check_whole(settings.data_dir)
    with one_house_per_folder(settings.data_dir):
        house = rooms(settings)
        await migrate(settings)
        started = await first_start(settings, clock)
        for line in started.done:
            console.print(f"[dim]{line}[/dim]")
        supervisor = _supervisor(house, settings, clock, console)
        stop = _stop_on_signals()
        supervisor.start()
        try:
            if not await _ready(house, settings, clock, supervisor, stop):
                return 0
            access = remember(settings, started, house)
            console.print(welcome(access, settings.data_dir / logbook.FOLDER), highlight=False, soft_wrap=True)
            await stop.wait()
            console.print("[dim]Stopping: what was accepted is in the log.[/dim]")
        finally:
            await supervisor.stop()
    return 0


async def migrate(settings: HouseSettings, begun: bool = False) -> None:
    """Bring the databases of all services to this version's tables. Safe to run again.

    `begun`: the folder is being filled by the caller. Raises Stopped for one that somebody else did not finish.
    """
    if not begun:
        check_whole(settings.data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=local_access.FOLDER_OWNER_ONLY)
    for service in SERVICES:
        database = open_database(settings.database_url, settings.data_dir, service)
        try:
            await migrations.migrate(database, service)
        finally:
            await database.close()


def remember(settings: HouseSettings, started: FirstStart, house: tuple[Room, ...]) -> LocalAccess:
    """Write where the services are, for the command line, and return it."""
    urls = {f"{room.name}_url": f"http://{_reachable(settings.host)}:{room.port}" for room in house}
    access = msgspec.structs.replace(started.access, **urls)
    local_access.save(settings.data_dir, access)
    return access


def welcome(access: LocalAccess, logs: Path) -> str:
    """What a person needs next: URLs, keys, a request that works when pasted, and where the services' logs are."""
    if not access.write_key:
        keys = "Keys were made before and are not kept here; `python -m services init --new-keys` makes two more."
    else:
        keys = f"Public write key   {access.write_key}\nSecret key         {access.secret_key}"
    return f"""
[bold]Raftar is running.[/bold]

Post events        {access.ingest_url}/v1/touchpoints   (docs: {access.ingest_url}/docs)
Customers          {access.profiles_url}/v1/customers   (docs: {access.profiles_url}/docs)
Alerts, live       {access.scoring_url}/v1/alerts/stream   (docs: {access.scoring_url}/docs)

{keys}

Command line       {os.path.relpath(Path(sys.executable).with_name("raftar"))} customer user:ada   (and: --help)
Logs               {logs}/*.log   (warnings and errors are shown here too)

Paste this: a customer complains, and the alert stands there a moment later.

{ready_curl(access)}

{alerts_curl(access)}

Ctrl-C stops everything; nothing accepted is lost.
"""


def ready_curl(access: LocalAccess) -> str:
    """A request that posts one touchpoint, as one line to paste."""
    key = access.secret_key or "YOUR_SECRET_KEY"
    body = '{"kind":"complained","user_id":"ada","properties":{"complaint_id":"C-1"}}'
    return f"curl -s -u {key}: -H 'content-type: application/json' -d '{body}' {access.ingest_url}/v1/touchpoints"


def alerts_curl(access: LocalAccess) -> str:
    """A request that lists the alerts, as one line to paste."""
    return f"curl -s -u {access.secret_key or 'YOUR_SECRET_KEY'}: {access.scoring_url}/v1/alerts"


@contextlib.contextmanager
def one_house_per_folder(data_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock; CannotStart when another house holds it. The system frees it when we die."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=local_access.FOLDER_OWNER_ONLY)
    with (data_dir / "house.lock").open("w") as file:
        _lock(file, data_dir)
        yield


def _lock(file: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotStart(
            f"another house is running on {data_dir}; stop it, or choose another folder with RAFTAR_DATA_DIR"
        ) from error


def _port(host: str, name: str, port: int) -> int:
    """`port` when it is free, a free one for 0. It stays the same over restarts, so that printed URLs stay true."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"{name} cannot listen on {host}:{port} ({error.strerror}); set RAFTAR_{name.upper()}_PORT to another "
                "port, or to 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


def _supervisor(house: tuple[Room, ...], settings: HouseSettings, clock: Clock, console: Console) -> Supervisor:
    """Keeps the services; what they log goes to files, and what a person must see to the console as well."""

    def show(line: str) -> None:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    book = Logbook(settings.data_dir / logbook.FOLDER, clock, show)
    [profiles_port] = [room.port for room in house if room.name == "profiles"]
    profiles_url = f"http://{_reachable(settings.host)}:{profiles_port}"
    return Supervisor([_child(room, settings, profiles_url) for room in house], clock, show, book.hear)


def _child(room: Room, settings: HouseSettings, profiles_url: str) -> Child:
    environment = {**os.environ, "RAFTAR_DATA_DIR": str(settings.data_dir), room.port_variable: str(room.port)}
    environment["RAFTAR_PROFILES_URL"] = profiles_url  # scoring asks there about the past
    environment["PYTHONUNBUFFERED"] = "1"  # its output is a pipe: a traceback must not wait in a buffer
    return Child(room.name, (sys.executable, "-m", room.module), environment)


def _reachable(host: str) -> str:
    """The host to put into a URL for somebody on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _ready(
    house: tuple[Room, ...], settings: HouseSettings, clock: Clock, supervisor: Supervisor, stop: asyncio.Event
) -> bool:
    """Wait until every service is ready; False when asked to stop meanwhile. Raises CannotStart when one fails."""
    deadline = clock.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        for room in house:
            url = f"http://{_reachable(settings.host)}:{room.port}/readyz"
            while not await _answers(client, url):
                if stop.is_set():
                    return False
                if supervisor.restarts[room.name] >= RESTARTS_BEFORE_READY_MAX or clock.monotonic() > deadline:
                    logs = settings.data_dir / logbook.FOLDER
                    raise CannotStart(f"{room.name} does not come up; the lines above and {logs} say why ({url})")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)
    return True


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False
