"""The doctor on a house that runs, in both modes: nothing is broken, and what stops is named."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.house import House
from tests.support.kafka_broker import PROJECT


def doctor(house: House) -> dict[str, Any]:
    """What `raftar doctor --json` says of the house."""
    ports = {f"RAFTAR_{room.upper()}_PORT": str(house.of(room)[0].port) for room in ("ingest", "profiles", "scoring")}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", "--json"],
        env=os.environ | house.ground.environment | ports,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if told["ok"] else 1), done.stderr
    return told


def test_nothing_is_broken_in_a_house_that_runs(house: House) -> None:
    told = doctor(house)
    broken = [one for one in told["checks"] if one["level"] == "fail" and one["check"] not in ("folder", "clock")]
    assert broken == []
    ready = [one["says"] for one in told["checks"] if one["check"] == "ports"]
    assert len(ready) == 3
    assert all(said.endswith("is ready") for said in ready)
