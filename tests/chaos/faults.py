"""Carries out a plan on a house, and starts again what ended, as `raftar run` or an orchestrator does."""

import asyncio
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.clocks import HOUR_MS, Hand
from tests.chaos.plan import BROKER, CLOCK, CUT, DATABASE, DISK, FREEZE, KILL, STOP, Fault
from tests.chaos.stalls import Happened
from tests.support.house import House, Service
from tests.support.kafka_broker import Broker
from tests.support.postgres_process import PostgresProcess

RESTART_SECONDS_MAX = 0.4
UP_SECONDS = 20.0
"""A victim that does not answer by then is hit all the same."""
USED_SECONDS = 60.0
"""A broker through which nothing was acknowledged since it came back is left in peace for so long at most."""
PEACE_SECONDS = (0.3, 2.5)
"""How long it has answered before it is hit again."""
HIT_WHILE_STARTING = 0.2
"""Share of faults that wait for neither."""
STOP_SECONDS = 60.0
FULL_BYTES_MORE = 64 << 10
"""What a full disk still lets a process add to what it printed; of a broker's, how long a file may be."""
STOPPED_IN_ORDER = (0, -15, 3)
"""Stopped; stopped before it could listen to signals; or not started at all, since the broker was away."""

Carry = Callable[[Fault], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Ground:
    """What can be hit beside the services. `hands`: the clocks, by name of process or "" for the machine's one."""

    hands: Mapping[str, Hand]
    broker: Broker | None = None
    database: PostgresProcess | None = None


@dataclass(slots=True)
class Done:
    """What was done, for the figures at the end."""

    happened: list[Happened] = field(default_factory=list)
    stops: list[tuple[str, int, float]] = field(default_factory=list)  # who, exit code, seconds
    ended: list[str] = field(default_factory=list)  # by themselves: who, and how
    diary: list[str] = field(default_factory=list)
    cut_sessions: int = 0

    @property
    def kills(self) -> int:
        """How many times kill -9, of whomever."""
        return sum(one.kind.startswith(KILL) for one in self.happened)


class Fate:
    """Carries out a plan on a house, and starts again what it ended."""

    def __init__(
        self, house: House, ground: Ground, dice: random.Random, answered_at: Callable[[], float] = time.monotonic
    ) -> None:
        """`answered_at`: when the door last acknowledged something (monotonic seconds)."""
        self._house, self._ground, self._dice, self._answered_at = house, ground, dice, answered_at
        self._broker_back_at = 0.0
        self._busy: set[str] = set()
        self._up_since: dict[str, float] = {}
        self.began_at = time.monotonic()
        self._client = httpx.AsyncClient(timeout=2.0, trust_env=False)
        self.done = Done()
        self.offset_ms_max = 0

    async def run(self, plan: list[Fault]) -> None:
        """Return when every fault happened and everything is started again."""
        self.began_at = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in plan:
                await asyncio.sleep(max(0.0, self.began_at + fault.at - time.monotonic()))
                tasks.create_task(self._happen(fault))
        await self._client.aclose()

    async def supervise(self) -> None:
        """Start again what ended by itself, until cancelled."""
        while True:
            for service in self._house.services.values():
                if service.name not in self._busy and not service.alive():
                    self.done.ended.append(f"{time.monotonic() - self.began_at:.1f} s  {service.last_words()}")
                    self._write(f"{service.name} ended by itself")
                    service.launch()
            await asyncio.sleep(0.5)

    # --- one fault ------------------------------------------------------------------------------------------------

    async def _happen(self, fault: Fault) -> None:
        if fault.whom == BROKER:
            ways: dict[str, Carry] = {
                KILL: self._kill_broker,
                FREEZE: self._freeze_broker,
                DISK: self._fill_brokers_disk,
            }
            name, carry = BROKER, ways[fault.what]
        elif fault.whom == DATABASE:
            ways = {KILL: self._end_database, STOP: self._end_database, CUT: self._cut_database}
            name, carry = DATABASE, ways[fault.what]
        elif fault.what == CLOCK:
            name, carry = f"clock of {fault.whom}", self._jump
        else:
            await self._to_a_service(fault)
            return
        await self._free(name)
        await self._carried(fault, name, carry(fault))

    async def _free(self, name: str) -> None:
        """Wait until nothing else happens to it, and, if it is the broker, until the house had some use of it."""
        while name in self._busy:
            await asyncio.sleep(0.05)
        deadline = time.monotonic() + USED_SECONDS
        while name == BROKER and self._answered_at() < self._broker_back_at and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            while name in self._busy:
                await asyncio.sleep(0.05)

    async def _to_a_service(self, fault: Fault) -> None:
        service = await self._victim(fault.whom)
        ways = {KILL: self._kill, STOP: self._stop, FREEZE: self._freeze, DISK: self._fill_disk}
        await self._carried(fault, service.name, ways[fault.what](service, fault))

    async def _carried(self, fault: Fault, name: str, happening: Coroutine[Any, Any, None]) -> None:
        """Nobody else touches `name` meanwhile; it is written down with its times."""
        self._busy.add(name)
        self._up_since.pop(name, None)
        began_at = time.monotonic()
        self._write(f"{fault.what} {name}" + (f" for {fault.seconds:.1f} s" if fault.seconds else ""))
        try:
            await happening
        finally:
            self._busy.discard(name)
            self._up_since.pop(name, None)
            self.done.happened.append(Happened(fault.kind, began_at, time.monotonic()))

    def _write(self, line: str) -> None:
        self.done.diary.append(f"{time.monotonic() - self.began_at:7.1f} s  {line}")

    async def _victim(self, room: str) -> Service:
        """A worker to whom nothing else happens just now; mostly one that is up, and has been for a moment."""
        deadline = time.monotonic() + UP_SECONDS
        peace_seconds = self._dice.uniform(*PEACE_SECONDS)
        if self._dice.random() < HIT_WHILE_STARTING:
            deadline = 0.0
        while True:
            free = [one for one in self._house.of(room) if one.name not in self._busy and one.alive()]
            for service in self._dice.sample(free, len(free)):
                up = await self._up_seconds(service)
                is_free = service.name not in self._busy and service.alive()
                if is_free and (up >= peace_seconds or time.monotonic() > deadline):
                    return service
            await asyncio.sleep(0.05)

    async def _up_seconds(self, service: Service) -> float:
        """How long a service has answered, as far as was looked."""
        try:
            answers = (await self._client.get(f"{service.url}/livez")).status_code == 200
        except httpx.TransportError:
            answers = False
        if not answers:
            self._up_since.pop(service.name, None)
            return 0.0
        return time.monotonic() - self._up_since.setdefault(service.name, time.monotonic())

    # --- services -------------------------------------------------------------------------------------------------

    async def _kill(self, service: Service, _fault: Fault) -> None:
        service.kill9()
        await asyncio.sleep(self._dice.uniform(0, RESTART_SECONDS_MAX))
        service.launch()

    async def _stop(self, service: Service, _fault: Fault) -> None:
        await self._terminate(service)
        service.launch()

    async def _terminate(self, service: Service) -> None:
        began_at = time.monotonic()
        try:
            code = await asyncio.to_thread(service.terminate, STOP_SECONDS)
        except AssertionError:  # it was killed then; the figures tell, and the other faults go on
            code = -signal.SIGKILL
        self.done.stops.append((service.name, code, time.monotonic() - began_at))

    async def _freeze(self, service: Service, fault: Fault) -> None:
        service.freeze()
        await asyncio.sleep(fault.seconds)
        service.thaw()

    async def _fill_disk(self, service: Service, fault: Fault) -> None:
        """The door is started with more in reserve than is free; the others may not let their files grow."""
        if service.room == "ingest":
            free = shutil.disk_usage(service.ground.folder).free
            await self._terminate(service)
            service.settings["RAFTAR_INGEST_DISK_RESERVE_BYTES"] = str(2 * free)
            service.launch()
            await asyncio.sleep(fault.seconds)
            await self._terminate(service)
            del service.settings["RAFTAR_INGEST_DISK_RESERVE_BYTES"]
            service.launch()
            return
        said = service.log_file.stat().st_size if service.log_file.exists() else 0
        self._limit_files(service.pid, said + FULL_BYTES_MORE)
        await asyncio.sleep(fault.seconds)
        if service.alive():
            self._limit_files(service.pid, resource.RLIM_INFINITY)

    def _limit_files(self, pid: int, size: int) -> None:
        """No file of this process may grow beyond `size` bytes: a write there fails, as on a full disk."""
        if not hasattr(resource, "prlimit"):
            self._write("this system cannot limit another process's files: the disk stays free")
            return
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))

    # --- what they stand on ---------------------------------------------------------------------------------------

    async def _kill_broker(self, _fault: Fault) -> None:
        broker = self._ground.broker
        assert broker is not None
        broker.kill9()
        await asyncio.sleep(1.0)
        broker.launch()
        await self._broker_listens(broker)

    async def _broker_listens(self, broker: Broker) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", broker.port)
            except OSError:
                assert broker.alive(), f"the broker ended by itself:\n{broker.output()[-3000:]}"
                await asyncio.sleep(0.1)
                continue
            writer.close()
            self._broker_back_at = time.monotonic()
            return

    async def _freeze_broker(self, fault: Fault) -> None:
        broker = self._ground.broker
        assert broker is not None
        broker.freeze()
        await asyncio.sleep(fault.seconds)
        broker.thaw()

    async def _fill_brokers_disk(self, fault: Fault) -> None:
        """Its log cannot grow, so it ends itself; somebody makes room and starts it again."""
        broker = self._ground.broker
        assert broker is not None
        self._limit_files(broker.pid, FULL_BYTES_MORE)
        await asyncio.sleep(fault.seconds)
        broker.kill9()
        broker.launch()
        await self._broker_listens(broker)

    async def _end_database(self, fault: Fault) -> None:
        database = self._ground.database
        assert database is not None
        (database.kill9 if fault.what == KILL else database.stop_at_once)()
        await asyncio.sleep(self._dice.uniform(0.2, 1.0))
        await database.started()

    async def _cut_database(self, _fault: Fault) -> None:
        database = self._ground.database
        assert database is not None
        self.done.cut_sessions += await database.cut()

    async def _jump(self, fault: Fault) -> None:
        """One process's clock, or the machine's, is wrong for a while."""
        names = [name for name in self._ground.hands if not name or name.startswith(fault.whom)]
        hand = self._ground.hands[self._dice.choice(names)]
        offset_ms = fault.hours * HOUR_MS
        hand.jump(offset_ms)
        self.offset_ms_max = max(self.offset_ms_max, offset_ms)
        await asyncio.sleep(fault.seconds)
        hand.jump(0)
