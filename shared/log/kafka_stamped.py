"""Copying a log on Kafka: new topics that keep the stamps they are given while they are filled, the broker's own after.

Records carry their kind of stamp themselves, so those copied keep theirs when the topic is set to LogAppendTime.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from shared.errors import LogMismatch, NotAccepting
from shared.log.kafka_clients import CONNECTION, PRODUCER
from shared.log.port import Outgoing, Topic

ANSWER_MS = 30_000
UNACKNOWLEDGED_MAX = 2_000


class StampedKafka:
    """New topics on a cluster, their names behind `prefix`. Blocking; `finish` it."""

    def __init__(self, bootstrap: str, prefix: str, security: Mapping[str, Any] | None = None) -> None:
        """`security`: for every connection, in the client library's words."""
        self._bootstrap, self._prefix, self._security = bootstrap, prefix, dict(security or {})
        self._topics: list[str] = []
        self._producer: Any = None
        self._sent: list[Any] = []

    def make(self, topics: Sequence[Topic]) -> None:
        """Make the topics. Raises LogMismatch where one is there, NotAccepting where no broker answers."""
        wanted = {
            self._prefix + topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": -1,
                "configs": {
                    "message.timestamp.type": "CreateTime",
                    "retention.ms": str(-1 if topic.retention_ms is None else topic.retention_ms),
                    "retention.bytes": "-1",
                    "cleanup.policy": "delete",
                },
            }
            for topic in topics
        }
        with _Admin(self._bootstrap, self._security) as admin:
            present = sorted(set(admin.list_topics()) & wanted.keys())
            if present:
                raise LogMismatch(
                    f"{', '.join(present[:3])} are on the cluster already: choose another --topic-prefix, or delete "
                    "the topics of a copy that was not finished"
                )
            admin.create_topics(wanted)
            admin.wait_for_topics(list(wanted))
        self._topics = list(wanted)
        self._producer = KafkaProducer(bootstrap_servers=self._bootstrap, **{**PRODUCER, **self._security})

    def append(self, topic: str, recorded_at: int, records: Sequence[Outgoing]) -> None:
        """Send with the given stamp; waits for acknowledgements now and then. Raises NotAccepting."""
        try:
            for partition, value, key in records:
                sent = self._producer.send(
                    self._prefix + topic, value, key=key or None, partition=partition, timestamp_ms=recorded_at
                )
                self._sent.append(sent)
            if len(self._sent) >= UNACKNOWLEDGED_MAX:
                self._settle()
        except KafkaError as error:
            raise NotAccepting(f"the cluster did not take the copy ({error}): delete its topics and repeat") from error

    def finish(self) -> None:
        """Wait for every acknowledgement, then let the broker stamp what comes. Raises NotAccepting."""
        try:
            self._settle()
            self._producer.close()
            stamped_by_broker = {"message.timestamp.type": "LogAppendTime"}
            with _Admin(self._bootstrap, self._security) as admin:
                admin.alter_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, name, configs=stamped_by_broker) for name in self._topics]
                )
        except KafkaError as error:
            raise NotAccepting(f"the cluster did not take the copy ({error}): delete its topics and repeat") from error

    def _settle(self) -> None:
        self._producer.flush()
        for sent in self._sent:
            sent.get(timeout=ANSWER_MS / 1000)
        self._sent = []


class _Admin:
    """An admin client for one block."""

    def __init__(self, bootstrap: str, security: Mapping[str, Any]) -> None:
        self._bootstrap, self._security = bootstrap, security

    def __enter__(self) -> Any:
        try:
            self._admin = KafkaAdminClient(
                bootstrap_servers=self._bootstrap, request_timeout_ms=ANSWER_MS, **{**CONNECTION, **self._security}
            )
        except KafkaError as error:
            raise NotAccepting(f"the Kafka cluster at {self._bootstrap} does not answer: {error}") from error
        return self._admin

    def __exit__(self, *_error: object) -> None:
        self._admin.close()
