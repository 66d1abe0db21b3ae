"""Where partitions begin and end, asked from their leaders, every question bounded in time."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import TopicPartition
from kafka.errors import for_code

from shared.errors import NotAccepting
from shared.log import kafka_wire as wire
from shared.log.kafka_brokers import Brokers
from shared.log.kafka_connection import ConnectionGone, Unreachable
from shared.log.port import Bounds

ANSWER_SECONDS = 4.0
RETRY_SECONDS = 0.1


class Offsets:
    """Asked in the event loop, over connections of its own: an answer never stands behind a fetch that waits."""

    def __init__(self, bootstrap: str, settings: Mapping[str, Any]) -> None:
        self._bootstrap = bootstrap
        self._brokers = Brokers(bootstrap, settings)

    async def bounds(self, topic: str, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Earliest position and end of each. Raises NotAccepting when nobody answers in time."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        earliest, ends = await asyncio.gather(self._ask(wanted, wire.EARLIEST), self._ask(wanted, wire.END))
        return {asked.partition: Bounds(earliest[asked], ends[asked]) for asked in wanted}

    async def ends(self, wanted: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The end of each of the partitions, of any topics. Raises NotAccepting."""
        return await self._ask(wanted, wire.END)

    def close(self) -> None:
        """Close the connections."""
        self._brokers.end()

    async def _ask(self, wanted: Sequence[TopicPartition], which: int) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        why: Exception = TimeoutError("no answer in time")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(found) < len(wanted):
                    try:
                        await self._ask_leaders([one for one in wanted if one not in found], which, found)
                    except (Unreachable, ConnectionGone) as error:
                        why = error
                        await asyncio.sleep(max(RETRY_SECONDS, self._brokers.pause_seconds()))
        except TimeoutError as error:
            self._brokers.close()  # whoever did not answer will hardly answer the next question
            raise NotAccepting(f"the Kafka cluster at {self._bootstrap} does not answer: {why}") from error
        return found

    async def _ask_leaders(
        self, wanted: Sequence[TopicPartition], which: int, found: dict[TopicPartition, int]
    ) -> None:
        """Put into `found` what is answered. Raises Unreachable where any is not."""
        topics = {one.topic for one in wanted}
        if any(self._brokers.leader(*one) is None for one in wanted):
            await self._brokers.learn(topics)
        by_node: dict[int, dict[str, list[int]]] = {}
        for one in wanted:
            node = self._brokers.leader(*one)
            if node is None:
                raise Unreachable(f"{one.topic}/{one.partition} has no leader now")
            by_node.setdefault(node, {}).setdefault(one.topic, []).append(one.partition)
        for node, asked in by_node.items():
            connection = await self._brokers.connection(node)
            for answer in wire.offsets(await connection.ask(wire.LIST_OFFSETS, wire.list_offsets(asked, which))):
                if answer.code:
                    self._brokers.forget(answer.topic)
                    raise Unreachable(f"{answer.topic}/{answer.partition}: {for_code(answer.code).__name__}")
                found[TopicPartition(answer.topic, answer.partition)] = answer.position
