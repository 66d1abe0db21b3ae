"""Fixtures of the whole suite come from tests/support; what was not run is listed loudly at the end."""

from typing import Any

import pytest

from tests.support import required

pytest_plugins: tuple[str, ...] = ("tests.support.postgres", "tests.support.broker")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker beside others hands on what it did not run."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = dict(required.not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker beside others did not run is said by the one that began them."""
    required.not_run.update(getattr(node, "workeroutput", {}).get("not_run", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The loud list: each back end that could not be started, and what to install."""
    for what, why in required.not_run.items():
        terminalreporter.write_line(f"NOT RUN: everything that needs {what}: {why}", red=True, bold=True)
