"""Appending to Kafka: sends on a thread of their own, one completion latch per request, bounded bytes in flight.

The client's buffer has no bound and its `send` may block on metadata, so neither is ever met on the event loop. A
watchdog replaces a producer that acknowledges nothing although sends wait.
"""

import asyncio
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from shared.clock import Clock
from shared.errors import NotAccepting, OutcomeUnknown, TooLarge
from shared.log.kafka_clients import PRODUCER
from shared.log.port import Outgoing

_log = structlog.get_logger(__name__)

CLOSE_SECONDS = 5.0
"""An orderly stop is not held up for longer by brokers that are away; whoever waits is told `OutcomeUnknown`."""


class Latch:
    """One append call: done when each of its records was acknowledged or failed."""

    __slots__ = ("error", "future", "positions", "records", "sent", "size", "topic", "waiting")

    def __init__(self, topic: str, records: Sequence[Outgoing], size: int, future: "asyncio.Future[list[int]]") -> None:
        self.topic, self.records, self.size, self.future = topic, records, size, future
        self.positions = [-1] * len(records)
        self.waiting, self.sent = len(records), 0
        self.error: Exception | None = None

    def outcome(self) -> list[int] | Exception:
        """The positions, or the one error that says what the caller can know."""
        if self.error is None:
            return self.positions
        if self.sent == 0:
            return NotAccepting(f"Kafka takes nothing now: {self.error}")
        if isinstance(self.error, MessageSizeTooLargeError) and self.sent == 1:
            return TooLarge(f"the topic's max.message.bytes is below what Raftar needs: {self.error}")
        return OutcomeUnknown(f"Kafka did not acknowledge: {self.error!r}")


class Appender:
    """Owns the producer and its sending thread. Everything public is called in the event loop."""

    def __init__(
        self,
        bootstrap: str,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        inflight_bytes_max: int,
        stall_seconds: float,
        settings: Mapping[str, object],
    ) -> None:
        self._settings = {**PRODUCER, "bootstrap_servers": bootstrap, **settings}
        self._clock, self._loop = clock, loop
        self._inflight_bytes_max, self._inflight_bytes = inflight_bytes_max, 0
        self._stall_seconds = stall_seconds
        self.rebuilds = 0
        self._open: set[Latch] = set()
        self._unacked_since: float | None = None
        self._done_lock = threading.Lock()
        self._done: list[Latch] = []
        self._producer: Any = None
        self._stale = False
        self._gathered: list[Latch] = []
        self._queue: queue.SimpleQueue[list[Latch] | str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kafka-appender", daemon=True)
        self._thread.start()

    def warm(self, topic: str) -> None:
        """Fetch the topic's metadata before its first append needs it."""
        self._queue.put(topic)

    def append(self, topic: str, records: Sequence[Outgoing], size: int) -> "asyncio.Future[list[int]]":
        """Queue one request. Raises NotAccepting when too much waits already."""
        if self._inflight_bytes and self._inflight_bytes + size > self._inflight_bytes_max:
            raise NotAccepting(f"{self._inflight_bytes >> 20} MiB wait for Kafka already")
        future: asyncio.Future[list[int]] = self._loop.create_future()
        latch = Latch(topic, records, size, future)
        self._inflight_bytes += size
        self._open.add(latch)
        if self._unacked_since is None:
            self._unacked_since = self._clock.monotonic()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(latch)
        return future

    def watch(self) -> None:
        """Replace the producer when nothing was acknowledged for too long although sends wait. Called now and then."""
        since = self._unacked_since
        if not self._open or since is None or self._clock.monotonic() - since < self._stall_seconds:
            return
        self.rebuilds += 1
        self._unacked_since = self._clock.monotonic()
        self._stale = True
        _log.warning("kafka_producer_rebuilt", waiting=len(self._open), rebuilds=self.rebuilds)
        error = KafkaError("the producer stalled and was replaced")
        for latch in list(self._open):  # a stalled client may never say so itself
            latch.error, latch.sent = error, max(latch.sent, 1)
            self._settle(latch)

    async def close(self) -> None:
        """Send what is queued and wait `CLOSE_SECONDS` for it; what is open then has an unknown outcome."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # let the last latches settle
        for latch in list(self._open):
            latch.error, latch.sent = KafkaError("the log was closed"), max(latch.sent, 1)
            self._settle(latch)

    def _hand_over(self) -> None:
        """All requests of one turn of the event loop go to the sending thread together: it is woken once."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._queue.put(gathered)

    # --- in the sending thread

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            latches = [] if isinstance(request, str) else request
            sent = 0
            try:
                if isinstance(request, str):
                    self._ready().partitions_for(request)
                for latch in latches:
                    self._send(latch)
                    sent += 1
            except Exception as error:  # nothing may end this thread: the callers are told instead
                _log.warning("kafka_send_failed", error=repr(error))
                if latches:
                    self._refuse(latches[sent:], error)
                    self._refuse_queued(error)
        self._end()

    def _ready(self) -> Any:
        if self._stale:
            self._stale = False
            stalled, self._producer = self._producer, None
            if stalled is not None:
                _abandon(stalled)
        if self._producer is None:
            self._producer = KafkaProducer(**self._settings)
        return self._producer

    def _send(self, latch: Latch) -> None:
        if latch.future.done() and latch.error is not None:  # settled by the watchdog before it was sent
            return
        producer = self._ready()
        for index, (partition, value, key) in enumerate(latch.records):
            future = producer.send(latch.topic, value, key=key or None, partition=partition)
            latch.sent += 1
            future.add_callback(self._acked, latch, index)
            future.add_errback(self._failed, latch, 1)

    def _refuse(self, latches: Sequence[Latch], error: Exception) -> None:
        """Fail the records of these requests that were not sent."""
        for latch in latches:
            self._failed(latch, len(latch.records) - latch.sent, error)

    def _refuse_queued(self, error: Exception) -> None:
        """Whoever waits behind a send that found no cluster would wait its time-out too, one after the other."""
        for _ in range(self._queue.qsize()):
            request = self._queue.get()
            if isinstance(request, list):
                self._refuse(request, error)
            else:
                self._queue.put(request)

    def _end(self) -> None:
        if self._producer is None:
            return
        try:
            self._producer.flush(CLOSE_SECONDS)
            self._producer.close(CLOSE_SECONDS)
        except KafkaError as error:
            _log.warning("kafka_producer_closed_with_unsent_records", error=str(error))
            _abandon(self._producer)

    # --- in the client's thread (a refusal: in the sending thread)

    def _acked(self, latch: Latch, index: int, metadata: Any) -> None:
        latch.positions[index] = metadata.offset
        self._count_down(latch, 1)

    def _failed(self, latch: Latch, records: int, error: Exception) -> None:
        latch.error = error
        self._count_down(latch, records)

    def _count_down(self, latch: Latch, records: int) -> None:
        with self._done_lock:
            latch.waiting -= records
            if latch.waiting > 0:
                return
            self._done.append(latch)
            first = len(self._done) == 1
        if first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle_done)

    # --- in the event loop again

    def _settle_done(self) -> None:
        with self._done_lock:
            done, self._done = self._done, []
        for latch in done:
            self._settle(latch)

    def _settle(self, latch: Latch) -> None:
        if latch not in self._open:  # settled by the watchdog or by `close`
            return
        self._open.remove(latch)
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


def _abandon(producer: Any) -> None:
    """End a producer that holds records it cannot send: its `close` alone would wait for them and give up."""
    producer._sender.force_close()
    try:
        producer.close(1)
    except KafkaError as error:
        _log.warning("kafka_producer_abandoned", error=str(error))
        producer._closed = True  # else the garbage collector would close, and wait, once more
