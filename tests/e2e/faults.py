"""Faults at seeded random moments: kill -9, a freeze, a broker that is gone; a supervisor starts again what ended."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.support.house import House, Service
from tests.support.kafka_broker import Broker

ROOMS = ("ingest", "profiles", "scoring")
RESTART_SECONDS_MAX = 0.4
FROZEN_SECONDS = (8.0, 10.0)
"""Longer than a consumer group waits for a silent member (6 s), so that it is replaced while it sleeps."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens `at` seconds after the load began. `what`: kill, stop, freeze, broker; `room` "" for the broker."""

    at: float
    what: str
    room: str = ""


@dataclass(slots=True)
class Done:
    """What was done, for the figures at the end."""

    kills: Counter[str] = field(default_factory=Counter)
    freezes: Counter[str] = field(default_factory=Counter)
    stops: list[str] = field(default_factory=list)
    broker_kills: int = 0
    broker_back_at: float | None = None  # monotonic seconds
    ended: Counter[str] = field(default_factory=Counter)  # by themselves, as a service does that finds no broker
    diary: list[str] = field(default_factory=list)


def planned(dice: random.Random, seconds: float, kills: int, freezes: bool, broker: bool) -> list[Fault]:
    """`kills` of each service and one orderly stop spread over the load, in a random order at random moments; freezes
    and the broker's end come between them."""
    whats = [("kill", room) for room in ROOMS for _ in range(kills)] + [("stop", room) for room in ROOMS]
    dice.shuffle(whats)
    width = 0.9 * seconds / len(whats)
    faults = [Fault(0.05 * seconds + (n + dice.random()) * width, *what) for n, what in enumerate(whats)]
    if freezes:
        faults += [Fault(dice.uniform(0.1, 0.3) * seconds, "freeze", "profiles")]
        faults += [Fault(dice.uniform(0.6, 0.75) * seconds, "freeze", "scoring")]
    if broker:
        faults.append(Fault(dice.uniform(0.4, 0.5) * seconds, "broker"))
    return sorted(faults, key=lambda fault: fault.at)


class Fate:
    """Carries out a plan on a house, and starts again what it ended."""

    def __init__(self, house: House, broker: Broker | None, dice: random.Random) -> None:
        self._house, self._broker, self._dice = house, broker, dice
        self._busy: set[str] = set()
        self.done = Done()

    async def run(self, plan: list[Fault]) -> None:
        """Return when every fault happened and everything is started again."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in plan:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                tasks.create_task(self._happen(fault, began))

    async def supervise(self) -> None:
        """Start again what ended by itself, until cancelled: what `raftar run` or an orchestrator does."""
        while True:
            for service in self._house.services.values():
                if service.name not in self._busy and not service.alive():
                    self.done.ended[service.room] += 1
                    self.done.diary.append(f"{service.name} ended by itself")
                    service.launch()
            await asyncio.sleep(0.5)

    async def _happen(self, fault: Fault, began: float) -> None:
        if fault.what == "broker":
            await self._kill_broker(began)
            return
        service = await self._victim(fault.room)
        self.done.diary.append(f"{time.monotonic() - began:5.1f} s {fault.what} {service.name}")
        try:
            await {"kill": self._kill, "stop": self._stop, "freeze": self._freeze}[fault.what](service)
        finally:
            self._busy.discard(service.name)

    async def _victim(self, room: str) -> Service:
        """A worker to whom nothing else happens just now."""
        while not (free := [one for one in self._house.of(room) if one.name not in self._busy and one.alive()]):
            await asyncio.sleep(0.05)
        service = self._dice.choice(free)
        self._busy.add(service.name)
        return service

    async def _kill(self, service: Service) -> None:
        service.kill9()
        self.done.kills[service.room] += 1
        await asyncio.sleep(self._dice.uniform(0, RESTART_SECONDS_MAX))
        service.launch()

    async def _stop(self, service: Service) -> None:
        code = await asyncio.to_thread(service.terminate)
        self.done.stops.append(f"{service.name} with code {code}")
        service.launch()

    async def _freeze(self, service: Service) -> None:
        service.freeze()
        self.done.freezes[service.room] += 1
        await asyncio.sleep(self._dice.uniform(*FROZEN_SECONDS))
        service.thaw()

    async def _kill_broker(self, began: float) -> None:
        assert self._broker is not None
        self.done.diary.append(f"{time.monotonic() - began:5.1f} s kill broker")
        self._broker.kill9()
        self.done.broker_kills += 1
        await asyncio.sleep(1.0)
        self._broker.launch()
        while not await _listens(self._broker.port):
            await asyncio.sleep(0.1)
        self.done.broker_back_at = time.monotonic()
        self.done.diary.append(f"{self.done.broker_back_at - began:5.1f} s broker takes connections")


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
