"""Fixtures of the whole suite come from tests/support; what was not run is listed loudly at the end."""

import pytest

from tests.support import required

pytest_plugins: tuple[str, ...] = ("tests.support.postgres", "tests.support.broker")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The loud list: each back end that could not be started, and what to install."""
    for what, why in required.not_run.items():
        terminalreporter.write_line(f"NOT RUN: everything that needs {what}: {why}", red=True, bold=True)
