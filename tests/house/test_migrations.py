"""Migrations run while workers of the version before still do: they may add, and take away only in a later version.

A migration that takes away says in its text which version stopped using what it drops: `contract, unused since 0.4`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "migrations"
LATER = sorted(path for path in FOLDER.glob("*/[0-9]*.py") if not path.name.startswith("0001_"))
NARROWING = re.compile(r"(drop_|rename_|alter_column)")
SQL = re.compile(r"\b(DROP|RENAME|ALTER COLUMN|SET NOT NULL)\b", re.IGNORECASE)
CONTRACT = re.compile(r"contract, unused since \d+\.\d+")


def harms(source: str) -> list[str]:
    """What the `upgrade` in this text does to workers of the version before, line by line."""
    tree = ast.parse(source)
    if CONTRACT.search(ast.get_docstring(tree) or ""):
        return []
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "upgrade"]
    return [harm for upgrade in found for harm in _harms(upgrade)]


def _harms(upgrade: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(upgrade):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if NARROWING.match(node.func.attr):
                yield f"line {node.lineno}: {node.func.attr}"
            if node.func.attr == "add_column" and not _fills_itself(node):
                yield f"line {node.lineno}: older inserts leave it out: make it nullable or give it a server_default"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value):
            yield f"line {node.lineno}: {node.value.strip()[:40]}"


def _fills_itself(added: ast.Call) -> bool:
    words = {word.arg: word.value for call in ast.walk(added) if isinstance(call, ast.Call) for word in call.keywords}
    required = isinstance(words.get("nullable"), ast.Constant) and words["nullable"].value is False  # type: ignore[attr-defined]
    return not required or "server_default" in words


def test_every_migration_leaves_the_version_before_working() -> None:
    assert {path.name: found for path in LATER if (found := harms(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("statement", "harmful"),
    [
        ("op.create_table('t')", False),
        ("op.add_column('t', Column('c', Text))", False),
        ("op.add_column('t', Column('c', Text, nullable=False, server_default=''))", False),
        ("op.add_column('t', Column('c', Text, nullable=False))", True),
        ("op.drop_column('t', 'c')", True),
        ("op.alter_column('t', 'c', new_column_name='d')", True),
        ("op.rename_table('t', 'u')", True),
        ("op.execute('ALTER TABLE t DROP COLUMN c')", True),
        ("op.execute('CREATE INDEX i ON t (c)')", False),
    ],
)
def test_the_rule_tells_adding_from_taking_away(statement: str, harmful: bool) -> None:
    source = f'"""What it does."""\ndef upgrade():\n    {statement}\n'
    assert bool(harms(source)) == harmful
    assert harms(source.replace("What it does.", "Drops c: contract, unused since 0.4")) == []
