"""The model fitted to a workspace's own customers, over REST and from the command line, with a real fitting process."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.cli import model as model_command
from services.cli.house import House as CliHouse
from services.local_access import LocalAccess
from services.scoring import fits
from services.scoring.fit_runs import RUNNING, FitRuns, Run
from shared.access import READ
from shared.database import open_database
from shared.events import ImportStarted
from shared.topics import SEGMENT_CHANGES
from tests.service.scoring_house import NOW_MS, PATIENCE_SECONDS, Customer, House, a_key, house
from tests.support import cdnow

CUSTOMERS = 250
HOUR_MS = 3_600_000


@pytest.fixture(params=["sqlite", "postgres"])
async def scoring(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with house(tmp_path, url) as made:
        yield made


async def have_bought(scoring: House, customers: int = CUSTOMERS) -> None:
    """The first customers of the CDNOW sample, moved so that its calibration ends now."""
    moved = NOW_MS - cdnow.CALIBRATION_END
    changes = []
    for name, days in list(cdnow.amounts().items())[:customers]:
        one = Customer(name)
        times = [at + moved for at in sorted(days) if at <= cdnow.CALIBRATION_END]
        changes.append(one.change(*(one.bought(at) for at in times), at=NOW_MS))
    await scoring.change(*changes)
    await scoring.until_said(len(changes), SEGMENT_CHANGES)


async def fitted(scoring: House, publish: bool = True) -> dict[str, Any]:
    """Ask for a fit and wait for its end."""
    status, run = await scoring.ask("POST", "/v1/models/fit", json={"publish": publish})
    assert (status, run["state"]) == (202, "running"), run
    async with asyncio.timeout(6 * PATIENCE_SECONDS):
        while run["state"] == RUNNING:
            await asyncio.sleep(0.05)
            run = (await scoring.get("/v1/models"))["last_fit"]
    return dict(run)


async def test_a_fit_is_published_with_its_figures_and_takes_effect_later(scoring: House) -> None:
    await have_bought(scoring)
    run = await fitted(scoring)
    assert (run["state"], run["phase"], run["version"], run["reason"]) == ("published", "done", 2, None)
    assert run["customers"] == run["figures"]["customers"] == CUSTOMERS
    shown = await scoring.get("/v1/models")
    shipped, own = shown["items"]
    assert (shipped["in_force"], own["in_force"]) == (True, False)
    assert shipped["fit"] is None
    assert own["fit"] == run["figures"]
    assert own["fit"]["holdout"]["customers"] > 0
    assert own["parameters"]["r"] != shipped["parameters"]["r"]
    await scoring.time_passes(5_001)
    assert (await scoring.get("/v1/models"))["items"][1]["in_force"]
    assert (await scoring.get("/v1/definitions"))["items"][1]["model"]["fit"] == run["figures"]
    assert await scoring.metric("raftar_scoring_fits_published_total") == 1
    assert await scoring.metric("raftar_scoring_fit_customers") == CUSTOMERS
    again = await fitted(scoring)
    assert again["state"] == "unchanged"
    assert len((await scoring.get("/v1/models"))["items"]) == 2
    assert (await scoring.get("/v1/models", workspace="rival"))["last_fit"] is None


async def test_too_few_customers_are_refused_with_the_reason_and_nothing_changes(tmp_path: Path) -> None:
    async with house(tmp_path) as scoring:
        await have_bought(scoring, 20)
        run = await fitted(scoring)
        assert run["state"] == "refused"
        assert run["reason"].startswith("too few: 20 customers with a purchase")
        assert len((await scoring.get("/v1/models"))["items"]) == 1
        assert await scoring.metric("raftar_scoring_fits_refused_total") == 1


async def test_the_schedule_publishes_what_differs_and_waits_for_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "LOOK_SECONDS", 0.02)
    async with house(tmp_path, scoring_refit_hours=2) as scoring:
        await have_bought(scoring)
        await scoring.until_metric("raftar_scoring_fits_running", 0)
        assert (await scoring.get("/v1/models"))["last_fit"] is None
        await scoring.time_passes(2 * HOUR_MS)
        await scoring.until_metric("raftar_scoring_fits_published_total", 1)
        await scoring.time_passes(2 * HOUR_MS)
        await scoring.until_metric("raftar_scoring_fits_unchanged_total", 1)
        await scoring.define(ImportStarted("shop", "i1", "erp", NOW_MS))
        await scoring.time_passes(2 * HOUR_MS)
        await scoring.until_metric("raftar_scoring_fits_postponed_total", 1)
        shown = await scoring.get("/v1/models")
        assert [one["version"] for one in shown["items"]] == [1, 2]
        assert shown["last_fit"]["state"] == "unchanged"
        assert shown["items"][1]["in_force"]


async def test_who_may_fit_and_when(tmp_path: Path) -> None:
    async with house(tmp_path) as scoring:
        fact, reader = a_key("shop", [READ], seed=7)
        await scoring.define(fact)
        look = {"publish": False}
        answer = await scoring.client.post("/v1/models/fit", headers={"authorization": f"Bearer {reader}"}, json=look)
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert (await scoring.ask("POST", "/v1/models/fit", json={"publish": "yes"}))[0] == 422
        await scoring.define(ImportStarted("shop", "i1", "erp", NOW_MS))
        status, body = await scoring.ask("POST", "/v1/models/fit", json=look)
        assert status == 409
        assert "import" in body["message"]
        assert (await scoring.ask("POST", "/v1/models/fit", workspace="rival", json=look))[0] == 202


async def test_one_run_at_a_time_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    async with house(tmp_path) as scoring:
        database = open_database("", tmp_path, "scoring")
        try:
            runs = FitRuns(database)
            mine = Run("shop", b"elsewhere", RUNNING, "reading", 7, NOW_MS, NOW_MS)
            assert await runs.claim(mine)
            status, body = await scoring.ask("POST", "/v1/models/fit", json={})
            assert (status, body["code"]) == (409, "conflict")
            assert (await scoring.get("/v1/models"))["last_fit"]["customers"] == 7
            scoring.clock.advance(60_001)
            assert (await fitted(scoring))["state"] == "refused"
            assert not await runs.beat(mine)
        finally:
            await database.close()


async def test_the_command_line_fits_and_says_how_good_it_is(tmp_path: Path) -> None:
    async with house(tmp_path) as scoring:
        await have_bought(scoring)
        cli = CliHouse(
            LocalAccess(workspace="shop", secret_key=scoring.keys["shop"], scoring_url=scoring.url), tmp_path
        )
        text = await asyncio.to_thread(_said, cli, False)
        assert "version 2 is published" in text
        assert f"{CUSTOMERS}, " in text
        assert "holdout" in text
        table = StringIO()
        await asyncio.to_thread(model_command.list_versions, cli, Console(file=table, width=200), False)
        assert "as shipped" in table.getvalue()
        assert "last fit published" in table.getvalue()
        looked = json.loads(await asyncio.to_thread(_said, cli, True))
        assert looked["state"] == "looked"
        assert looked["figures"]["change"] < 1e-3


def _said(cli: CliHouse, look: bool) -> str:
    out = StringIO()
    model_command.fit(cli, look, Console(file=out, width=200), Console(file=StringIO()), as_json=look)
    return out.getvalue()
