"""Where a customer stood, over REST: scoring and profiles together, on one log, with the caller's own key."""

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from services.cli import customer
from services.cli.errors import Refused
from services.cli.house import House as CommandHouse
from services.cli.past import When
from services.local_access import LocalAccess
from services.profiles.showing import moment
from services.scoring.app import build
from services.scoring.settings import ScoringSettings
from shared.definitions import DefinitionsFeed
from shared.log.ownership import AllPartitions
from shared.moments import moment_text
from tests.builders import NOON_MS, a_touchpoint
from tests.service.ingest_house import listening
from tests.service.profiles_house import DEADLINE_SECONDS, PARTITIONS, RIVAL, House, Person, house, page_view
from tests.support.steps import fresh_database

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DEAD = "http://127.0.0.1:9"


@dataclass
class Both:
    """Profiles, as its own tests drive it, and scoring beside it."""

    home: House
    client: httpx.AsyncClient

    async def ask(self, path: str, key: str = "main", **query: Any) -> httpx.Response:
        """GET from scoring."""
        headers = {"authorization": f"Bearer {self.home.keys[key]}"}
        return await self.client.get(path, params=query, headers=headers)

    async def decision(self, person: Person, **query: Any) -> Any:
        """A customer's decision, which must be there."""
        answer = await self.ask(f"/v1/customers/{person.id}/decision", **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until_decided(self, person: Person, stage: str) -> int:
        """Wait until profiles shows this stage; the clock then goes on by an hour. Returns the hour before."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                answer = await self.home.get(f"/v1/customers/{person.id}")
                if answer.status_code == 200 and answer.json()["stage"] == stage:
                    break
                await asyncio.sleep(0.02)
        await self.home.settle()
        known = self.home.clock.now_ms()
        self.home.clock.advance(HOUR_MS)
        return known


@contextlib.asynccontextmanager
async def scoring(home: House, folder: Path, profiles_url: str) -> AsyncIterator[Both]:
    """Scoring on the log of `home`."""
    settings = ScoringSettings(data_dir=folder, partitions=PARTITIONS, profiles_url=profiles_url, _env_file=None)
    async with fresh_database("", folder, "scoring") as database:
        feed = DefinitionsFeed(home.log, home.clock)
        app = build(
            settings, log=home.log, database=database, clock=home.clock, feed=feed,
            ownership=lambda: AllPartitions(PARTITIONS),
        )  # fmt: skip
        async with (
            listening(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
        ):
            yield Both(home, client)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with house(tmp_path) as home, scoring(home, tmp_path, str(home.client.base_url)) as made:
        yield made


def bought(order: str, at: int) -> Any:
    return a_touchpoint("purchased", at=at, id=f"buy {order}", order_id=order, amount=10, currency="EUR")


async def test_decided_is_what_was_said_and_computed_what_the_rules_say_anew(both: Both) -> None:
    """Late evidence: nothing was decided before it came, and the rules say anew what they would have said."""
    person = both.home.person(user="42")
    await both.home.track(person, bought("1", NOON_MS))
    known = await both.until_decided(person, "new")
    orders = [bought(str(n), NOON_MS - n * 20 * DAY_MS) for n in range(2, 9)]
    await both.home.track(person, *orders)  # late: they happened before
    now = await both.until_decided(person, "active")

    then = await both.decision(person, known_at=known)
    assert (then["decided"]["stage"], then["computed"]["stage"]) == ("new", "new")
    assert then["decided"]["reasons"]["orders"] == then["computed"]["reasons"]["orders"] == 1
    assert then["known_at"] == moment_text(moment(known))

    today = await both.decision(person, known_at=now)
    assert (today["decided"]["stage"], today["computed"]["stage"]) == ("active", "active")
    assert today["computed"]["reasons"]["orders"] == 8

    before = await both.decision(person, as_of=NOON_MS - 30 * DAY_MS)
    assert before["decided"]["stage"] is None
    assert before["computed"]["stage"] is not None
    assert before["computed"]["reasons"]["orders"] == 7
    parts = before["computed"]["reasons"]["parts"]
    assert before["computed"]["risk"] == pytest.approx(sum(part["amount"] for part in parts))
    assert before["computed"]["at"] == moment_text(moment(NOON_MS - 30 * DAY_MS))
    both_cuts = await both.decision(person, as_of=NOON_MS - 30 * DAY_MS, known_at=known)
    assert both_cuts["computed"] is None  # by what was known then, nothing had happened yet


async def test_alerts_are_told_by_their_last_word_then(both: Both) -> None:
    """A complaint's alert: unknown before, open then, recovered by now; filters work as in the present."""
    person = both.home.person(user="42")
    await both.home.track(person, page_view())
    await both.home.settle()
    before = both.home.clock.now_ms()
    both.home.clock.advance(HOUR_MS)
    await both.home.track(person, a_touchpoint("complained", at=NOON_MS + HOUR_MS, complaint_id="C-1"))
    opened = await until_alerts(both, person, "open")
    answer = a_touchpoint("survey_answered", at=NOON_MS + 2 * HOUR_MS, response_id="r", metric="csat", score=5)
    await both.home.track(person, answer)
    closed = await until_alerts(both, person, "recovered")
    for known_at, states in ((before, []), (opened, ["open"]), (closed, ["recovered"])):
        page = (await both.ask("/v1/alerts", customer=person.id, known_at=known_at)).json()
        assert [item["state"] for item in page["items"]] == states
        decided = (await both.decision(person, known_at=known_at))["decided"]
        assert [item["state"] for item in decided["alerts"]] == [state for state in states if state == "open"]
    [item] = (await both.ask("/v1/alerts", customer=person.id, known_at=opened, state="open")).json()["items"]
    assert (item["policy"], item["customer_id"], item["event"]["data"]["revision"]) == ("bad_experience", person.id, 1)
    none = await both.ask("/v1/alerts", customer=person.id, known_at=opened, policy="silence")
    assert none.json() == {"items": [], "next": None}


async def until_alerts(both: Both, person: Person, state: str) -> int:
    """Wait until profiles has heard of an alert in this state; then an hour passes. Returns the hour before."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            told = await both.home.shown(f"/v1/customers/{person.id}/past")
            if [alert["state"] for alert in told["alerts"]] == [state]:
                break
            await asyncio.sleep(0.02)
    known = both.home.clock.now_ms()
    both.home.clock.advance(HOUR_MS)
    return known


async def test_whoever_may_not_see_it_now_may_not_see_it_then(both: Both) -> None:
    """Foreign and missing customers are answered alike; a list of the past needs its customer."""
    person = both.home.person(user="42")
    await both.home.track(person, page_view())
    await both.home.settle()
    now = both.home.clock.now_ms()
    missing = await both.ask(f"/v1/customers/{'0' * 32}/decision", known_at=now)
    foreign = await both.ask(f"/v1/customers/{person.id}/decision", RIVAL, known_at=now)
    assert (missing.status_code, foreign.status_code) == (404, 404)
    assert foreign.json() == missing.json()
    refused = await both.ask("/v1/alerts", known_at=now)
    assert (refused.status_code, refused.json()["field"]) == (400, "customer")
    assert (await both.ask(f"/v1/customers/{person.id}/decision", "website", known_at=now)).status_code == 403


async def test_without_profiles_the_present_goes_on(tmp_path: Path) -> None:
    """The past is put off with a 503 that says where to look; what is decided now is answered."""
    async with house(tmp_path) as home, scoring(home, tmp_path, DEAD) as both:
        person = home.person(user="42")
        await home.track(person, bought("1", NOON_MS))
        await both.until_decided(person, "new")
        put_off = await both.ask(f"/v1/customers/{person.id}/decision", known_at=NOON_MS)
        assert put_off.status_code == 503
        assert "RAFTAR_PROFILES_URL" in put_off.json()["message"]
        assert (await both.decision(person))["stage"] == "new"


async def test_the_command_line_tells_the_past_and_why_a_number_is_so(both: Both, tmp_path: Path) -> None:
    """`--known-at` shows what was decided beside what the rules say; `--why` is a ledger; errors say what there is."""
    person = both.home.person(user="42")
    await both.home.track(person, bought("1", NOON_MS))
    known = await both.until_decided(person, "new")
    await both.home.track(person, bought("2", NOON_MS - 20 * DAY_MS))
    await both.home.settle()

    access = LocalAccess(
        workspace="main",
        secret_key=both.home.keys["main"],
        profiles_url=str(both.home.client.base_url),
        scoring_url=str(both.client.base_url),
    )
    there = CommandHouse(access, tmp_path)

    async def told(run: Callable[[Console], None]) -> str:
        """What a command writes; it waits for answers, so it has a thread of its own."""
        paper = Console(file=io.StringIO(), width=120)
        await asyncio.to_thread(run, paper)
        assert isinstance(paper.file, io.StringIO)
        return paper.file.getvalue()

    then = json.loads(await told(lambda out: customer.run(there, "user:42", 5, out, True, When(None, str(known)))))
    assert then["customer"]["profile"]["orders"]["count"] == 1
    assert then["decision"]["decided"]["stage"] == then["decision"]["computed"]["stage"] == "new"
    assert [item["properties"]["order_id"] for item in then["timeline"]] == ["1"]
    screen = await told(lambda out: customer.run(there, "user:42", 5, out, False, When("2023-11-15")))
    assert "as of 2023-11-15 00:00:00" in screen
    assert "computed anew" in screen
    shown = await told(lambda out: customer.explain(there, "user:42", "money.EUR", out, False))
    assert "money.EUR is 2000" in shown
    assert "+1000" in shown
    with pytest.raises(Refused, match=r"orders\.count"):
        await told(lambda out: customer.explain(there, "user:42", "shoe.size", out, False))

    environment = {
        **os.environ,
        "RAFTAR_DATA_DIR": str(tmp_path / "elsewhere"),
        "RAFTAR_SECRET_KEY": access.secret_key,
        "RAFTAR_INGEST_URL": DEAD,
        "RAFTAR_PROFILES_URL": access.profiles_url,
        "RAFTAR_SCORING_URL": access.scoring_url,
    }
    options = ("--why", "money.EUR", "--known-at", str(known), "--json")
    command = [sys.executable, "-m", "services.cli", "customer", "user:42", *options]
    ended = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert [item["contribution"] for item in json.loads(ended.stdout)["items"]] == [1000]
