"""The demo, whole: real processes, real purchases, alerts at the instants foreseen."""

import os
import re
import subprocess
import sys


def test_the_demo_shows_every_silence_it_foresaw() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTAR_")}
    shown = subprocess.run(
        [sys.executable, "-m", "services.cli", "demo", "--leave"],
        env=environment | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    crossed = re.findall(r"foreseen (\S+)  crossed (\S+)", shown.stdout)
    assert len(crossed) == 6, shown.stdout
    assert [foreseen for foreseen, _ in crossed] == [at for _, at in crossed]
    assert "because of complained" in shown.stdout
    assert "…" not in shown.stdout, "the table does not fit a terminal of 80 columns"
