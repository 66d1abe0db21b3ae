"""What nobody should have to look for in a review: long files, empty words in names, somebody's own machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 400
EMPTY_WORDS = {"manager", "managers", "helper", "helpers", "util", "utils", "common", "base", "impl"}
EMPTY_STARTS = ("handle_", "process_", "do_")
NOT_OURS = {"handle_exit", "base_url", "process_id", "base_image"}
"""`handle_exit` overrides uvicorn's, `base_url` is httpx's, a `process_id` is the id of a process."""
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])/(?:root|home/\w+|work|Users/\w+)(?:/|\b(?=['\"\s)]))")
REGISTRIES = re.compile(r"https?://[\w.-]*(?:pypi\.|pythonhosted|registry\.|repo1?\.maven|proxy\.golang)[\w.-]*")
NAMED_BY_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
READ_AS_TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".xml", ".mako", ".json", ""}


def tracked() -> list[Path]:
    """Every file git knows that is still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


SOURCES = [path for path in tracked() if path.suffix == ".py"]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_names_say_what_a_thing_is() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in chain(path.relative_to(ROOT).with_suffix("").parts, names_in(ast.parse(path.read_text())))
        if is_empty(name)
    }
    assert sorted(found) == []


def names_in(tree: ast.Module) -> Iterator[str]:
    """Names the module gives: of classes, functions, arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def is_empty(name: str) -> bool:
    words = {word.lower() for part in name.split("_") for word in NAMED_BY_CAMEL.split(part)}
    return name not in NOT_OURS and (bool(words & EMPTY_WORDS) or name.lstrip("_").startswith(EMPTY_STARTS))


@pytest.mark.parametrize(
    ("name", "empty"),
    [("KeyManager", True), ("date_utils", True), ("_handle_push", True), ("baseline", False), ("done", False)],
)
def test_empty_names_are_told_from_others(name: str, empty: bool) -> None:
    assert is_empty(name) is empty


def test_nothing_knows_the_machine_it_was_written_on() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix in READ_AS_TEXT and path != Path(__file__)
        for pattern in (MACHINE_PATHS, REGISTRIES)
        for match in pattern.finditer(path.read_text(errors="replace"))
    }
    assert sorted(found) == []


def test_every_module_says_what_it_promises() -> None:
    silent = [path for path in SOURCES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]
    assert [path.relative_to(ROOT).as_posix() for path in silent] == []
