"""What the services of one command print: all of it into bounded files, and on the screen what a person must see."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from services.local_access import FOLDER_OWNER_ONLY
from shared.clock import Clock

FOLDER = "logs"
FILE_BYTES_MAX = 10 << 20
"""A file that would grow over this becomes `<name>.log.1`, and the one before it goes."""
AGAIN_SECONDS = 60.0
"""The same warning is shown again after this time; the file has every one of them."""
QUIET = frozenset({"debug", "info"})
_KNOWN_TO_THE_READER = frozenset({"event", "level", "logger", "service", "timestamp"})
_FIGURE = re.compile(r"\d+(\.\d+)?")


class Logbook:
    """Writes what services say to `<folder>/<service>.log`, and hands warnings, errors and plain text to `show`."""

    def __init__(self, folder: Path, clock: Clock, show: Callable[[str], None]) -> None:
        self.folder = folder
        self._clock, self._show = clock, show
        self._shown_at: dict[tuple[str, str], float] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)

    def hear(self, service: str, line: bytes) -> None:
        """Take one line of a service, with or without its line end."""
        text = line.rstrip(b"\r\n")
        self._write(service, text + b"\n")
        said = for_people(service, text)
        if said and self._is_news(service, said):
            self._show(said)

    def _write(self, service: str, line: bytes) -> None:
        path = self.folder / f"{service}.log"
        if path.exists() and path.stat().st_size + len(line) > FILE_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as file:
            file.write(line)

    def _is_news(self, service: str, said: str) -> bool:
        """Whether this was not shown just now; figures in it do not make it another one."""
        about, now = (service, _FIGURE.sub("#", said)), self._clock.monotonic()
        before = self._shown_at.get(about)
        if before is not None and now - before < AGAIN_SECONDS:
            return False
        self._shown_at[about] = now
        return True


def for_people(service: str, line: bytes) -> str:
    """The line as a person should see it; "" for what only the file needs. Text that is no log line is shown as it is.

    A log line is `scoring warning: statements were not read (topic=watermarks)`.
    """
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = line.decode(errors="replace")
        return f"{service}: {text}" if text.strip() else ""
    if entry.get("level") in QUIET:
        return ""
    more = ", ".join(f"{name}={value}" for name, value in entry.items() if name not in _KNOWN_TO_THE_READER)
    return f"{service} {entry.get('level', 'says')}: {entry.get('event', '')}" + (f" ({more})" if more else "")
