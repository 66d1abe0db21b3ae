"""What the README tells people to type is what the code takes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.importing.command import Asked, source_of
from services.ingest.domain.admission import admit_native
from services.ingest.domain.terms import Admitted, Arrival, Limits, Sender
from shared.clock import FrozenClock
from shared.events import SECRET

README = (Path(__file__).parents[2] / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in (Path(__file__).parents[2] / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOW_MS = 1_800_000_000_000
ALL_COMMANDS = ["run", "demo", "import", "tail", "customer", "keys", "keys create", "keys list", "keys revoke"]


def commands(first: str) -> list[list[str]]:
    """Words of every command in the pages' blocks that begins with `first`; continued lines are one."""
    blocks = [block for page in PAGES for block in BLOCK.findall(page)]
    texts = [block.replace("\\\n", " ") for block in blocks]
    lines = [line for text in texts for line in re.findall(rf"^{first} .*(?:\n  .*)*", text, re.MULTILINE)]
    return [shlex.split(line, comments=True) for line in lines]


def admitted(item: dict[str, Any]) -> bool:
    """Whether the door takes it from a secret key."""
    now_ms = NOW_MS
    sender = Sender("main", "crm", SECRET, bytes(32))
    raw = json.dumps(item).encode()
    arrival = Arrival(now_ms, None, "127.0.0.1")
    return isinstance(admit_native(item, raw, sender, arrival, FrozenClock().new_id, Limits()), Admitted)


def test_the_curls_are_there_and_their_bodies_are_accepted() -> None:
    native = [words for words in commands("curl") if "-d" in words and "/v1/touchpoints" in " ".join(words)]
    bodies = [words[words.index("-d") + 1] for words in native]
    assert bodies
    for body in bodies:
        assert admitted(json.loads(body)), body


def test_the_imports_are_understood(tmp_path: Path) -> None:
    seen = 0
    for words in commands("raftar"):
        if words[1] != "import":
            continue
        options = list(zip(words[3::2], words[4::2], strict=True))
        rules = tuple(value for name, value in options if name == "--map")
        constants = tuple(value for name, value in options if name == "--set")
        assert {name for name, _ in options} <= {"--map", "--set"}
        source_of(Asked(tmp_path / words[2], rules, constants))
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_shows_an_example_and_the_exit_codes_are_told(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    assert "Example: raftar" in shown.output or command == "keys"
    assert "Exit codes" in CliRunner().invoke(app, ["--help"]).output


def test_the_installed_command_says_the_next_step_and_shows_no_traceback(tmp_path: Path) -> None:
    nowhere = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    raftar = Path(sys.executable).with_name("raftar")
    ended = subprocess.run([raftar, "customer", "ada"], cwd=tmp_path, env=nowhere, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Next: start a house" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_command_is_in_the_readme() -> None:
    assert [command for command in ALL_COMMANDS if f"raftar {command.split()[0]}" not in README] == []
