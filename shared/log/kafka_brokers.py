"""Which broker leads which partition, and a connection to each that is needed."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from shared.errors import Stopped
from shared.log import kafka_wire as wire
from shared.log.kafka_connection import Connection, ConnectionGone, Unreachable, connect

ANSWER_SECONDS = 4.0
IDLE_SECONDS = 540.0
"""Brokers close a connection that was idle for ten minutes; one about to be closed must not be given a request."""
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.05, 1.0

_log = structlog.get_logger(__name__)


class Brokers:
    """Leaders and connections of one user, all in one event loop."""

    def __init__(self, bootstrap: str, settings: Mapping[str, Any]) -> None:
        """`bootstrap`: `host:port[,host:port]` · `settings`: security in the client library's words."""
        self._bootstrap = addresses(bootstrap)
        self._settings = settings
        self._addresses: dict[int, tuple[str, int]] = {}
        self._leaders: dict[tuple[str, int], int] = {}
        self._connections: dict[tuple[int, str], Connection] = {}
        self._opening: dict[tuple[int, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failures = self._closings = 0
        self._ended = False

    def leader(self, topic: str, partition: int) -> int | None:
        """The node to ask; None: `learn` first."""
        return self._leaders.get((topic, partition))

    def pause_seconds(self) -> float:
        """For how long to wait after so many failures in a row."""
        return min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * (1 << min(self._failures, 10)))

    async def connection(self, node: int, use: str = "") -> Connection:
        """An open connection to this node, the same one as long as it stays usable. Raises Unreachable.

        `use`: what would have to wait for something else on one connection (answers come in order) has its own.
        """
        found = self._connections.get((node, use))
        if found is not None and found.usable(asyncio.get_running_loop().time(), IDLE_SECONDS):
            return found
        async with self._opening[node, use]:
            return await self._opened(node, use)

    async def _opened(self, node: int, use: str) -> Connection:
        found = self._connections.get((node, use))
        if found is not None and found.usable(asyncio.get_running_loop().time(), IDLE_SECONDS):
            return found  # whoever was before us opened it
        if found is not None:
            found.close()
        address, closings = self._addresses.get(node), self._closings
        if address is None:
            raise Unreachable(f"node {node} is not known (any more)")
        opened = await self._connect(*address)
        if closings != self._closings:
            opened.close()
            raise Unreachable("closed meanwhile")
        self._connections[node, use] = opened
        return opened

    async def learn(self, topics: Iterable[str]) -> None:
        """Ask any broker that answers who leads these topics. Raises Unreachable when none does."""
        why: Exception = Unreachable("no bootstrap servers")
        known = [*self._addresses.values(), *self._bootstrap]
        for host, port in random.sample(known, len(known)):  # the dead ones must not be asked first for ever
            try:
                found = await self._asked(host, port, topics)
            except Unreachable as error:
                why = error
                continue
            self._addresses |= found.addresses
            self._leaders = {place: to for place, to in self._leaders.items() if place[0] not in topics} | found.leaders
            return
        raise why

    def forget(self, topic: str) -> None:
        """Who leads this topic is not sure any more: `leader` says None until it was learned again."""
        for place in [place for place in self._leaders if place[0] == topic]:
            del self._leaders[place]

    def close(self) -> None:
        """Close every connection, also those that are being opened."""
        self._closings += 1
        while self._connections:
            self._connections.popitem()[1].close()

    def end(self) -> None:
        """Close every connection, and open no other."""
        self._ended = True
        self.close()

    async def _asked(self, host: str, port: int, topics: Iterable[str]) -> wire.Leaders:
        asking = await self._connect(host, port)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return wire.leaders(await asking.ask(wire.METADATA, wire.metadata(topics)))
        except (ConnectionGone, TimeoutError) as error:
            raise Unreachable(f"{host}:{port} does not say who leads: {error!r}") from error
        finally:
            asking.close()

    async def _connect(self, host: str, port: int) -> Connection:
        if self._ended:
            raise Unreachable("the log is closed")
        try:
            opened = await connect(host, port, self._settings)
        except Unreachable as error:
            self._failures += 1
            _log.info("kafka_unreachable", error=str(error), failures=self._failures)
            raise
        self._failures = 0
        return opened


def addresses(bootstrap: str) -> list[tuple[str, int]]:
    """Host and port of each of `host:port[,host:port]`. Raises Stopped for anything else."""
    found = []
    for one in bootstrap.split(","):
        host, _, port = one.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise Stopped(f"RAFTAR_KAFKA_BOOTSTRAP: {one.strip()!r} is not host:port")
        found.append((host.strip("[]"), int(port)))
    return found
