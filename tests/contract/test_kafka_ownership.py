"""A worker gets its partitions however slowly the group answers: a join that outlasts one poll is seen to its end."""

import asyncio
import secrets

import pytest

from shared.clock import SystemClock
from shared.log.kafka import KafkaLog
from shared.log.kafka_ownership import KafkaOwnership
from shared.log.port import Topic
from tests.support.broker import Broker, ExternalBroker

PARTITIONS, GROUPS, ROUNDS, POLL_MS = 8, 6, 4, 20
ASSIGNED_SECONDS = 60


@pytest.mark.kafka
async def test_a_join_that_outlasts_a_poll_is_seen_to_its_end(
    broker: Broker | ExternalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.kafka_ownership.POLL_MS", POLL_MS)  # many joins outlast it
    topic = f"owned-{secrets.token_hex(4)}"
    log = KafkaLog(broker.bootstrap, SystemClock())
    await log.ensure([Topic(topic, PARTITIONS)])
    await log.close()
    for _ in range(ROUNDS):
        workers = [KafkaOwnership(broker.bootstrap, f"{topic}-{n}", (topic,), SystemClock()) for n in range(GROUPS)]
        await asyncio.gather(*(worker.start() for worker in workers))
        try:
            async with asyncio.timeout(ASSIGNED_SECONDS):
                while any(len(worker.assigned()) < PARTITIONS for worker in workers):
                    await asyncio.sleep(0.02)
        finally:
            await asyncio.gather(*(worker.close() for worker in workers))


@pytest.mark.kafka
async def test_who_was_put_out_of_the_group_claims_nothing_when_it_joins_again(
    broker: Broker | ExternalBroker,
) -> None:
    """Else the group's leader leaves half of the partitions to nobody: it waits until the one who claims them, and does
    not have them, gives them up."""
    topic = f"owned-{secrets.token_hex(4)}"
    log = KafkaLog(broker.bootstrap, SystemClock())
    await log.ensure([Topic(topic, PARTITIONS)])
    await log.close()
    first, second = (KafkaOwnership(broker.bootstrap, topic, (topic,), SystemClock()) for _ in range(2))
    try:
        async with asyncio.timeout(ASSIGNED_SECONDS):
            await first.start()
            while len(first.assigned()) < PARTITIONS:
                await asyncio.sleep(0.02)
            first._consumer._coordinator.reset_generation()  # as when the broker says that it does not know this member
            await second.start()
            while len(first.assigned() | second.assigned()) < PARTITIONS or not second.assigned():
                await asyncio.sleep(0.02)
        assert not first.assigned() & second.assigned()
    finally:
        await asyncio.gather(first.close(), second.close())
