"""Services' output: all of it in files that stay bounded, and on the screen what a person must see, once."""

from pathlib import Path

import pytest

from services import logbook
from services.logbook import Logbook, for_people
from shared.clock import FrozenClock

QUIET = b'{"event": "listening", "service": "ingest", "level": "info", "timestamp": "2024-11-20T10:00:00Z"}\n'
WARNING = b'{"partition": 3, "event": "stopped", "service": "scoring", "level": "warning", "logger": "loop"}\n'


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


def test_all_lines_are_in_the_file_and_only_news_is_shown(tmp_path: Path, clock: FrozenClock) -> None:
    shown: list[str] = []
    book = Logbook(tmp_path / "logs", clock, shown.append)
    for line in (QUIET, WARNING, WARNING.replace(b"3", b"4"), QUIET):
        book.hear("scoring", line)
    assert (tmp_path / "logs" / "scoring.log").read_bytes().count(b"\n") == 4
    assert shown == ["scoring warning: stopped (partition=3)"]
    clock.advance(int(1000 * logbook.AGAIN_SECONDS))
    book.hear("scoring", WARNING)
    assert len(shown) == 2


def test_a_file_that_would_grow_too_long_makes_room(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "FILE_BYTES_MAX", 3 * len(QUIET))
    book = Logbook(tmp_path, clock, print)
    for _ in range(8):
        book.hear("ingest", QUIET)
    assert {path.name: path.stat().st_size // len(QUIET) for path in tmp_path.iterdir()} == {
        "ingest.log": 2,
        "ingest.log.1": 3,
    }


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (QUIET, ""),
        (b"", ""),
        (b'{"event": "gone", "level": "error"}', "x error: gone"),
        (b"Traceback (most recent call last):", "x: Traceback (most recent call last):"),
        (b'["no", "object"]', 'x: ["no", "object"]'),
        (b"\xff", "x: \ufffd"),
    ],
)
def test_what_people_see_of_a_line(line: bytes, shown: str) -> None:
    assert for_people("x", line) == shown
