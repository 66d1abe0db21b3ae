"""The walls between packages hold, and the files that start everything say what they should."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.house import settings_page

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
Compose = dict[str, dict[str, dict[str, object]]]


def test_import_contracts_hold() -> None:
    done = subprocess.run([BIN / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_make_target_is_in_the_readme_and_in_help() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = [line.split()[1] for line in listed.splitlines() if line.strip().startswith("make ")]
    assert {"run", "demo", "test", "check", "bench", "kafka", "clean"} <= set(targets)
    readme = (ROOT / "README.md").read_text()
    assert [target for target in targets if target != "help" and f"`make {target}`" not in readme] == []


def test_ci_leaves_nothing_out() -> None:
    assert "RAFTAR_REQUIRE_ALL=1 make test" in (ROOT / ".ci" / "run").read_text()


def test_what_is_installed_holds_all_that_is_read() -> None:
    """Package data patterns cover every file in the packages that is no Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]
    for package in ("services", "migrations"):
        covered = {path for pattern in patterns[package] for path in (ROOT / package).glob(pattern)}
        data = {
            path
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts
        }
        assert data <= covered, f"not installed: {sorted(data - covered)}"


@pytest.fixture(scope="module")
def compose() -> Compose:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_has_every_part_and_a_health_check_for_what_stays_up(
    compose: dict[str, dict[str, dict[str, object]]],
) -> None:
    services = compose["services"]
    assert set(services) == {"kafka", "postgres", "init", "ingest", "profiles", "scoring"}
    assert [name for name, service in services.items() if name != "init" and "healthcheck" not in service] == []


def test_compose_sets_what_there_is_and_starts_what_there_is(compose: Compose) -> None:
    known = {f"RAFTAR_{name}".upper() for found in settings_page.settings_classes() for name in found.model_fields}
    for name in ("init", "ingest", "profiles", "scoring"):
        service = compose["services"][name]
        environment, command = service["environment"], service["command"]
        assert isinstance(environment, dict)
        assert isinstance(command, list)
        assert {variable for variable in environment if variable.startswith("RAFTAR_")} <= known
        started = re.findall(r"services\.(\w+)|-m services (\w+)", " ".join(map(str, command)))
        assert {"".join(words) for words in started} <= {"migrate", "init", name}
        assert started


def test_compose_listens_on_loopback_only(compose: Compose) -> None:
    for service in compose["services"].values():
        ports = service.get("ports", [])
        assert isinstance(ports, list)
        assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []


def test_compose_names_only_volumes_it_declares(compose: Compose) -> None:
    for service in compose["services"].values():
        mounts = service.get("volumes", [])
        assert isinstance(mounts, list)
        assert {str(mount).split(":")[0] for mount in mounts} <= set(compose["volumes"])


def test_the_image_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0"}
