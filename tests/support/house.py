"""A whole house of real processes for the tests: embedded, or on a real broker and a real PostgreSQL.

Each service is a child of its own on a loopback port that survives its restarts, known by its saved process id, and
ended by the kernel when the test process dies. The folder keeps everything it printed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services import local_access
from services.first_start import open_log
from services.local_access import LocalAccess
from services.scoring.defaults import default_rules
from services.scoring.domain.definitions import DEFAULT_MODEL
from shared.clock import SystemClock
from shared.codec import encode
from shared.database import Database, open_database
from shared.events import DefinitionPublished
from shared.log.port import Outgoing
from shared.settings import HouseSettings
from shared.topics import DEFINITIONS, topics
from tests.support.kafka_broker import DIE_WITH_PARENT, PROJECT, free_ports

WORKSPACE = "main"
READY_SECONDS = 60.0
END_SECONDS = 20.0
PRINTED_BYTES_SHOWN = 6_000


@dataclass(frozen=True, slots=True)
class Ground:
    """What a house stands on. Without `bootstrap` and `database_url` it is embedded (SQLite)."""

    folder: Path
    bootstrap: str = ""
    database_url: str = ""
    partitions: int = 8

    @property
    def settings(self) -> HouseSettings:
        """The same, as every service reads it."""
        return HouseSettings(
            data_dir=self.folder,
            partitions=self.partitions,
            kafka_bootstrap=self.bootstrap,
            database_url=self.database_url,
            workspace=WORKSPACE,
            time_zone="UTC",
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a child process; nothing of the surrounding house leaks in."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
        return clean | {
            "RAFTAR_DATA_DIR": str(self.folder),
            "RAFTAR_PARTITIONS": str(self.partitions),
            "RAFTAR_KAFKA_BOOTSTRAP": self.bootstrap,
            "RAFTAR_DATABASE_URL": self.database_url,
            "RAFTAR_WORKSPACE": WORKSPACE,
            "RAFTAR_TIME_ZONE": "UTC",
            "PYTHONUNBUFFERED": "1",
        }


@dataclass(slots=True)
class Service:
    """One service process. Every method may be called again after any other.

    `launcher`: the module that starts it, given the room ("": the service itself) · `settings`: variables of its own.
    """

    name: str
    room: str
    port: int
    ground: Ground
    launcher: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it answers, over all its restarts."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def log_file(self) -> Path:
        """What it printed, over all its restarts."""
        return self.ground.folder / f"{self.name}.log"

    def launch(self) -> None:
        """Start it without waiting. From the main thread: the kernel ties its life to the thread that started it."""
        assert not self.alive(), f"{self.name} runs already"
        self.starts += 1
        port = {f"RAFTAR_{self.room.upper()}_PORT": str(self.port)}
        module = [self.launcher, self.room] if self.launcher else [f"services.{self.room}"]
        with self.log_file.open("ab") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, sys.executable, "-m", *module],
                env=self.ground.environment | port | self.settings,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether its process exists (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """With which code its process ended, and the last line it printed."""
        code = None if self._process is None else self._process.poll()
        lines = self.printed().strip().splitlines()
        return f"{self.name} with code {code}: {lines[-1] if lines else 'without a word'}"

    def kill9(self) -> None:
        """End it as a power cut of the process would, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def terminate(self, seconds: float = END_SECONDS) -> int:
        """End it in order; returns its exit code. Fails when that takes longer than `seconds`."""
        return self._end(signal.SIGTERM, seconds)

    def freeze(self) -> None:
        """Stop it from running without closing anything (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        os.kill(self.pid, signal.SIGCONT)

    def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when it is ready; fails with what it printed when it ends or takes longer."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            assert self.alive(), f"{self.name} ended by itself:\n{self.printed()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready after {seconds:g} s:\n{self.printed()}"
            time.sleep(0.1)

    def printed(self) -> str:
        """The end of what it printed."""
        with suppress(FileNotFoundError):
            return self.log_file.read_text(errors="replace")[-PRINTED_BYTES_SHOWN:]
        return ""

    def _end(self, how: signal.Signals, seconds: float = END_SECONDS) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
            os.kill(process.pid, signal.SIGCONT)  # a frozen process takes no SIGTERM
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end within {seconds:g} s of {how.name}") from None


class House:
    """The services on one ground. `prepare()`, then `start()`; `close()` ends all of them whatever happened."""

    def __init__(
        self, ground: Ground, rules: Mapping[str, Any] | None = None, workers: int = 1, launcher: str = ""
    ) -> None:
        self.ground = ground
        self._rules = dict(rules) if rules is not None else default_rules()
        names = ["ingest"] + [f"{room}-{n}" for room in ("profiles", "scoring") for n in range(1, workers + 1)]
        ports = free_ports(len(names))
        self.services = {
            name: Service(name, name.partition("-")[0], port, ground, launcher)
            for name, port in zip(names, ports, strict=True)
        }

    @property
    def access(self) -> LocalAccess:
        """The keys made at first start."""
        access = local_access.load(self.ground.folder)
        assert access is not None, "the house was not prepared"
        return access

    def of(self, room: str) -> list[Service]:
        """All workers of one service."""
        return [service for service in self.services.values() if service.room == room]

    async def prepare(self) -> None:
        """Topics, rules, tables, workspace and keys, by the commands an operator types."""
        async with open_log(self.ground.settings, SystemClock()) as log:
            await log.ensure(topics(self.ground.partitions))
            fact = DefinitionPublished(WORKSPACE, 1, 0, self._rules, dict(DEFAULT_MODEL))
            await log.append(DEFINITIONS, [Outgoing(0, encode(fact))])
        for command in ("migrate", "init"):
            self._run(command)

    def start(self) -> None:
        """Start every service; return when all are ready."""
        for service in self.services.values():
            service.launch()
        for service in self.services.values():
            service.wait_until_ready()

    def add(self, room: str) -> Service:
        """One more worker of a service, started and ready."""
        name = f"{room}-{len(self.of(room)) + 1}"
        launcher = self.of(room)[0].launcher
        self.services[name] = service = Service(name, room, free_ports(1)[0], self.ground, launcher)
        service.launch()
        service.wait_until_ready()
        return service

    def client(self, room: str, key: str = "", seconds: float = 10.0) -> httpx.AsyncClient:
        """A client of the first worker of a service, with the secret key unless another is given."""
        auth = (key or self.access.secret_key, "")
        return httpx.AsyncClient(base_url=self.of(room)[0].url, auth=auth, timeout=seconds, trust_env=False)

    def database(self, room: str) -> Database:
        """A reader's own connection to one service's database."""
        return open_database(self.ground.database_url, self.ground.folder, room)

    def close(self) -> None:
        """End every service at once."""
        for service in self.services.values():
            service.kill9()

    def said(self) -> str:
        """The end of what every service printed, for a failure message."""
        return "\n".join(f"--- {service.name}\n{service.printed()}" for service in self.services.values())

    def _run(self, command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "services", command],
            env=self.ground.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"python -m services {command}:\n{done.stdout}{done.stderr}"


@contextmanager
def closing(house: House) -> Iterator[House]:
    """The house for the block; what its services printed is shown when the block fails."""
    try:
        yield house
    except BaseException:
        print(house.said())
        raise
    finally:
        house.close()
