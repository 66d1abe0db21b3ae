"""The same door on a real Kafka broker: what was answered 200 is there for any other client."""

import asyncio
import base64
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from shared.clock import FrozenClock
from shared.codec import decode
from shared.events import TouchpointsRecorded
from shared.log.kafka import KafkaLog
from tests.service.ingest_house import NOW_MS, PARTITIONS, house, track
from tests.support.broker import NewBroker


def everything(bootstrap: str, topic: str) -> list[bytes]:
    """All values of a topic, as librdkafka reads them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "independent", "enable.auto.commit": False})
    try:
        ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in range(PARTITIONS)}
        consumer.assign([TopicPartition(topic, n, 0) for n in ends])
        values: list[bytes] = []
        while len(values) < sum(ends.values()):
            message = consumer.poll(10)
            assert message is not None, "the broker went quiet"
            assert message.error() is None
            values.append(message.value())
        return values
    finally:
        consumer.close()


@pytest.mark.kafka
async def test_what_was_acknowledged_is_on_kafka(new_broker: NewBroker, tmp_path: Path) -> None:
    bootstrap = new_broker().bootstrap
    log = KafkaLog(bootstrap, FrozenClock(NOW_MS))
    async with house(tmp_path, log=log) as door:
        headers = {"authorization": "Basic " + base64.b64encode(f"{door.write_key}:".encode()).decode()}
        body = {"batch": [track(messageId=str(n), anonymousId=f"a-{n}") for n in range(50)] + [5]}
        answers = [await door.client.post("/v1/batch", json=body, headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert (await door.client.get("/readyz")).status_code == 200
        started = await door.client.post("/v1/imports", headers={"authorization": f"Bearer {door.secret_key}"})
        assert started.status_code == 200
        values = await asyncio.to_thread(everything, bootstrap, "touchpoints")
    facts = [decode(value) for value in values]
    touchpoints = [one for fact in facts if isinstance(fact, TouchpointsRecorded) for one in fact.touchpoints]
    assert len(touchpoints) == 150
    assert len({one.id for one in touchpoints}) == 50
