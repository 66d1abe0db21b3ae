"""The judge's day in court: gathers what every part says when all is quiet, and holds it against the ledger."""

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.first_start import open_log
from services.profiles.digest import digest, refold
from shared.clock import SystemClock
from tests.chaos import verdict
from tests.chaos.load import Ledger
from tests.chaos.verdict import Bought
from tests.e2e.evidence import DECISIONS, Event, Quiet, events, eventually, pages, rows, touchpoint_ids
from tests.support.house import House

QUIET_SECONDS = 240.0
"""How long nothing may move on after the load before it counts as stuck: a busy machine starts a broker in a minute."""

_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class Case:
    """What is known beside the evidence.

    `people`: a customer's first person → everybody they turned out to be · `ahead_ms`: the house's clock before the
    true one · `clocks_jumped`: the services' own times prove nothing.
    """

    ledger: Ledger
    people: Mapping[int, Sequence[int]]
    silence_ms: int
    ahead_ms: int = 0
    clocks_jumped: bool = False


@dataclass(slots=True)
class Findings:
    """Every check by name with the contradictions it found, and figures beside them."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Acknowledged touchpoints that are missing from log, profiles or counts, as the check says that found most."""
        return self._most(verdict.LOST)

    @property
    def doubled(self) -> int:
        """The same for touchpoints that count more often than they were acknowledged."""
        return self._most(verdict.DOUBLED)

    def _most(self, beginning: str) -> int:
        return max(sum(text.startswith(beginning) for text in texts) for texts in self.wrong.values())


async def judged(house: House, case: Case) -> Findings:
    """Every check. The house is quiet, and all its services are up."""
    found = Findings()
    wrong, ledger = found.wrong, case.ledger
    wrong["in the log"] = verdict.in_the_log(ledger, await touchpoint_ids(house.ground))
    folded = await rows(house, "profiles", "SELECT id FROM touchpoint")
    wrong["folded once"] = verdict.folded_once(ledger, (row.id for row in folded))
    wrong["states equal a fold from the start"] = await _refolded(house)
    seen = await views(house, case.people)
    wrong["counted once"] = verdict.counted_once(ledger, case.people, seen)
    reports = await _reports(house, case)
    customers = {n: [one for person in persons for one in reports[person]] for n, persons in case.people.items()}
    decided, listed = await _settled(house, customers)
    raised = [e for e in decided if e.data.get("policy") == verdict.SILENCE and e.body["type"] == "raftar.alert.raised"]
    by_key = {one.key: mine for mine in reports.values() for one in mine}
    wrong["no false alert"] = verdict.no_false_alert(raised, by_key, case.silence_ms, _witness(house, case))
    now_ms = _clock.now_ms() + case.ahead_ms
    wrong["open silences"] = verdict.final_silences(customers, listed, case.silence_ms, now_ms)
    wrong["complaints"] = verdict.complaints_told(ledger, listed)
    wrong["topics and REST agree"] = verdict.consistent(decided, listed)
    wrong["open alerts beside the profile"] = _shown_beside(await views(house, case.people), listed)
    armed = await rows(house, "scoring", "SELECT customer, due_at, absorbed_into, parked FROM decision")
    bought = {bytes.fromhex(seen[n]["customer_id"]) for n, mine in customers.items() if mine}
    wrong["nobody stranded"] = verdict.nobody_stranded(armed, bought)
    if not house.ground.bootstrap:
        wrong["files whole"] = _damaged(house.ground.folder)
    states = [one["state"] for one in listed]
    now = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    found.figures.append(f"{len(raised)} silences raised · alerts now: {now}")
    return found


def _witness(house: House, case: Case) -> verdict.SaidAt | None:
    """Whose time shows when an alert was said: the service's own, the broker's stamp, or nobody's."""
    if not case.clocks_jumped:
        return verdict.said_by_its_own_clock
    return verdict.said_by_the_log if house.ground.bootstrap else None


async def _refolded(house: House) -> list[str]:
    database = house.database("profiles")
    try:
        live = await digest(database)
    finally:
        await database.close()
    async with open_log(house.ground.settings, _clock) as log:
        anew = await refold(log)
    return [] if live == anew.digest else [f"digest {live}, folded anew {anew}"]


async def views(house: House, people: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What REST shows of each person."""
    async with house.client("profiles", seconds=30.0) as client:
        found = {}
        for person in people:
            answer = await client.get("/v1/customers", params={"identifier": f"user:u-{person}"})
            found[person] = answer.raise_for_status().json()
    return found


async def _reports(house: House, case: Case) -> dict[int, list[Bought]]:
    """Each person's purchases, when they happened as the log has it, and when the house counts them as recorded."""
    statement = "SELECT id, occurred_at, recorded_at FROM touchpoint WHERE kind = 'purchased'"
    times = {row.id: (row.occurred_at, row.recorded_at) for row in await rows(house, "profiles", statement)}
    found: dict[int, list[Bought]] = {person: [] for persons in case.people.values() for person in persons}
    for name, one in case.ledger.told.items():
        identity = bytes.fromhex(case.ledger.ids[name].replace("-", ""))
        if one.kind == "purchased" and identity in times:  # a lost one is told of elsewhere
            found[one.person].append(Bought(one.key, *times[identity]))
    return found


async def _settled(house: House, customers: Mapping[int, list[Bought]]) -> tuple[list[Event], list[dict[str, Any]]]:
    """Wait until everybody is silent and said so, and until what was said arrived everywhere."""
    silent = sum(1 for mine in customers.values() if mine)

    async def all_open() -> bool:
        return len(await pages(house, "scoring", "/v1/alerts", state="open", policy=verdict.SILENCE)) >= silent

    try:
        await eventually(all_open, QUIET_SECONDS / 2, "an alert for everybody who went silent")
    except AssertionError as error:
        print(error)  # the checks say who is missing
    await quiet(house)
    decided = [event for topic in DECISIONS for event in await events(house.ground, topic)]
    return decided, await pages(house, "scoring", "/v1/alerts")


def _shown_beside(seen: Mapping[int, dict[str, Any]], listed: list[dict[str, Any]]) -> list[str]:
    """A customer's view at profiles shows the open alerts that scoring lists for them."""
    wrong: list[str] = []
    for person, view in seen.items():
        shown = sorted(alert["alert_id"] for alert in view["alerts"])
        there = sorted(
            one["alert_id"] for one in listed if one["state"] == "open" and one["customer_id"] == view["customer_id"]
        )
        if shown != there:
            wrong.append(f"person {person}: profiles shows {shown}, scoring has {there}")
        if view["stage"] is None:
            wrong.append(f"person {person} has no stage")
    return wrong


def _damaged(folder: Path) -> list[str]:
    """What SQLite itself finds wrong with its files."""
    wrong: list[str] = []
    for path in sorted([*folder.glob("*.db"), *folder.glob("log/*.sqlite")]):
        with closing(sqlite3.connect(path)) as connection:
            told = connection.execute("PRAGMA integrity_check").fetchall()
        wrong += [f"{path.name}: {line[0]}" for line in told if line[0] != "ok"]
    return wrong


async def up(house: House) -> None:
    """Wait until every service answers: the last fault may have been to one that is asked next."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:

        async def answers() -> bool:
            try:
                asked = [await client.get(f"{service.url}/livez") for service in house.services.values()]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 for answer in asked)

        await eventually(answers, QUIET_SECONDS, "every service to answer")


async def quiet(house: House) -> float:
    """Wait until all that is in the log went all the way; returns the seconds it took.

    Fails with what is missing when nothing moved on for QUIET_SECONDS: a backlog may take as long as it takes.
    """
    looking, loop = Quiet(house), asyncio.get_running_loop()
    began_at = moved_at = loop.time()
    missing = ""
    while not await looking.reached():
        if looking.waiting_for != missing:
            missing, moved_at = looking.waiting_for, loop.time()
        assert loop.time() - moved_at < QUIET_SECONDS, f"nothing moved for {QUIET_SECONDS:g} s: {missing}"
        await asyncio.sleep(0.1)
    return loop.time() - began_at
