"""What a test needs from the machine: missing is a loud skip, and a failure where RAFTAR_REQUIRE_ALL=1."""

import os
from typing import NoReturn

import pytest

not_run: dict[str, str] = {}
"""What could not be started, and why; printed at the end of the run."""


def unavailable(what: str, why: str) -> NoReturn:
    """Say that `what` could not be started: fails under RAFTAR_REQUIRE_ALL=1, else skips and is listed at the end."""
    not_run[what] = why
    if os.environ.get("RAFTAR_REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is required (RAFTAR_REQUIRE_ALL=1) but could not be started: {why}", pytrace=False)
    pytest.skip(f"{what} is not here: {why}")
