"""The documents say what is true: links lead somewhere, settings are all there, nothing points outside."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.house import settings_page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
HOST = re.compile(r"https?://([^/\s\"'`<>)\]}:]+)")

RESERVED = re.compile(r"(.+\.)?(example|test|invalid|example\.(com|org|net))")
KNOWN_HOSTS = {
    "127.0.0.1",
    "localhost",
    "keepachangelog.com",
    "semver.org",
    "www.apache.org",
    "json-schema.org",
}
CONTAINER_HOSTS = {"ingest", "profiles", "scoring"}
SOURCES = ("shared", "services", "migrations", "docs", ".ci")
TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".xml", ".ini", ".mako", ".html", ".js", ".css", ""}


def anchors(page: Path) -> set[str]:
    """The anchors a page's headings make."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in HEADING.findall(page.read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        names = (target.partition("#")[0] for target in LINK.findall(page.read_text()) if not target.startswith("http"))
        ahead += [(page.parent / name).resolve() for name in names if name]
    assert set(PAGES) - reached <= {ROOT / "CHANGELOG.md"}


def test_every_setting_is_documented() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run: make docs"


def test_every_setting_says_what_it_means() -> None:
    for found in settings_page.settings_classes():
        for name, field in found.model_fields.items():
            assert field.description, f"{found.__name__}.{name}"


def test_a_setting_that_two_parts_read_has_one_default() -> None:
    defaults: dict[str, object] = {}
    for found in settings_page.settings_classes():
        for name, field in found.model_fields.items():
            assert defaults.setdefault(name, field.default) == field.default, name


def tracked(*folders: str) -> list[Path]:
    """Files of the repository in these folders, or at its top."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    return [ROOT / path for path in paths if len(path.parts) == 1 or path.parts[0] in folders]


def test_nothing_points_to_a_host_outside() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), host)
        for path in tracked(*SOURCES)
        if path.suffix in TEXT and path.name != "LICENSE"
        for host in HOST.findall(path.read_text(errors="replace"))
    }
    allowed = KNOWN_HOSTS | CONTAINER_HOSTS
    assert sorted((path, host) for path, host in found if host not in allowed and not _reserved(host)) == []


def _reserved(host: str) -> bool:
    """Names set aside for examples (RFC 2606), and what a program fills in."""
    return host.startswith("{") or RESERVED.fullmatch(host) is not None


def test_every_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\S+?)::(\w+)`", (ROOT / "docs" / "promises.md").read_text())
    assert len(named) > 20
    assert [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ] == []


def test_every_field_and_type_of_what_scoring_says_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "alerts.md").read_text()
    told = [json.loads(path.read_text()) for path in (ROOT / "tests" / "golden" / "events").glob("*.json")]
    assert told
    written = set(re.findall(r"`(?:data\.)?(\w+)`", page))
    assert {field for event in told for field in fields_of(event)} - written - INSIDE_LISTS == set()
    assert {str(event["type"]).rpartition(".")[2] for event in told} <= written | {"changed"}


INSIDE_LISTS = {"name", "amount", "condition"}
"""Of the reasons' parts and conditions, which are described as one."""


def fields_of(value: object) -> set[str]:
    """Names of all fields, however deep."""
    if isinstance(value, list):
        return {field for one in value for field in fields_of(one)}
    if isinstance(value, dict):
        return set(value) | {field for one in value.values() for field in fields_of(one)}
    return set()
