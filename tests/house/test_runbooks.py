"""Whoever is woken finds the page: every metric, check, alarm and log line that asks for attention has its runbook."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.test_docs import anchors

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks.md"
RULES = ROOT / "docs" / "reference" / "alerts.prometheus.yaml"
METRIC = re.compile(r"\braftar_[a-z0-9_]+")


def documented_metrics() -> set[str]:
    """The metrics a house serves, as its reference page has them."""
    return set(METRIC.findall((ROOT / "docs" / "reference" / "metrics.md").read_text()))


def first_cells() -> set[str]:
    """What stands in code in the first column of the page's tables."""
    rows = [line for line in RUNBOOKS.read_text().splitlines() if line.startswith("| `")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def rules() -> list[dict[str, Any]]:
    """All rules of the Prometheus file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def said() -> Iterator[tuple[str, str]]:
    """(file, line) of every warning and error a service writes."""
    for path in sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                is_log = isinstance(call.func.value, ast.Name) and call.func.value.id == "_log"
                if is_log and call.func.attr in ("warning", "error"):
                    first = call.args[0]
                    yield from ((path.name, word) for word in _words(first))


def _words(first: ast.expr) -> Iterator[str]:
    if isinstance(first, ast.Constant):
        yield str(first.value)
    elif isinstance(first, ast.IfExp):
        yield from _words(first.body)
        yield from _words(first.orelse)


def test_every_metric_has_a_runbook_and_nothing_else_is_listed() -> None:
    listed = {word for word in first_cells() if METRIC.fullmatch(word)}
    assert documented_metrics() - listed == set()
    assert listed - documented_metrics() == set()


def test_every_log_line_that_asks_for_attention_has_a_runbook() -> None:
    found = set(said())
    assert len(found) > 20
    assert sorted((file, line) for file, line in found if line not in first_cells()) == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_prometheus_rule_names_metrics_that_exist_and_its_runbook(rule: dict[str, Any]) -> None:
    assert set(METRIC.findall(rule["expr"])) <= documented_metrics()
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert re.fullmatch(r"\d+[sm]", rule.get("for", "1m"))
    assert rule["expr"].count("(") == rule["expr"].count(")")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == RUNBOOKS
    assert anchor in anchors(RUNBOOKS)
    assert rule["annotations"]["summary"]


def test_every_alarm_of_the_page_has_a_rule() -> None:
    alarms = RUNBOOKS.read_text().partition("## Alarms")[2].partition("\n## ")[0]
    named = {rule["annotations"]["runbook"].partition("#")[2] for rule in rules()}
    headings = re.findall(r"^### (.+)$", alarms, re.MULTILINE)
    assert {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings} == named
