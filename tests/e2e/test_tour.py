"""The README's tour, typed in as it stands: every command works, and what it shows is what the tour says."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services import local_access

ROOT = Path(__file__).parents[2]
TOUR = re.compile(r"<!-- tour:begin -->(.*)<!-- tour:end -->", re.DOTALL)
STEP = re.compile(r"^```sh\n(.*?)^```\n(?:```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"[A-Za-z_][A-Za-z_.]{3,}")
ENDLESS = ("curl -sN", "raftar tail")
START_SECONDS = 90.0
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """What the tour tells to type, and what it says will be seen."""

    typed: str
    shown: str

    @property
    def endless(self) -> bool:
        return any(start in self.typed for start in ENDLESS)


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell in the folder of a house, with the keys the house printed."""

    folder: Path
    environment: dict[str, str]

    def start(self, typed: str, said: Path) -> "subprocess.Popen[bytes]":
        with said.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-c", f"set -o pipefail; {typed}"],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("tour")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    ports = {f"RAFTAR_{name}_PORT": "0" for name in ("INGEST", "PROFILES", "SCORING")}
    said = folder / "said"
    with said.open("wb") as file:
        house = subprocess.Popen(
            [sys.executable, "-m", "services", "run"], cwd=folder, env=clean | ports, stdout=file, stderr=file
        )
    try:
        assert seen(said, ["Ctrl-C stops everything"], START_SECONDS), said.read_text()
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        access = local_access.load(folder / "data")
        assert access is not None
        yield Shell(folder, clean | {"WRITE_KEY": access.write_key, "SECRET_KEY": access.secret_key, "COLUMNS": "80"})
    finally:
        house.terminate()
        house.wait(timeout=40)


def seen(file: Path, words: list[str], seconds: float) -> bool:
    """Whether all the words come to stand in the file."""
    deadline = time.monotonic() + seconds
    while [word for word in words if word not in file.read_text()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def steps(folder: Path) -> list[Step]:
    """The tour's steps, with the ports this house took."""
    access = local_access.load(folder / "data")
    found = TOUR.search((ROOT / "README.md").read_text())
    assert access is not None
    assert found is not None
    told = [Step(typed, shown) for typed, shown in STEP.findall(found[1])]
    for port, url in (("8080", access.ingest_url), ("8081", access.profiles_url), ("8082", access.scoring_url)):
        told = [replace(step, typed=step.typed.replace(f"http://127.0.0.1:{port}", url)) for step in told]
    return told


def words_of(shown: str) -> list[str]:
    """Words that must be seen again; lines that end in `…` are cut off, so their last word is not one."""
    return [word for word in WORD.findall(re.sub(r"\S*…", "", shown)) if not re.fullmatch(r"[A-Fa-f]+", word)]


def test_the_tour_can_be_taken_as_it_stands(shell: Shell) -> None:
    told = steps(shell.folder)
    assert len(told) >= 8
    listening = []
    for number, step in enumerate(one for one in told if one.endless):
        said = shell.folder / f"listening-{number}"
        listening.append((shell.start(step.typed, said), step, said))
    first = listening[0][2]
    assert seen(first, ["event: ready"], PATIENCE_SECONDS), first.read_text()
    assert seen(listening[1][2], ["following"], PATIENCE_SECONDS)
    try:
        for number, step in enumerate(one for one in told if not one.endless):
            take(shell, step, shell.folder / f"step-{number}")
        for _, step, said in listening:
            assert seen(said, ["7aa69392" if "curl" in step.typed else "alert.raised"], PATIENCE_SECONDS)
            assert seen(said, words_of(step.shown), PATIENCE_SECONDS), said.read_text()
    finally:
        for process, _, _ in listening:
            os.killpg(process.pid, signal.SIGTERM)  # SIGINT is ignored by all that a shell started beside itself
            process.wait(timeout=10)


def take(shell: Shell, step: Step, said: Path) -> None:
    """Type it until what it shows is what the tour says: reading comes a moment after writing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        process = shell.start(step.typed, said)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0, f"{step.typed}\n{said.read_text()}"
        missing = [word for word in words_of(step.shown) if word not in said.read_text()]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{step.typed}\ndid not show {missing}:\n{said.read_text()}"
