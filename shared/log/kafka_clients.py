"""How kafka-python is set up here, and the questions a log asks of a cluster by it (topic ids, topics).

The settings are the ones that survived killed and frozen brokers in trials; each is a promise of the log port, so the
contract suite breaks them on purpose.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from kafka.admin import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError
from kafka.net.inet import KafkaNetSocket
from kafka.protocol.broker_version_data import BrokerVersionData

from shared.errors import LogMismatch, NotAccepting, RaftarError, Rejected
from shared.log.port import Topic


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
QUESTION_SECONDS = 15.0
"""Some are several requests; one that takes longer is given up."""
UNKNOWN_TOPIC = 3

T = TypeVar("T")


class Asker:
    """Asks the cluster for topics and makes them, by a client and a thread made for each question."""

    def __init__(self, bootstrap: str, security: Mapping[str, Any]) -> None:
        self._bootstrap, self._security = bootstrap, security

    async def describe(self, topics: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What the cluster knows of the topics, by name; unknown ones are absent."""
        return await self._ask(lambda admin: _describe(admin, topics))

    async def create(self, topics: Sequence[Topic], replication_factor: int) -> None:
        """Create topics; one that somebody else made meanwhile is left as it is."""
        await self._ask(lambda admin: _create(admin, topics, replication_factor))

    async def _ask(self, question: Callable[[Any], T]) -> T:
        """Raises NotAccepting for whatever the client library runs into, and after `QUESTION_SECONDS`.

        A question that never returns keeps its thread, which ends with the process; whoever asked goes on.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()

        def ask() -> None:
            try:
                settle, outcome = answered.set_result, self._answer(question)
            except Exception as error:
                settle, outcome = answered.set_exception, error  # type: ignore[assignment]
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(lambda: None if answered.done() else settle(outcome))

        threading.Thread(target=ask, name="kafka-asker", daemon=True).start()
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                return await answered
        except TimeoutError as error:
            raise NotAccepting(f"the Kafka cluster at {self._bootstrap} does not answer in time") from error

    def _answer(self, question: Callable[[Any], T]) -> T:
        try:
            return self._with_admin(question)
        except RaftarError:
            raise
        except Exception as error:  # the library lets errors of sockets and of its own making pass
            raise NotAccepting(f"the Kafka cluster at {self._bootstrap} does not answer: {error!r}") from error

    def _with_admin(self, question: Callable[[Any], T]) -> T:
        admin = KafkaAdminClient(
            bootstrap_servers=self._bootstrap, request_timeout_ms=ANSWER_MS, **{**CONNECTION, **self._security}
        )
        try:
            return question(admin)
        finally:
            admin.close()


def broker_version(understood: Mapping[int, tuple[int, int]]) -> tuple[int, ...]:
    """The version of Kafka that understands these requests, as the client library makes it out: (4, 1)."""
    return tuple(BrokerVersionData(api_versions=dict(understood)).broker_version)


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
