"""People who do things, posters who tell the door, and the ledger of what it acknowledged: kept outside every victim.

A poster repeats a request until the door answered for every item of it. So at the end everything made is acknowledged,
and whatever is missing or doubled in the house is the house's fault.
"""

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from shared.clock import SystemClock

FAITHFUL, LEAVER, RETURNER, BROWSER = "faithful", "leaver", "returner", "browser"
PATTERNS = (FAITHFUL, FAITHFUL, LEAVER, LEAVER, RETURNER, BROWSER)
STEP_SECONDS = 0.9
"""A person does something about so often."""
PERIOD_SECONDS = 60.0
"""A long load repeats: in each period people leave and return as their pattern says."""
BATCH_MAX = 12
AGAIN = 0.1
"""Share of requests that carry something acknowledged before once more."""

_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class Item:
    """One touchpoint as posted: `key` is the API key it always goes with, since repeats are known per source."""

    id: str
    person: int
    key: str
    body: dict[str, Any] = field(hash=False)


class Told(NamedTuple):
    """A purchase or a complaint that the door took. `key`: the order's, "" for a complaint."""

    person: int
    kind: str
    key: str


@dataclass(slots=True)
class Ledger:
    """What was sent and what the door said, small enough for a million touchpoints.

    `ids`: item → the touchpoint id the door gave, the same at every retry · `told`: purchases and complaints by item ·
    `counts`: distinct acknowledged touchpoints by person and kind.
    """

    ids: dict[str, str] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    refused: int = 0  # items the door failed, as it should
    unknown: int = 0  # requests without an answer, or with 503: sent again
    turned_away: int = 0  # of these, with 503
    repeats: int = 0  # items sent although they had been acknowledged
    contradictions: list[str] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)  # monotonic seconds of every 200

    def acknowledge(self, item: Item, touchpoint_id: str) -> None:
        """The door took it."""
        known = self.ids.get(item.id)
        if known is not None:
            if known != touchpoint_id:
                self.contradictions.append(f"{item.id}: {known}, then {touchpoint_id}")
            return
        self.ids[item.id] = touchpoint_id
        kind = str(item.body["kind"])
        self.counts[item.person, kind] += 1
        if kind != "page_viewed":
            order = item.body["properties"].get("order_id")
            self.told[item.id] = Told(item.person, kind, f"order:{order}" if order else "")

    def orders(self, person: int) -> set[str]:
        """Distinct orders of a person."""
        return {one.key for one in self.told.values() if one.person == person and one.kind == "purchased"}


class Person:
    """Somebody with a user id, a browser, and here and there an email; `pattern` says how they buy."""

    def __init__(
        self, number: int, keys: tuple[str, str], dice: random.Random, silence_seconds: float, views: int = 1
    ) -> None:
        """`views`: pages looked at in one step."""
        self.number, self.pattern, self._views = number, PATTERNS[number % len(PATTERNS)], views
        self._keys, self._dice, self._silence_seconds = keys, dice, silence_seconds
        self._numbers = itertools.count()
        self._pause_from = dice.uniform(0.2, 0.5)
        self._known = False

    def does(self, share: float) -> list[Item]:
        """What they do now; `share` of the load's time, or of its period, is over (0..1)."""
        happened = [self._page_view() for _ in range(self._views)]
        if self._buys(share):
            happened += self._purchase()
        elif self.pattern == LEAVER and self._dice.random() < 0.03:
            happened += self._purchase(ago_seconds=self._dice.uniform(0.2, 1.8) * self._silence_seconds)
        if self._dice.random() < 0.02:
            happened.append(self._complaint())
        return happened

    def _buys(self, share: float) -> bool:
        if self.pattern == BROWSER:
            return False
        if self.pattern == LEAVER:
            return share < self._pause_from
        if self.pattern == RETURNER:
            return not self._pause_from < share < self._pause_from + 0.3
        return True

    def _page_view(self) -> Item:
        who: dict[str, Any] = {"anonymous_id": f"a-{self.number}"}
        if not self._known or self._dice.random() < 0.3:
            who["user_id"] = self._user
            self._known = True
        return self._item("page_viewed", who, {"path": f"/{self._dice.randrange(50)}"})

    def _purchase(self, ago_seconds: float = 0.0) -> list[Item]:
        """A purchase and its copies; with `ago_seconds` one that only becomes known now."""
        order = f"o-{self.number}-{next(self._numbers)}"
        properties = {"order_id": order, "amount_minor": 100 * self._dice.randint(1, 90), "currency": "EUR"}
        who: dict[str, Any] = {"user_id": self._user}
        if self._dice.random() < 0.2:
            who["email"] = f"p{self.number}@shop.example"
        ago_ms = int(1000 * ago_seconds)
        copies = [self._item("purchased", who, properties, ago_ms=ago_ms)]
        if self._dice.random() < 0.1:  # the payment provider reports it too
            copies.append(self._item("purchased", {"user_id": self._user}, properties, self._keys[1], ago_ms))
        if self._dice.random() < 0.1:  # the shop reports it a second time, under another id
            copies.append(self._item("purchased", who, properties))
        return copies

    def _complaint(self) -> Item:
        return self._item(
            "complained", {"user_id": self._user}, {"ticket_id": f"t-{self.number}-{next(self._numbers)}"}
        )

    @property
    def _user(self) -> str:
        return f"u-{self.number}"

    def _item(self, kind: str, who: dict[str, Any], properties: dict[str, Any], key: str = "", ago_ms: int = 0) -> Item:
        name = f"{self.number}-{next(self._numbers)}"
        body = {"id": name, "kind": kind, "occurred_at": _clock.now_ms() - ago_ms, **who, "properties": properties}
        return Item(name, self.number, key or self._keys[0], body)


class Poster:
    """Tells the door what some people do, in singles and batches, until told to end; then until all is acknowledged."""

    def __init__(
        self, url: str, people: list[Person], ledger: Ledger, dice: random.Random, batch_max: int = BATCH_MAX
    ) -> None:
        self._people, self._ledger, self._dice, self._batch_max = people, ledger, dice, batch_max
        self._client = httpx.AsyncClient(base_url=url, timeout=8.0, trust_env=False)
        self._recent: list[Item] = []

    async def run(self, seconds: float, over: Callable[[], bool] = lambda: True) -> None:
        """Post for `seconds`, on until it is `over`, and on until everything begun is acknowledged."""
        began = time.monotonic()
        period = min(seconds, PERIOD_SECONDS)
        next_steps = {person: began + self._dice.uniform(0, STEP_SECONDS) for person in self._people}
        async with self._client:
            while (now := time.monotonic()) < began + seconds or not over():
                due = [person for person, at in next_steps.items() if at <= now]
                for person in due:
                    next_steps[person] = now + STEP_SECONDS * self._dice.uniform(0.5, 1.5)
                share = (now - began) % period / period if now < began + seconds else 1.0
                happened = [item for person in due for item in person.does(share)]
                for request in self._requests(happened):
                    await self._until_acknowledged(request)
                await asyncio.sleep(0.02)

    def _requests(self, happened: list[Item]) -> Iterator[list[Item]]:
        """Cut into singles and batches of one key each, out of order, some with a repetition."""
        self._dice.shuffle(happened)
        by_key: dict[str, list[Item]] = defaultdict(list)
        for item in happened:
            by_key[item.key].append(item)
        for mine in by_key.values():
            while mine:
                size = 1 if self._dice.random() < 0.4 else self._dice.randint(2, self._batch_max)
                request, mine = mine[:size], mine[size:]
                again = [item for item in self._recent if item.key == request[0].key]
                if again and self._dice.random() < AGAIN:
                    request = [*request, self._dice.choice(again)]
                    self._ledger.repeats += 1
                yield request

    async def _until_acknowledged(self, request: list[Item]) -> None:
        spoiled = self._dice.random() < 0.02
        bodies = [item.body for item in request]
        if spoiled:
            bodies.append({"id": f"bad-{request[0].id}", "kind": "no_such_kind", "user_id": f"u-{request[0].person}"})
        while True:
            answer = await self._post(request[0].key, bodies)
            if answer is not None:
                break
            self._ledger.unknown += 1
            await asyncio.sleep(0.1)
        self._ledger.answers.append(time.monotonic())
        self._ledger.refused += spoiled
        for item, result in zip(request, answer["results"], strict=False):
            assert result["status"] == "accepted", (item, result)
            self._ledger.acknowledge(item, result["id"])
        self._recent = [*self._recent, *request][-50:]

    async def _post(self, key: str, bodies: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The answer, or None when it must be sent again. Fails on an answer that no outage explains."""
        payload: Any = bodies[0] if len(bodies) == 1 else bodies
        try:
            answer = await self._client.post("/v1/touchpoints", json=payload, auth=(key, ""))
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 0, "a 503 says when to come back"
            self._ledger.turned_away += 1
            return None
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        decoded: dict[str, Any] = answer.json()
        return decoded
