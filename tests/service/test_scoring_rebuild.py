"""The rebuild of scoring over REST and from the command line: who differs is named, put right, and put back."""

import asyncio
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli import rebuild as rebuild_cli
from services.cli.app import app
from services.cli.errors import WrongUse
from services.cli.house import House as CliHouse
from services.local_access import LocalAccess
from shared.access import READ
from shared.database import execute, open_database
from shared.topics import SEGMENT_CHANGES
from tests.service.scoring_house import NOW_MS, Customer, House, a_key, house


async def rebuilt(scoring: House, asked: str = "", accept: bool = False) -> dict[str, Any]:
    """What `raftar rebuild scoring --json` prints once it rests."""
    out, quiet = Console(file=StringIO(), width=200), Console(file=StringIO())
    access = LocalAccess(workspace="shop", secret_key=scoring.keys["shop"], scoring_url=scoring.url)
    service = CliHouse(access, Path("unused")).scoring()
    await asyncio.to_thread(rebuild_cli.run, service, asked, accept, out, quiet, True, True, lambda _: None)
    assert isinstance(out.file, StringIO)
    found: dict[str, Any] = json.loads(out.file.getvalue())
    return found


async def test_what_was_damaged_is_named_put_right_and_put_back(tmp_path: Path) -> None:
    ana, ben = Customer("ana"), Customer("ben")
    async with house(tmp_path) as scoring:
        await scoring.change(*(one.change(one.bought(NOW_MS - 1_000), at=NOW_MS) for one in (ana, ben)))
        await scoring.until_said(2, SEGMENT_CHANGES)
        found = await rebuilt(scoring)
        assert (found["phase"], found["equal"], found["customers"]) == ("ready", True, 2)
        assert found["digest_live"] == found["digest_made"]
        assert (await rebuilt(scoring, "--abandon"))["phase"] == "none"

        database = open_database("", tmp_path, "scoring")
        async with database.transaction() as connection:
            assert await execute(connection, "UPDATE decision SET due_at = 1 WHERE customer = $1", ana.id)
            assert await execute(connection, "UPDATE decision SET decision = $2 WHERE customer = $1", ben.id, b"?")
        await database.close()
        found = await rebuilt(scoring)
        assert found["equal"] is False
        assert found["differing"]["features"]["due_at"] >= 1
        assert {one["customer_id"] for one in found["differing"]["examples"]} == {ana.text, ben.text}
        assert (await scoring.ask("GET", "/v1/rebuild", "rival"))[1]["differing"]["customers"] == 0
        for method, path in (("POST", ""), ("POST", "/switch"), ("POST", "/rollback"), ("DELETE", "")):
            assert (await scoring.ask(method, f"/v1/rebuild{path}", "rival"))[0] == 403, "not the first workspace"
        assert (await scoring.ask("POST", "/v1/rebuild"))[0] == 409
        assert (await scoring.ask("POST", "/v1/rebuild/switch"))[0] == 409
        assert (await scoring.ask("POST", "/v1/rebuild/rollback"))[0] == 409
        assert (await rebuilt(scoring, "--switch", accept=True))["phase"] == "switched"
        assert (await scoring.get(f"/v1/customers/{ben.text}/decision"))["stage"]
        with pytest.raises(WrongUse):
            await rebuilt(scoring, "--abandon")
        assert (await rebuilt(scoring, "--drop-previous"))["phase"] == "none"
        assert len(await scoring.events(SEGMENT_CHANGES)) == 2


async def test_it_needs_an_admin_key(tmp_path: Path) -> None:
    async with house(tmp_path) as scoring:
        assert (await scoring.ask("DELETE", "/v1/rebuild"))[0] == 404
        fact, scoring.keys["reader"] = a_key("shop", (READ,), seed=9)
        await scoring.define(fact)
        for method, path in (("POST", ""), ("GET", ""), ("DELETE", ""), ("POST", "/switch"), ("POST", "/rollback")):
            status, body = await scoring.ask(method, f"/v1/rebuild{path}", "reader")
            assert (status, body["code"]) == (403, "missing_scope")


def test_the_command_explains_itself() -> None:
    shown = CliRunner().invoke(app, ["rebuild", "scoring", "--help"])
    assert shown.exit_code == 0
    assert "Example: raftar rebuild scoring" in shown.output
    both = CliRunner().invoke(app, ["rebuild", "scoring", "--switch", "--abandon"])
    assert isinstance(both.exception, WrongUse)
