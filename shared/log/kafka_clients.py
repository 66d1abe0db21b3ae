"""How kafka-python is set up here, and the questions a log asks of a cluster (bounds, topic ids, topics).

The settings are the ones that survived killed and frozen brokers in trials; each is a promise of the log port, so the
contract suite breaks them on purpose.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.net.inet import KafkaNetSocket

from shared.errors import LogMismatch, NotAccepting, Rejected
from shared.log.port import Bounds, Topic


class _SelfClosing(socket.socket):
    """Closed with its last reference: a client whose making failed is nobody's to close."""

    def __del__(self) -> None:
        self.close()


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc]
    """Closes a socket whose connect failed. The client leaves it to the garbage collector, so a long outage would use
    up the process's file descriptors. Chosen by its scheme, where the client looks for proxies."""

    SCHEMES = ("direct",)

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        """A socket that whoever gives up a client half made need not close."""
        return _SelfClosing(*args, **kwargs)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        """Connect, or close."""
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


CONNECTION = {
    "proxy_url": "direct://",
    "reconnect_backoff_ms": 50,
    "reconnect_backoff_max_ms": 1000,  # the default of 30 s keeps a reader silent long after the broker is back
    "bootstrap_timeout_ms": 4000,
    "metadata_max_age_ms": 60_000,
}
REQUEST_MS, DELIVERY_MS = 5000, 15_000
"""A broker may take so long for one request; an append ends after so much, one way or the other."""
PRODUCER = {
    **CONNECTION,
    "metrics_enabled": False,
    "acks": "all",
    # The idempotent producer never recovers from an outage longer than its delivery time-out; our facts are
    # deduplicated by their ids.
    "enable_idempotence": False,
    "max_in_flight_requests_per_connection": 1,  # order per partition across the client's own retries
    "linger_ms": 5,
    "batch_size": 262_144,
    "max_block_ms": 2000,
    "request_timeout_ms": REQUEST_MS,
    "delivery_timeout_ms": DELIVERY_MS,
    "allow_auto_create_topics": False,
}
CONSUMER = {
    **CONNECTION,
    "metrics_enabled": False,
    "enable_auto_commit": False,
    "request_timeout_ms": 12_000,
    "allow_auto_create_topics": False,
}
ANSWER_MS = 4000
UNKNOWN_TOPIC = 3

T = TypeVar("T")


class Asker:
    """Asks the cluster, on a thread of its own; a client that failed is replaced at the next question."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-asker")
        self._consumer: Any = None

    async def bounds(self, topic: str, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Earliest and end, by explicit ListOffsets requests. Raises NotAccepting when nobody answers in time."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        return await self._ask(lambda: self._bounds(wanted))

    async def ends(self, wanted: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The end of each of the partitions, of any topics."""
        return await self._ask(lambda: self._client().end_offsets(wanted, timeout_ms=ANSWER_MS))

    async def describe(self, topics: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What the cluster knows of the topics, by name; unknown ones are absent."""
        return await self._ask(lambda: self._with_admin(lambda admin: _describe(admin, topics)))

    async def create(self, topics: Sequence[Topic], replication_factor: int) -> None:
        """Create topics; one that somebody else made meanwhile is left as it is."""
        await self._ask(lambda: self._with_admin(lambda admin: _create(admin, topics, replication_factor)))

    def close(self) -> None:
        """Free the thread and its client. Blocks for a question that is being asked."""
        self._thread.submit(self._drop)
        self._thread.shutdown()

    async def _ask(self, question: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    def _answer(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except KafkaError as error:
            self._drop()
            raise NotAccepting(f"the Kafka cluster at {self._bootstrap} does not answer: {error}") from error

    def _bounds(self, wanted: Sequence[TopicPartition]) -> dict[int, Bounds]:
        earliest = self._client().beginning_offsets(wanted, timeout_ms=ANSWER_MS)
        ends = self._client().end_offsets(wanted, timeout_ms=ANSWER_MS)
        return {asked.partition: Bounds(earliest[asked], ends[asked]) for asked in wanted}

    def _client(self) -> Any:
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                bootstrap_servers=self._bootstrap, **{**CONSUMER, "request_timeout_ms": 5000}
            )
        return self._consumer

    def _drop(self) -> None:
        dropped, self._consumer = self._consumer, None
        if dropped is not None:
            dropped.close()

    def _with_admin(self, question: Callable[[Any], T]) -> T:
        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=ANSWER_MS, **CONNECTION)
        try:
            return question(admin)
        finally:
            admin.close()


def check_partitions(topic: Topic, described: Mapping[str, Any]) -> None:
    """Raise LogMismatch when the topic has another number of partitions."""
    found = len(described["partitions"])
    if found != topic.partitions:
        raise LogMismatch(
            f"topic {topic.name} has {found} partitions in Kafka, not {topic.partitions}; "
            "set the number it was made with, or copy it to a new topic"
        )


def _describe(admin: Any, topics: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    described = {topic["name"]: topic for topic in admin.describe_topics(list(topics))}
    for name, topic in described.items():
        if topic["error_code"] not in (0, UNKNOWN_TOPIC):
            raise Rejected(f"topic {name}: Kafka says error {topic['error_code']}")
    return {name: topic for name, topic in described.items() if topic["error_code"] == 0}


def _create(admin: Any, topics: Sequence[Topic], replication_factor: int) -> None:
    wanted = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": replication_factor,
            "configs": {
                "message.timestamp.type": "LogAppendTime",
                "retention.ms": str(-1 if topic.retention_ms is None else topic.retention_ms),
                "retention.bytes": "-1",
                "cleanup.policy": "delete",
            },
        }
        for topic in topics
    }
    with suppress(TopicAlreadyExistsError):  # another process starts at the same time
        admin.create_topics(wanted)
    admin.wait_for_topics(list(wanted))
