"""Appending to Kafka in our own event loop: one request at a time to each broker, while the next ones gather.

No thread stands between a request and the wire, so nothing waits to be woken, and everything that came while a
request was on its way shares the next. A partition has at most one batch on its way, whoever leads it: that keeps its
order when a batch must be sent again.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    RecordListTooLargeError,
    RequestTimedOutError,
    RetriableError,
    for_code,
)

from shared.clock import Clock
from shared.errors import NotAccepting, OutcomeUnknown, TooLarge
from shared.log import kafka_wire as wire
from shared.log.kafka_brokers import Brokers
from shared.log.kafka_clients import DELIVERY_MS, REQUEST_MS
from shared.log.kafka_connection import Connection, ConnectionGone, Unreachable
from shared.log.port import Outgoing

_log = structlog.get_logger(__name__)

CLOSE_SECONDS = 5.0
"""An orderly stop is not held up for longer by brokers that are away; whoever waits is told `OutcomeUnknown`."""
BATCH_BYTES, REQUEST_BYTES = 256 << 10, 1 << 20
"""A batch (of one partition) and a request are closed when they have so much; one record may be larger."""
PACE_SECONDS = 0.003
"""From one request to a broker to the next: one costs the broker as much with a record of each partition as with
twenty, so what comes within such a time goes together. One that comes after a pause never waits."""
RETRY_SECONDS = 0.1

Place = tuple[str, int]
"""Topic and partition."""


class Latch:
    """One append call: done when each of its records was acknowledged or failed."""

    __slots__ = ("deadline", "error", "future", "perhaps", "positions", "settled", "size", "waiting")

    def __init__(self, records: int, size: int, deadline: float, future: "asyncio.Future[list[int]]") -> None:
        self.size, self.deadline, self.future = size, deadline, future
        self.positions = [-1] * records
        self.waiting = records
        self.perhaps, self.settled = False, False  # whether any record of it may be in the log · nobody waits any more
        self.error: Exception | None = None

    def outcome(self) -> list[int] | Exception:
        """The positions, or the one error that says what the caller can know."""
        if self.error is None:
            return self.positions
        if self.perhaps:
            return OutcomeUnknown(f"Kafka did not acknowledge: {self.error!r}")
        if isinstance(self.error, TOO_LARGE):
            return TooLarge(f"the topic's max.message.bytes is below what Raftar needs: {self.error}")
        return NotAccepting(f"Kafka takes nothing now: {self.error!r}")


class Piece(NamedTuple):
    """One record of a call: the `number`-th. `alone`: it must share no batch, a batch with it was too large."""

    latch: Latch
    number: int
    value: bytes
    key: bytes
    alone: bool = False


TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
PERHAPS_WRITTEN = (NotEnoughReplicasAfterAppendError, RequestTimedOutError, NetworkExceptionError)
"""What a broker says of records that it may have written nevertheless."""


Batches = dict[Place, list[Piece]]


class Appender:
    """Everything is called in the event loop."""

    def __init__(
        self,
        bootstrap: str,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        inflight_bytes_max: int,
        stall_seconds: float,
        settings: Mapping[str, Any],
    ) -> None:
        """`settings`: security, `request_timeout_ms` and `delivery_timeout_ms`, in the client library's words."""
        self._brokers = Brokers(bootstrap, settings)
        self._clock, self._loop = clock, loop
        self._request_ms = int(settings.get("request_timeout_ms", REQUEST_MS))
        self._delivery_seconds = float(settings.get("delivery_timeout_ms", DELIVERY_MS)) / 1000
        self._inflight_bytes_max, self._inflight_bytes = inflight_bytes_max, 0
        self._stall_seconds = stall_seconds
        self.rebuilds = 0
        self._open: dict[Latch, None] = {}  # the oldest first
        self._unacked_since: float | None = None
        self._waiting: dict[Place, deque[Piece]] = {}
        self._under_way: set[Place] = set()
        self._topics: set[str] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._asked = False
        self._expiry: asyncio.TimerHandle | None = None

    def warm(self, topic: str) -> None:
        """Learn who leads the topic before its first append needs it."""
        self._topics.add(topic)
        self._learn()

    def append(self, topic: str, records: Sequence[Outgoing], size: int) -> "asyncio.Future[list[int]]":
        """Queue one request. Raises NotAccepting when too much waits already."""
        if self._inflight_bytes and self._inflight_bytes + size > self._inflight_bytes_max:
            raise NotAccepting(f"{self._inflight_bytes >> 20} MiB wait for Kafka already")
        future: asyncio.Future[list[int]] = self._loop.create_future()
        latch = Latch(len(records), size, self._loop.time() + self._delivery_seconds, future)
        for number, (partition, value, key) in enumerate(records):
            self._waiting.setdefault((topic, partition), deque()).append(Piece(latch, number, value, key))
        self._inflight_bytes += size
        self._open[latch] = None
        self._topics.add(topic)
        if self._unacked_since is None:
            self._unacked_since = self._clock.monotonic()
        if self._expiry is None:
            self._expiry = self._loop.call_at(latch.deadline, self._expire)
        self._dispatch_soon()
        return future

    def watch(self) -> None:
        """Connect anew when nothing was acknowledged for too long although appends wait. Called now and then."""
        since = self._unacked_since
        if not self._open or since is None or self._clock.monotonic() - since < self._stall_seconds:
            return
        self.rebuilds += 1
        _log.warning("kafka_producer_rebuilt", waiting=len(self._open), rebuilds=self.rebuilds)
        self._give_up(KafkaError("the producer stalled and was replaced"))
        for task in list(self._tasks.values()):
            task.cancel()
        self._brokers.close()

    async def close(self) -> None:
        """Send what is queued and wait `CLOSE_SECONDS` for it; what is open then has an unknown outcome."""
        if self._open:
            await asyncio.wait([latch.future for latch in self._open], timeout=CLOSE_SECONDS)
        self._give_up(KafkaError("the log was closed"))
        ending = [task for task in (*self._tasks.values(), self._learning) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._expiry is not None:
            self._expiry.cancel()
        self._brokers.end()

    # --- from the queues to the brokers

    def _dispatch_soon(self) -> None:
        """All calls of one turn of the event loop go out together."""
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give every broker that is free what waits for it."""
        self._asked = False
        by_node: dict[int, list[Place]] = {}
        for place in self._waiting:
            if place in self._under_way:
                continue
            node = self._brokers.leader(*place)
            if node is None:
                self._learn()
            elif node not in self._tasks:
                by_node.setdefault(node, []).append(place)
        for node, places in by_node.items():
            batches = self._take(places)
            if batches:
                self._under_way |= batches.keys()
                self._tasks[node] = self._loop.create_task(self._send(node, batches))

    def _take(self, places: Sequence[Place]) -> Batches:
        """As much of the queues as a request takes. What is left of one goes behind the others."""
        batches: Batches = {}
        room = REQUEST_BYTES
        for place in places:
            if room <= 0:
                break
            queue = self._waiting.pop(place)
            taken, size = _first_batch(queue)
            room -= size
            if queue:
                self._waiting[place] = queue
            if taken:
                batches[place] = taken
        return batches

    async def _send(self, node: int, batches: Batches) -> None:
        """One request from its sending to its end, also the pause before the next one to this broker."""
        under_way, began = list(batches), self._loop.time()
        try:
            throttled_seconds = await self._produce(node, batches)
            if batches:
                self._put_back(batches)
                await asyncio.sleep(max(throttled_seconds, RETRY_SECONDS, self._brokers.pause_seconds()))
                await self._brokers.learn(self._topics)
            else:
                await asyncio.sleep(max(throttled_seconds, began + PACE_SECONDS - self._loop.time()))
        except Unreachable as error:
            _log.info("kafka_leaders_unknown", error=str(error))
        except Exception as error:  # whatever it was, the other requests go on, and these are sent again
            _log.warning("kafka_send_failed", error=repr(error))
            _doubt(batches)
            self._put_back(batches)
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._under_way.difference_update(under_way)
            del self._tasks[node]
            self._dispatch_soon()

    async def _produce(self, node: int, batches: Batches) -> float:
        """Send the batches and settle what is certain; what is to be sent again stays in `batches`.

        Returns for how many seconds the broker wants to be left alone.
        """
        try:
            connection = await self._brokers.connection(node)
        except Unreachable:
            return 0.0
        try:
            answer = await self._answer(connection, batches)
        except (ConnectionGone, TimeoutError) as error:
            connection.close()
            _doubt(batches)
            _log.info("kafka_append_unanswered", error=repr(error))
            return 0.0
        results, throttle_ms = wire.produced(answer)
        for result in results:
            self._conclude(result, batches)
        return throttle_ms / 1000

    async def _answer(self, connection: Connection, batches: Batches) -> bytes:
        stamp_ms = self._clock.now_ms()
        by_topic: dict[str, list[tuple[int, bytes]]] = {}
        for (topic, partition), pieces in batches.items():
            batch = wire.record_batch([(piece.value, piece.key) for piece in pieces], stamp_ms)
            by_topic.setdefault(topic, []).append((partition, batch))
        async with asyncio.timeout(self._request_ms / 1000):
            return await connection.ask(wire.PRODUCE, wire.produce(by_topic, self._request_ms))

    # --- and back

    def _conclude(self, result: wire.Produced, batches: Batches) -> None:
        """Take up what the broker says of one batch: it leaves `batches`, unless it is to be sent again."""
        place = result.topic, result.partition
        pieces = batches.pop(place)
        if result.code == 0:
            for offset, piece in enumerate(pieces):
                piece.latch.perhaps = True
                piece.latch.positions[piece.number] = result.first + offset
                self._count_down(piece.latch)
            return
        error = for_code(result.code)
        if issubclass(error, TOO_LARGE) and len(pieces) > 1:
            batches[place] = [piece._replace(alone=True) for piece in pieces]
        elif issubclass(error, RetriableError):
            batches[place] = pieces
            if issubclass(error, PERHAPS_WRITTEN):
                _doubt(batches)
        else:
            for piece in pieces:
                piece.latch.error = error(f"{result.topic}/{result.partition}")
                self._count_down(piece.latch)

    def _count_down(self, latch: Latch) -> None:
        latch.waiting -= 1
        if latch.waiting == 0:
            self._settle(latch)

    def _settle(self, latch: Latch) -> None:
        if latch.settled:
            return
        latch.settled = True
        del self._open[latch]
        self._inflight_bytes -= latch.size
        if latch.error is None:
            self._unacked_since = self._clock.monotonic() if self._open else None
        outcome = latch.outcome()
        if latch.future.done():  # its caller was cancelled
            return
        if isinstance(outcome, Exception):
            latch.future.set_exception(outcome)
        else:
            latch.future.set_result(outcome)

    def _put_back(self, batches: Batches) -> None:
        """In front of what came since: the order in a partition stays."""
        for place, pieces in batches.items():
            queue = self._waiting.pop(place, None) or deque()
            queue.extendleft(piece for piece in reversed(pieces) if not piece.latch.settled)
            if queue:
                self._waiting[place] = queue

    def _give_up(self, error: Exception, until: float = float("inf")) -> None:
        """End the calls that were to end `until` then: where their records are, nobody knows."""
        for latch in list(self._open):
            if latch.deadline > until:
                break
            latch.error, latch.perhaps = error, True
            self._settle(latch)
        for place in list(self._waiting):
            queue = deque(piece for piece in self._waiting[place] if not piece.latch.settled)
            if queue:
                self._waiting[place] = queue
            else:
                del self._waiting[place]

    def _expire(self) -> None:
        """All calls have the same time, so that the oldest is the next to run out of it."""
        self._expiry = None
        self._give_up(KafkaTimeoutError("no acknowledgement in time"), self._loop.time())
        oldest = next(iter(self._open), None)
        if oldest is not None:
            self._expiry = self._loop.call_at(oldest.deadline, self._expire)

    # --- who leads what

    def _learn(self) -> None:
        if self._learning is None:
            self._learning = self._loop.create_task(self._learn_leaders())

    async def _learn_leaders(self) -> None:
        try:
            await self._brokers.learn(self._topics)
        except Exception as error:  # the next round asks again
            _log.info("kafka_leaders_unknown", error=repr(error))
        if self._waiting:  # perhaps for a partition without a leader
            await asyncio.sleep(max(RETRY_SECONDS, self._brokers.pause_seconds()))
        self._learning = None
        self._dispatch_soon()


def _first_batch(queue: deque[Piece]) -> tuple[list[Piece], int]:
    """Take the next batch off a queue, without what nobody waits for any more; its size in bytes."""
    taken: list[Piece] = []
    size = 0
    while queue and not (taken and (taken[0].alone or queue[0].alone)):
        length = len(queue[0].value) + len(queue[0].key)
        if taken and size + length > BATCH_BYTES:
            break
        piece = queue.popleft()
        if not piece.latch.settled:
            taken.append(piece)
            size += length
    return taken, size


def _doubt(batches: Batches) -> None:
    """These may be in the log, whatever becomes of them from here on."""
    for pieces in batches.values():
        for piece in pieces:
            piece.latch.perhaps = True
