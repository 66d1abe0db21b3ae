"""The promise under fire: real processes killed with -9, frozen and started again under load, and nothing lost.

A ledger outside every victim knows what was acknowledged. When all is quiet: it lies in the log, is folded and counted
once, the states are those of a fold from the log's start, and every alert is there, once, and true. `SEED=`, `KILLS=`
(of each service) and `SECONDS=` (of load) make other and longer runs.
"""

import asyncio
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from services.profiles.digest import digest, refold
from services.scoring.domain.alerts import SILENCE
from shared.clock import SystemClock
from tests.e2e import verdict
from tests.e2e.evidence import DECISIONS, Event, Quiet, events, eventually, pages, rows, touchpoints
from tests.e2e.faults import Fate, planned
from tests.e2e.load import Ledger, Person, Poster
from tests.e2e.rules import rules
from tests.e2e.verdict import Bought
from tests.support.broker import NewBroker
from tests.support.house import Ground, House, closing
from tests.support.kafka_broker import Broker

PEOPLE, POSTERS = 48, 5
SILENCE_MS = 4_000
LINKED = ((2, 3), (8, 12))
"""Persons who turn out to be one, by REST while everything is being killed."""
QUIET_SECONDS = 60.0
STOPPED_IN_ORDER = ("code 0", "code -15", "code 3")
"""Stopped; stopped before it could listen to signals; or not started at all, since the broker was away."""

_clock = SystemClock()


async def test_embedded_house_loses_nothing_through_kills(tmp_path: Path) -> None:
    house = House(Ground(tmp_path), rules(f"{SILENCE_MS}ms"))
    await house.prepare()
    with closing(house):
        house.start()
        await under_fire(house, None, seconds=_number("SECONDS", 25), kills=_number("KILLS", 5))


async def test_house_on_kafka_and_postgresql_loses_nothing_through_kills_freezes_and_a_broker_kill(
    tmp_path: Path, new_broker: NewBroker, postgres_url: str
) -> None:
    broker = new_broker()
    house = House(Ground(tmp_path, broker.bootstrap, postgres_url), rules(f"{SILENCE_MS}ms"), workers=2)
    await house.prepare()
    with closing(house):
        house.start()
        await under_fire(house, broker, seconds=_number("SECONDS", 50), kills=_number("KILLS", 5))


async def under_fire(house: House, broker: Broker | None, seconds: int, kills: int) -> None:
    """Load and faults, then quiet, then every check; prints the figures."""
    seed = _number("SEED", 20261122)
    print(f"\nseed {seed}, {kills} kills of each service in {seconds} s of load")
    dice, ledger = random.Random(seed), Ledger()
    fate = Fate(house, broker, random.Random(dice.random()))
    plan = planned(dice, seconds, kills, freezes=broker is not None, broker=broker is not None)
    posters = await _posters(house, ledger, dice)
    supervisor = asyncio.create_task(fate.supervise())
    async with asyncio.TaskGroup() as tasks:
        for poster in posters:
            tasks.create_task(poster.run(seconds))
        tasks.create_task(fate.run(plan))
        for pair in LINKED:
            tasks.create_task(_link(house, pair, dice.uniform(0.3, 0.7) * seconds))
    quiet = Quiet(house)
    began = time.monotonic()
    try:
        await eventually(quiet.reached, QUIET_SECONDS, "quiescence")
    except AssertionError:
        raise AssertionError(f"not quiet: {quiet.waiting_for}\n" + "\n".join(fate.done.diary)) from None
    quiet_seconds = time.monotonic() - began
    wrong, told = await _judged(house, ledger)
    supervisor.cancel()
    done = fate.done
    wrong["orderly stops"] = [stop for stop in done.stops if not stop.endswith(STOPPED_IN_ORDER)]
    print(
        f"kills {dict(done.kills)}, frozen {dict(done.freezes)}, broker {done.broker_kills}, "
        f"stopped {done.stops}, ended by themselves {dict(done.ended)}\n"
        f"{len(ledger.ids)} touchpoints acknowledged, {ledger.repeats} sent again on purpose, {ledger.unknown} "
        f"requests repeated, {ledger.refused} refused\n"
        f"lost {len(wrong['in the log'])}, contradictions of folding once {len(wrong['folded once'])}, longest stall "
        f"{ledger.stall_seconds:.1f} s, quiet {quiet_seconds:.1f} s after the load\n{told}"
    )
    if done.broker_back_at is not None:
        print(
            f"first answer {ledger.answered_after(done.broker_back_at):.1f} s after the broker took connections again"
        )
    failed = verdict.shown(wrong)
    assert not failed, f"seed {seed}\n{failed}\n" + "\n".join(done.diary)


async def _posters(house: House, ledger: Ledger, dice: random.Random) -> list[Poster]:
    keys = house.access.secret_key, await _second_source(house)
    people = [Person(n, keys, random.Random(dice.random()), SILENCE_MS / 1000) for n in range(PEOPLE)]
    url = house.services["ingest"].url
    return [Poster(url, people[n::POSTERS], ledger, random.Random(dice.random())) for n in range(POSTERS)]


async def _second_source(house: House) -> str:
    async with house.client("ingest") as client:
        made = await client.post("/v1/keys", json={"kind": "secret", "source": "payments", "scopes": ["write"]})
        key: str = made.raise_for_status().json()["key"]
        return key


async def _link(house: House, pair: tuple[int, int], after_seconds: float) -> None:
    """Say that two persons are one, again and again until it is taken."""
    await asyncio.sleep(after_seconds)
    body = {"a": f"user:u-{pair[0]}", "b": f"user:u-{pair[1]}", "reason": "told by phone"}

    async def taken() -> bool:
        try:
            async with house.client("profiles", seconds=8.0) as client:
                answer = await client.post("/v1/customers/link", json=body)
        except httpx.TransportError:
            return False
        assert answer.status_code in (202, 503), answer.text
        return answer.status_code == 202

    await eventually(taken, QUIET_SECONDS, f"link of {pair}")


# --- judging --------------------------------------------------------------------------------------------------


async def _judged(house: House, ledger: Ledger) -> tuple[dict[str, list[str]], str]:
    """Every check by name with what it found, and the figures of the alerts."""
    wrong: dict[str, list[str]] = {}
    wrong["in the log"] = verdict.in_the_log(ledger, await touchpoints(house.ground))
    folded = await rows(house, "profiles", "SELECT id, recorded_at FROM touchpoint")
    wrong["folded once"] = verdict.folded_once(ledger, (row.id for row in folded))
    wrong["states equal a fold from the start"] = await _refolded(house)
    people = {n: [n] for n in range(PEOPLE)}
    for first, second in LINKED:
        people[first] += people.pop(second)
    views = await _views(house, people)
    wrong["counted once"] = verdict.counted_once(ledger, people, views)
    reports = _reports(ledger, {row.id: row.recorded_at for row in folded})
    customers = {n: [one for person in persons for one in reports[person]] for n, persons in people.items()}
    decided, listed = await _settled(house, customers)
    silences = [e for e in decided if e.data.get("policy") == SILENCE and e.body["type"] == "raftar.alert.raised"]
    by_key = {one.key: mine for mine in reports.values() for one in mine}
    wrong["no false alert"] = verdict.no_false_alert(silences, by_key, SILENCE_MS)
    wrong["open silences"] = verdict.final_silences(customers, listed, SILENCE_MS, _clock.now_ms())
    wrong["complaints"] = verdict.complaints_told(ledger, listed)
    wrong["topics and REST agree"] = verdict.consistent(decided, listed)
    wrong["open alerts beside the profile"] = _shown_beside(views, await _views(house, people), listed)
    armed = await rows(house, "scoring", "SELECT customer, due_at, absorbed_into, parked FROM decision")
    bought = {bytes.fromhex(views[n]["customer_id"]) for n, mine in customers.items() if mine}
    wrong["nobody stranded"] = verdict.nobody_stranded(armed, bought)
    late = [e.data["emitted_at"] - e.data["crossed_at"] for e in silences]
    states = [one["state"] for one in listed]
    told = f"{len(silences)} silences raised, at most {max(late, default=0)} ms late · alerts now: " + ", ".join(
        f"{states.count(state)} {state}" for state in sorted(set(states))
    )
    return wrong, told


async def _refolded(house: House) -> list[str]:
    from services.first_start import open_log

    database = house.database("profiles")
    try:
        live = await digest(database)
    finally:
        await database.close()
    async with open_log(house.ground.settings, _clock) as log:
        anew = await refold(log)
    return [] if live == anew.digest else [f"digest {live}, folded anew {anew}"]


async def _views(house: House, people: Mapping[int, list[int]]) -> dict[int, dict[str, Any]]:
    async with house.client("profiles", seconds=30.0) as client:
        found = {}
        for person in people:
            answer = await client.get("/v1/customers", params={"identifier": f"user:u-{person}"})
            found[person] = answer.raise_for_status().json()
    return found


def _reports(ledger: Ledger, recorded_at: Mapping[bytes, int]) -> dict[int, list[Bought]]:
    """Each person's purchases, and when the house counts each as recorded."""
    found: dict[int, list[Bought]] = {n: [] for n in range(PEOPLE)}
    for name, item in ledger.items.items():
        if item.body["kind"] == "purchased":
            identity = bytes.fromhex(ledger.ids[name].replace("-", ""))
            key = f"order:{item.body['properties']['order_id']}"
            found[item.person].append(Bought(key, item.body["occurred_at"], recorded_at.get(identity, 1 << 60)))
    return found


async def _settled(house: House, customers: Mapping[int, list[Bought]]) -> tuple[list[Event], list[dict[str, Any]]]:
    """Wait until everybody is silent and said so, and until what was said arrived everywhere."""
    silent = sum(1 for mine in customers.values() if mine)

    async def all_open() -> bool:
        return len(await pages(house, "scoring", "/v1/alerts", state="open", policy=SILENCE)) >= silent

    try:
        await eventually(all_open, SILENCE_MS / 1000 + 15, "an alert for everybody who went silent")
    except AssertionError as error:
        print(error)  # the checks say who is missing
    await eventually(Quiet(house).reached, QUIET_SECONDS, "quiescence after the last alert")
    decided = [event for topic in DECISIONS for event in await events(house.ground, topic)]
    return decided, await pages(house, "scoring", "/v1/alerts")


def _shown_beside(
    before: Mapping[int, Any], views: Mapping[int, dict[str, Any]], listed: list[dict[str, Any]]
) -> list[str]:
    """A customer's view at profiles shows the open alerts that scoring lists for them."""
    wrong: list[str] = []
    for person, view in views.items():
        shown = sorted(alert["alert_id"] for alert in view["alerts"])
        there = sorted(
            one["alert_id"] for one in listed if one["state"] == "open" and one["customer_id"] == view["customer_id"]
        )
        if shown != there:
            wrong.append(f"person {person}: profiles shows {shown}, scoring has {there}")
        if view["stage"] is None:
            wrong.append(f"person {person} has no stage")
    return wrong


def _number(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable) or otherwise)
