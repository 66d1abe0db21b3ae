"""Which partitions this worker may fold: the assignment of a Kafka consumer group, and nothing else of it.

The group's consumer never fetches. One topic decides for all topics of the worker, since they are partitioned alike.
What protects a partition is the epoch in the database; this only says who should try.
"""

import asyncio
import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from shared.clock import Clock
from shared.log.kafka_clients import CONSUMER

POLL_MS = 100
RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class _Noting(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs on the client's own thread, where any blocking call would stop the heartbeats: it only notes."""

    def __init__(self, ownership: "KafkaOwnership") -> None:
        self._ownership = ownership

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._ownership.note_revoked({partition.partition for partition in revoked})

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)
        self._ownership.forget_claims()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._ownership.note_assigned({partition.partition for partition in assigned})


def _join_on(consumer: Any) -> None:
    """Have the next poll await a join that this one did not see the end of.

    The client forgets it where the join was begun by changed metadata alone: the assignment is then never taken up, no
    heartbeat is sent, and the group goes on without a member that believes to be in it (kafka-python 3.0.12).
    """
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress():
        coordinator.request_rejoin()


class KafkaOwnership:
    """The port's Ownership by a consumer group. `topics[0]` decides; the others are named for `progress` only."""

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        clock: Clock,
        *,
        prefix: str = "",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """`prefix` stands before the group's and every topic's name · `settings` go to kafka-python over our own
        (security, shorter session)."""
        self._clock, self._topic, self._prefix = clock, prefix + topics[0], prefix
        self._settings = {
            **CONSUMER,
            "bootstrap_servers": bootstrap,
            "group_id": prefix + group,
            "auto_offset_reset": "latest",  # of no effect: every partition is paused
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 1000,
            "partition_assignment_strategy": (CooperativeStickyAssignor,),
            **(settings or {}),
        }
        self._lock = threading.Lock()
        self._assigned: frozenset[int] = frozenset()
        self._generation = 0
        self._positions: queue.SimpleQueue[tuple[str, dict[int, int]]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._consumer: Any = None
        self._thread = threading.Thread(target=self._run, name=f"kafka-group-{group}", daemon=True)

    async def start(self) -> None:
        """Join the group; the assignment arrives when the group has agreed."""
        self._thread.start()

    def assigned(self) -> frozenset[int]:
        """The partitions assigned at this moment."""
        with self._lock:
            return self._assigned

    def generation(self) -> int:
        """Grows with every change of the assignment."""
        with self._lock:
            return self._generation

    def progress(self, topic: str, positions: dict[int, int]) -> None:
        """Commit positions under the group, without waiting for the answer, so that ordinary tools show the lag."""
        self._positions.put((topic, dict(positions)))

    async def close(self) -> None:
        """Leave the group at once."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def note_revoked(self, partitions: set[int]) -> None:
        """The group took these away (called on the client's thread)."""
        self._note(self.assigned() - partitions)

    def note_assigned(self, partitions: set[int]) -> None:
        """The group gave these (called on the client's thread)."""
        self._note(self.assigned() | partitions)

    def forget_claims(self) -> None:
        """The group went on without us (called on the client's thread): at the next join we have nothing.

        The client would still say it has what it had (kafka-python 3.0.12). The group's leader then leaves these
        partitions to nobody until we give them up, which we never do: for as long as nobody joins or leaves, nobody
        would fold them.
        """
        consumer = self._consumer
        if consumer is not None:  # else it is being left behind
            for assignor in consumer._coordinator._assignors.values():
                assignor.member_assignment = None

    def _note(self, assigned: frozenset[int]) -> None:
        with self._lock:
            if assigned != self._assigned:
                self._assigned = assigned
                self._generation += 1
                _log.info("partitions_assigned", topic=self._topic, count=len(assigned), generation=self._generation)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._consumer is None:
                    self._join()
                self._consumer.pause(*self._consumer.assignment())
                self._consumer.poll(timeout_ms=POLL_MS)
                _join_on(self._consumer)
                self._commit(self._consumer)
            except Exception as error:  # nothing may end this thread: it joins again with a new client
                _log.warning("kafka_group_client_failed", error=repr(error))
                self._leave()
                self._stopping.wait(RETRY_SECONDS)
        self._leave()

    def _join(self) -> None:
        self._consumer = KafkaConsumer(**self._settings)
        self._consumer.subscribe([self._topic], listener=_Noting(self))

    def _leave(self) -> None:
        self._note(frozenset())
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=3000)
        except Exception as error:  # a client in any state must be left behind
            _log.warning("kafka_group_close_failed", error=repr(error))

    def _commit(self, consumer: Any) -> None:
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        while not self._positions.empty():
            topic, positions = self._positions.get()
            offsets |= {
                TopicPartition(self._prefix + topic, at): OffsetAndMetadata(to, "", -1) for at, to in positions.items()
            }
        if offsets:
            consumer.commit_async(offsets)
