"""Each planted bug driven until it shows: the fault it needs, at the moment it needs it, again and again.

A drive ends with the contradictions the judge found. Everything waits for what it needs to see, so a slow machine makes
a drive slower, and no bug is missed by chance.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Set
from typing import Any

from shared.clock import SystemClock
from shared.topics import CHURN_ALERTS, TOUCHPOINTS
from tests.chaos import judging, verdict
from tests.chaos.load import Item, Ledger
from tests.chaos.verdict import Bought
from tests.e2e.evidence import Event, events, eventually, records, rows, touchpoint_ids
from tests.support.house import House, Service

SILENCE_MS = 1_500
AHEAD_MS = 30_000
"""A purchase by a clock that is ahead: its silence is so far away that no slow machine reaches it."""
ROUNDS = 12
"""A bug that does not show in so many rounds is not found."""
SECONDS = 60.0
HELD_SECONDS = 8.0
"""A worker frozen in the middle of a write holds SQLite's lock; then it is let go and frozen at another moment."""

_clock = SystemClock()


class Driven:
    """A house with a planted bug, and the ledger of what its door took. Services start when a drive wants them.

    `rounds`: how often a drive tries · `ahead_ms`: how far away a silence is that nobody may tell of.
    """

    def __init__(self, house: House, rounds: int = ROUNDS, ahead_ms: int = AHEAD_MS) -> None:
        self.house, self.rounds, self.ahead_ms = house, rounds, ahead_ms
        self.ledger = Ledger()
        self.numbers = itertools.count()

    def start(self, *rooms: str) -> None:
        """The first worker of each room, ready."""
        for room in rooms:
            if not self.house.of(room)[0].alive():
                self.house.of(room)[0].launch()
        for room in rooms:
            self.house.of(room)[0].wait_until_ready()

    def again(self, service: Service) -> None:
        """Kill it with -9 and start it again."""
        service.kill9()
        service.launch()
        service.wait_until_ready()

    def happens(self, person: int, kind: str = "page_viewed", ahead_ms: int = 0) -> Item:
        """Something new that a person does, by a clock that is `ahead_ms` before ours."""
        number = next(self.numbers)
        properties: dict[str, Any] = {"path": "/"}
        if kind == "purchased":
            properties = {"order_id": f"o-{number}", "amount_minor": 100, "currency": "EUR"}
        body = {"id": f"i-{number}", "kind": kind, "occurred_at": _clock.now_ms() + ahead_ms}
        who = {"user_id": f"u-{person}", "properties": properties}
        return Item(f"i-{number}", person, self.house.access.secret_key, body | who)

    async def tell(self, *items: Item) -> None:
        """Post them in one request; all are acknowledged."""
        async with self.house.client("ingest") as client:
            answer = await client.post("/v1/touchpoints", json=[item.body for item in items])
        for item, result in zip(items, answer.raise_for_status().json()["results"], strict=True):
            self.ledger.acknowledge(item, result["id"])

    async def told_of(self, kind: str = "purchased") -> int:
        """A new person does something; returns who."""
        person = next(self.numbers)
        await self.tell(self.happens(person, kind))
        return person

    # --- what is seen from outside --------------------------------------------------------------------------------

    async def folded(self) -> int:
        """How many records of touchpoints the checkpoints say are folded."""
        statement = "SELECT coalesce(sum(position), 0) AS n FROM checkpoint WHERE topic = 'touchpoints'"
        return int((await rows(self.house, "profiles", statement))[0].n)

    async def until_folded(self, more_than: int) -> None:
        """Wait until the checkpoints are beyond so many records."""

        async def is_folded() -> bool:
            return await self.folded() > more_than

        await eventually(is_folded, SECONDS, "the checkpoint to move")

    async def until_caught_up(self) -> None:
        """Wait until the checkpoints say that everything in the log is folded."""
        await self.until_folded(len(await records(self.house.ground, TOUCHPOINTS)) - 1)

    async def views(self) -> dict[int, dict[str, Any]]:
        """What REST shows of everybody in the ledger."""
        return await judging.views(self.house, sorted({person for person, _ in self.ledger.counts}))

    async def buyers(self) -> set[bytes]:
        """Everybody who bought, as customers."""
        persons = sorted({one.person for one in self.ledger.told.values() if one.kind == "purchased"})
        return {bytes.fromhex(view["customer_id"]) for view in (await judging.views(self.house, persons)).values()}


async def ack_before_flush(driven: Driven) -> list[str]:
    """Kill the door right after its answer."""
    driven.start("ingest")
    for _ in range(driven.rounds):
        await driven.tell(*(driven.happens(1) for _ in range(5)))
        driven.again(driven.house.services["ingest"])
        if lost := verdict.in_the_log(driven.ledger, await touchpoint_ids(driven.house.ground)):
            return lost
    return []


async def checkpoint_before_commit(driven: Driven) -> list[str]:
    """Kill profiles as soon as its checkpoint moved."""
    driven.start("ingest", "profiles")
    for _ in range(driven.rounds):
        await driven.until_caught_up()
        before = await driven.folded()
        await driven.tell(*(driven.happens(1) for _ in range(5)))
        await driven.until_folded(before)
        driven.again(driven.house.of("profiles")[0])
        await driven.until_caught_up()
        there = (row.id for row in await rows(driven.house, "profiles", "SELECT id FROM touchpoint"))
        if lost := verdict.folded_once(driven.ledger, there):
            return lost
    return []


async def dedup_skipped(driven: Driven) -> list[str]:
    """Send everything twice, as a client does that heard no answer."""
    driven.start("ingest", "profiles")
    items = [driven.happens(1) for _ in range(3)]
    for _ in range(2):
        await driven.tell(*items)
        await driven.until_caught_up()
    views = await driven.views()
    return verdict.counted_once(driven.ledger, {person: [person] for person in views}, views)


async def relay_deletes_before_ack(driven: Driven) -> list[str]:
    """Kill profiles when its outbox is empty and the log may not have it yet."""
    driven.start("ingest", "profiles", "scoring")
    for _ in range(driven.rounds):
        await driven.until_caught_up()
        before = await driven.folded()
        await driven.told_of()
        await driven.until_folded(before)

        async def is_empty() -> bool:
            return not (await rows(driven.house, "profiles", "SELECT seq FROM outbox"))

        await eventually(is_empty, SECONDS, "the outbox to be empty")
        driven.again(driven.house.of("profiles")[0])
        await judging.quiet(driven.house)
        decisions = await rows(driven.house, "scoring", "SELECT customer, due_at, absorbed_into, parked FROM decision")
        if lost := verdict.nobody_stranded(decisions, await driven.buyers()):
            return lost
    return []


async def cache_kept_after_acquiring(driven: Driven) -> list[str]:
    """Freeze a worker, let another fold, wake the first again: it must not believe what it remembers."""
    driven.start("ingest", "profiles")
    first, second = driven.house.of("profiles")
    for _ in range(driven.rounds):
        await _folds_more(driven)
        first.freeze()
        second.launch()
        try:
            await _taken_over(driven, first)
        finally:
            second.kill9()
            first.thaw()
        await _folds_more(driven)
        views = await driven.views()
        if wrong := verdict.counted_once(driven.ledger, {person: [person] for person in views}, views):
            return wrong
    return []


async def _folds_more(driven: Driven) -> None:
    await driven.tell(driven.happens(1))
    await driven.until_caught_up()


async def _taken_over(driven: Driven, frozen: Service) -> None:
    """Wait until the other worker folded something new."""
    await driven.tell(driven.happens(1))
    wanted = len(await records(driven.house.ground, TOUCHPOINTS))
    loop = asyncio.get_running_loop()
    deadline, held_until = loop.time() + 2 * SECONDS, loop.time() + HELD_SECONDS
    while await driven.folded() < wanted:
        assert loop.time() < deadline, "the second worker folds nothing"
        if loop.time() > held_until:
            frozen.thaw()
            await asyncio.sleep(0.02)
            frozen.freeze()
            held_until = loop.time() + HELD_SECONDS
        await asyncio.sleep(0.05)


async def due_deleted_before_the_alert(driven: Driven) -> list[str]:
    """Kill scoring between taking a due time and writing its alert."""
    driven.start("ingest", "profiles", "scoring")
    for _ in range(driven.rounds):
        resting = {row.customer for row in await _decisions(driven) if row.due_at is None}
        alerts = len(await events(driven.house.ground, CHURN_ALERTS))
        await driven.told_of()
        if not await _is_taken(driven, resting, alerts):
            continue
        driven.again(driven.house.of("scoring")[0])
        if stranded := verdict.nobody_stranded(await _decisions(driven), await driven.buyers()):
            return stranded
    return []


async def _is_taken(driven: Driven, resting: Set[bytes], alerts: int) -> bool:
    """Wait until one more customer has no due time; False when the alert came before that was seen."""

    async def shown() -> str:
        if any(row.due_at is None and row.customer not in resting for row in await _decisions(driven)):
            return "taken"
        return "missed" if len(await events(driven.house.ground, CHURN_ALERTS)) > alerts else ""

    return bool(await eventually(shown, SECONDS, "the due time to be taken") == "taken")


async def _decisions(driven: Driven) -> list[Any]:
    return await rows(driven.house, "scoring", "SELECT customer, due_at, absorbed_into, parked FROM decision")


async def watermark_overstepped(driven: Driven) -> list[str]:
    """Buy once and wait for the alert: it comes before anybody can know."""
    driven.start("ingest", "profiles", "scoring")
    bought = driven.happens(next(driven.numbers), "purchased", driven.ahead_ms)
    await driven.tell(bought)
    at = bought.body["occurred_at"]
    report = Bought(driven.ledger.told[bought.id].key, at, at)

    async def raised() -> list[Event]:
        said = await events(driven.house.ground, CHURN_ALERTS)
        return [event for event in said if event.data["key"] == report.key]

    alerts = await eventually(raised, SECONDS, "an alert")
    return verdict.no_false_alert(alerts, {report.key: [report]}, SILENCE_MS)


Drive = Callable[[Driven], Awaitable[list[str]]]

DRIVES: dict[str, Drive] = {
    drive.__name__: drive
    for drive in (
        ack_before_flush,
        checkpoint_before_commit,
        dedup_skipped,
        relay_deletes_before_ack,
        cache_kept_after_acquiring,
        due_deleted_before_the_alert,
        watermark_overstepped,
    )
}
