"""A broker on a loopback port that answers as it is told: for what a real one cannot be brought to say.

Requests are read and answers written by the client library's own protocol classes, so that our bytes are judged by
somebody else's reading of the protocol.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from kafka.protocol.consumer import (
    FetchRequest,
    FetchResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
)
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse
from kafka.protocol.producer import ProduceRequest, ProduceResponse
from kafka.record import MemoryRecords

SPOKEN = {
    ApiVersionsRequest: (0, 3),
    MetadataRequest: (0, 8),
    ProduceRequest: (0, 9),
    FetchRequest: (4, 11),
    ListOffsetsRequest: (1, 5),
    OffsetForLeaderEpochRequest: (2, 3),
}
"""What it understands, and in which versions."""
REQUESTS = {one.API_KEY: one for one in SPOKEN}
OUT_OF_RANGE = 1
HELD_SECONDS = 0.02
"""An empty fetch is answered after so long."""
Told = tuple[str, int, list[bytes]]
"""Topic, partition and values of one batch that came."""


class Vanish(Exception):
    """Raised by a script: the broker closes the connection instead of answering."""


class ScriptedBroker:
    """One node with one topic. `script(topic, partition, values)` gives the error code of each batch."""

    def __init__(self, topic: str, partitions: int) -> None:
        self.topic, self.partitions = topic, partitions
        self.requests: list[list[Told]] = []
        self.script: Callable[[str, int, list[bytes]], int] = lambda _topic, _partition, _values: 0
        self.leaderless: set[int] = set()
        self.spoken = dict(SPOKEN)
        self.stored: dict[int, list[tuple[int, int, bytes]]] = {partition: [] for partition in range(partitions)}
        """What is fetched: first position, count of records, and bytes, batch by batch."""
        self.fetch_codes: dict[int, int] = {}
        self.epoch_ends: dict[int, int] = {}
        self.mute = False
        self.port = 0
        self.kept: dict[int, list[bytes]] = {partition: [] for partition in range(partitions)}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port as before, if it did."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close every connection and the port."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                frame = await reader.readexactly(size)
                key, version, correlation = struct.unpack_from(">hhi", frame)
                request = REQUESTS[key].decode(frame, version=version, header=True)
                answer = self._answer(request)
                if isinstance(request, FetchRequest) and not any(_brought(answer)):
                    await asyncio.sleep(HELD_SECONDS)
                if self.mute and not isinstance(request, ApiVersionsRequest):
                    continue
                answer.API_VERSION = version
                answer.with_header(correlation_id=correlation)
                writer.write(answer.encode(header=True, framed=True))
        except (asyncio.IncompleteReadError, ConnectionError, Vanish):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _answer(self, request: Any) -> Any:
        if isinstance(request, ApiVersionsRequest):
            return self._versions()
        if isinstance(request, MetadataRequest):
            return self._metadata()
        if isinstance(request, FetchRequest):
            return self._fetched(request)
        if isinstance(request, ListOffsetsRequest):
            return self._listed(request)
        if isinstance(request, OffsetForLeaderEpochRequest):
            return self._epoch_ended(request)
        came = [
            (topic.name, one.index, [record.value for batch in MemoryRecords(bytes(one.records)) for record in batch])
            for topic in request.topic_data
            for one in topic.partition_data
        ]
        self.requests.append(came)
        answered = ProduceResponse.TopicProduceResponse
        parts = [self._produced(*told) for told in came]
        return ProduceResponse(responses=[answered(name=self.topic, partition_responses=parts)], throttle_time_ms=0)

    def _produced(self, topic: str, partition: int, values: list[bytes]) -> Any:
        code = self.script(topic, partition, values)
        first = len(self.kept[partition])
        if code == 0:
            self.kept[partition] += values
        return ProduceResponse.TopicProduceResponse.PartitionProduceResponse(
            index=partition, error_code=code, base_offset=first, log_append_time_ms=0, log_start_offset=0
        )

    def _versions(self) -> Any:
        row = ApiVersionsResponse.ApiVersion
        keys = [row(api_key=one.API_KEY, min_version=low, max_version=high) for one, (low, high) in self.spoken.items()]
        return ApiVersionsResponse(error_code=0, api_keys=keys)

    def _fetched(self, request: Any) -> Any:
        topic = FetchResponse.FetchableTopicResponse
        (asked,) = request.topics
        parts = []
        for one in asked.partitions:
            stored = self.stored[one.partition]
            code = self.fetch_codes.get(one.partition, 0)
            if not code and one.fetch_offset > self._end(one.partition):
                code = OUT_OF_RANGE
            found = [] if code else [raw for first, count, raw in stored if first + count > one.fetch_offset]
            parts.append(
                topic.PartitionData(
                    partition_index=one.partition,
                    error_code=code,
                    high_watermark=self._end(one.partition),
                    last_stable_offset=-1,
                    aborted_transactions=None,
                    records=b"".join(found),
                )
            )
        return FetchResponse(throttle_time_ms=0, responses=[topic(topic=asked.topic, partitions=parts)])

    def _end(self, partition: int) -> int:
        return max((first + count for first, count, _ in self.stored[partition]), default=0)

    def _listed(self, request: Any) -> Any:
        topic = ListOffsetsResponse.ListOffsetsTopicResponse
        answered = [
            topic(
                name=asked.name,
                partitions=[
                    topic.ListOffsetsPartitionResponse(
                        partition_index=one.partition_index,
                        error_code=0,
                        timestamp=-1,
                        offset=self._end(one.partition_index) if one.timestamp == -1 else 0,
                    )
                    for one in asked.partitions
                ],
            )
            for asked in request.topics
        ]
        return ListOffsetsResponse(throttle_time_ms=0, topics=answered)

    def _epoch_ended(self, request: Any) -> Any:
        topic = OffsetForLeaderEpochResponse.OffsetForLeaderTopicResult
        (asked,) = request.topics
        (one,) = asked.partitions
        ended = topic.EpochEndOffset(
            error_code=0,
            partition=one.partition,
            leader_epoch=one.leader_epoch,
            end_offset=self.epoch_ends[one.leader_epoch],
        )
        return OffsetForLeaderEpochResponse(throttle_time_ms=0, topics=[topic(topic=asked.topic, partitions=[ended])])

    def _metadata(self) -> Any:
        topic = MetadataResponse.MetadataResponseTopic
        partitions = [
            topic.MetadataResponsePartition(
                error_code=0,
                partition_index=number,
                leader_id=-1 if number in self.leaderless else 1,
                replica_nodes=[1, 2, 3],
                isr_nodes=[1],
            )
            for number in range(self.partitions)
        ]
        return MetadataResponse(
            throttle_time_ms=0,
            brokers=[MetadataResponse.MetadataResponseBroker(node_id=1, host="127.0.0.1", port=self.port, rack=None)],
            cluster_id="scripted",
            controller_id=1,
            topics=[topic(error_code=0, name=self.topic, is_internal=False, partitions=partitions)],
        )


def _brought(answer: Any) -> list[bool]:
    return [bool(one.records or one.error_code) for topic in answer.responses for one in topic.partitions]
