"""A house for a minute: the real one, in a folder of its own, on free ports, ended with the demo."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import sleep

from services import local_access
from services.cli.errors import CommandError
from services.cli.house import House
from services.supervisor import GRACE_SECONDS, end_with
from shared.clock import Clock

START_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 15


@contextmanager
def house_in(folder: Path, clock: Clock) -> Iterator[House]:
    """Run `python -m services run` on `folder` for the block. Raises CommandError when it does not start."""
    log = folder / "house.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    environment |= {"RAFTAR_DATA_DIR": str(folder), "RAFTAR_TIME_ZONE": "UTC"}
    environment |= {f"RAFTAR_{name}_PORT": "0" for name in ("INGEST", "PROFILES", "SCORING")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "run"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours: we end the house when we have ended
            preexec_fn=partial(end_with, os.getpid()),  # noqa: PLW1509  (forked before any thread of ours is started)
        )
        try:
            yield House(_started(process, folder, log, clock), folder)
        finally:
            _end(process)


def _started(process: "subprocess.Popen[bytes]", folder: Path, log: Path, clock: Clock) -> local_access.LocalAccess:
    """Wait until the house has said where it is."""
    deadline = clock.monotonic() + START_SECONDS
    while clock.monotonic() < deadline and process.poll() is None:
        access = local_access.load(folder)
        if access is not None and access.scoring_url:
            return access
        sleep(POLL_SECONDS)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
    raise CommandError(f"the house did not start:\n{last}", "`make run` shows the same with its own data folder")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
