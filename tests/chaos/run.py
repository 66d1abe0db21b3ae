"""One run: a house under load and faults, then quiet, then every check; and the figures that are printed."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from tests.chaos import judging, stalls, verdict
from tests.chaos.clocks import Hand
from tests.chaos.faults import STOPPED_IN_ORDER, Fate, Ground
from tests.chaos.judging import Case, Findings
from tests.chaos.launch import PLANT_VARIABLE
from tests.chaos.load import BATCH_MAX, Ledger, Person, Poster
from tests.chaos.plan import CLOCK, EMBEDDED, FREEZE_SECONDS_MAX, Fault, planned, told
from tests.e2e.evidence import eventually
from tests.e2e.rules import rules
from tests.support import house as houses
from tests.support.house import House, closing
from tests.support.kafka_broker import Broker
from tests.support.postgres_process import PostgresProcess

SILENCE_MS = 4_000
EXPIRES = "100h"
"""Far beyond every jump of a clock: an alert that an hour's jump ended as lost would hide whether it was told."""
LINKED = ((2, 3), (8, 12))
"""Persons who turn out to be one, by REST while everything is being killed."""
LINK_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Course:
    """What a house goes through. `events`: acknowledged touchpoints at least · `views`: pages a person looks at in a
    step · `plant`: a known bug in its services."""

    mode: str
    seed: int
    kills: int
    seconds: float
    events: int = 0
    people: int = 48
    posters: int = 5
    views: int = 2
    batch_max: int = BATCH_MAX
    freeze_seconds_max: float = 3.0
    plant: str = ""


def quick(mode: str, seed: int) -> Course:
    """The form of the test command: both modes together have more than 60 kills in about three minutes."""
    if mode == EMBEDDED:
        return Course(mode, seed, kills=36, seconds=55, events=2_000)
    return Course(mode, seed, kills=26, seconds=75, events=2_000)


def long(mode: str, seed: int, kills: int, events: int) -> Course:
    """The form of `make chaos`: about 1.5 s (Kafka: 3.5 s) for each kill, and on until there are `events`."""
    seconds = max(60.0, kills * (1.5 if mode == EMBEDDED else 3.5))
    people = max(120, round(events / seconds))  # each looks at a page a second: nobody has many thousands of orders
    course = Course(mode, seed, kills, seconds, events, people=people, posters=8, batch_max=100)
    return replace(course, freeze_seconds_max=FREEZE_SECONDS_MAX)


@contextmanager
def standing(
    course: Course, folder: Path, broker: Broker | None = None, database: PostgresProcess | None = None
) -> Iterator[tuple[House, Ground]]:
    """A running house for the course, and what can be hit beside it. Broker and database are started already."""
    ground = houses.Ground(folder, broker.bootstrap if broker else "", database.url() if database else "")
    workers = 1 if course.mode == EMBEDDED else 2
    house = House(ground, rules(f"{SILENCE_MS}ms", EXPIRES), workers, launcher="tests.chaos.launch")
    asyncio.run(house.prepare())
    clocks = [""] if course.mode == EMBEDDED else list(house.services)
    hands = {name: Hand(folder / f"clock-{name}") for name in clocks}
    for service in house.services.values():
        hand = hands.get(service.name) or hands[""]
        service.settings |= hand.environment | {PLANT_VARIABLE: course.plant}
    with closing(house):
        house.start()
        yield house, Ground(hands, broker, database)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run. `failed`: every contradiction; "" when the house kept its promises."""

    figures: str
    failed: str


@dataclass(slots=True)
class Run:
    """One course under way."""

    house: House
    ground: Ground
    course: Course
    fate: Fate
    pulse: stalls.Pulse
    ledger: Ledger

    async def fire(self, plan: list[Fault]) -> None:
        """Load and faults, until both are over and everything made is acknowledged."""
        dice = random.Random(f"{self.course.seed} load")
        over = asyncio.Event()

        async def faults() -> None:
            await self.fate.run(plan)
            over.set()

        def is_over() -> bool:
            return over.is_set() and len(self.ledger.ids) >= self.course.events

        posters = await self._posters(dice)
        async with asyncio.TaskGroup() as tasks:
            for poster in posters:
                tasks.create_task(poster.run(self.course.seconds, is_over))
            tasks.create_task(faults())
            for pair in LINKED:
                tasks.create_task(_link(self.house, pair, dice.uniform(0.3, 0.7) * self.course.seconds))

    def case(self, ahead_ms: int, clocks_jumped: bool) -> Case:
        """What the judge has to know."""
        people = {n: [n] for n in range(self.course.people)}
        for first, second in LINKED:
            people[first] += people.pop(second)
        return Case(self.ledger, people, SILENCE_MS, ahead_ms, clocks_jumped)

    async def _posters(self, dice: random.Random) -> list[Poster]:
        course, house = self.course, self.house
        keys = house.access.secret_key, await _second_source(house)
        people = [
            Person(n, keys, random.Random(dice.random()), SILENCE_MS / 1000, course.views) for n in range(course.people)
        ]
        url = house.services["ingest"].url
        return [
            Poster(url, people[n :: course.posters], self.ledger, random.Random(dice.random()), course.batch_max)
            for n in range(course.posters)
        ]


async def endured(house: House, ground: Ground, course: Course) -> Report:
    """Load and faults, then quiet, then every check. Prints the plan first."""
    plan = planned(course.seed, course.mode, course.kills, course.seconds, course.freeze_seconds_max)
    print(f"\nchaos {course.mode}, seed {course.seed}\n{told(plan)}", flush=True)
    ledger = Ledger()
    fate = Fate(house, ground, random.Random(f"{course.seed} fate"), lambda: max(ledger.answers[-1:], default=0.0))
    run = Run(house, ground, course, fate, stalls.Pulse(house), ledger)
    watching = [asyncio.create_task(fate.supervise()), asyncio.create_task(run.pulse.watch())]
    try:
        await run.fire(plan)
        ahead_ms = _let_time_come(ground, fate)
        await judging.up(house)
        quiet_seconds = await judging.quiet(house)
        found = await judging.judged(house, run.case(ahead_ms, any(fault.what == CLOCK for fault in plan)))
    except BaseException:
        print("\n".join(fate.done.diary))
        raise
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return _report(run, found, quiet_seconds)


def _let_time_come(ground: Ground, fate: Fate) -> int:
    """Where the whole house shared a clock, its log stands where the clock was; let that time come, so that what fell
    due meanwhile is told. Returns how far the house is ahead now (ms)."""
    machine = ground.hands.get("")
    if machine is None:
        return 0
    machine.jump(fate.offset_ms_max)
    return fate.offset_ms_max


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

    await eventually(taken, LINK_SECONDS, f"link of {pair}")


def _report(run: Run, found: Findings, quiet_seconds: float) -> Report:
    done, ledger = run.fate.done, run.ledger
    stops = [f"{name} with code {code}" for name, code, _ in done.stops if code not in STOPPED_IN_ORDER]
    found.wrong["orderly stops"] = stops
    slowest = max((seconds for *_, seconds in done.stops), default=0.0)
    columns = {stalls.ACCEPTING: ledger.answers, **run.pulse.signs}
    figures = [
        f"kills {done.kills}, other faults {len(done.happened) - done.kills}, sessions cut {done.cut_sessions}, "
        f"ended by themselves {len(done.ended)}, slowest orderly stop {slowest:.1f} s",
        *(f"  ended by itself: {how}" for how in done.ended),
        f"events {len(ledger.ids)} acknowledged, {ledger.repeats} of them sent again on purpose; requests repeated "
        f"{ledger.unknown}, {ledger.turned_away} of them after a 503; items refused {ledger.refused}",
        f"lost {found.lost}, doubled {found.doubled}, quiet {quiet_seconds:.1f} s after the load",
        *found.figures,
        stalls.table(columns, done.happened),
        *(stalls.worst(name, signs, done.happened, run.fate.began_at) for name, signs in columns.items()),
    ]
    failed = verdict.shown(found.wrong)
    if failed:
        failed = f"seed {run.course.seed}\n{failed}\n" + "\n".join(done.diary)
    return Report("\n".join(figures), failed)
