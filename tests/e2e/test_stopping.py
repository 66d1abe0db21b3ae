"""A service ends in order and soon, also while what it stands on is away; and it starts by itself once that is back."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.broker import NewBroker
from tests.support.house import Ground, House, Service, closing
from tests.support.kafka_broker import free_ports

PATIENCE_SECONDS = 90.0
WAITS = "waiting for an answer"


@pytest.mark.parametrize("room", ["ingest", "profiles", "scoring"])
async def test_a_service_that_waits_for_a_log_that_is_away_ends_in_order(tmp_path: Path, room: str) -> None:
    embedded = House(Ground(tmp_path))
    await embedded.prepare()
    service = Service(room, room, free_ports(1)[0], Ground(tmp_path, f"127.0.0.1:{free_ports(1)[0]}"))
    service.launch()
    try:
        await _until(lambda: WAITS in service.printed(), service)
        assert service.terminate() == 0, service.printed()
    finally:
        service.kill9()


async def test_the_house_waits_for_its_broker_and_ends_in_order_while_it_is_away(
    tmp_path: Path, new_broker: NewBroker, postgres_url: str
) -> None:
    broker = new_broker()
    house = House(Ground(tmp_path, broker.bootstrap, postgres_url))
    await house.prepare()
    broker.kill9()
    with closing(house):
        for service in house.services.values():
            service.launch()
        for service in house.services.values():
            await _until(lambda service=service: WAITS in service.printed(), service)  # type: ignore[misc]
        broker.launch()
        for service in house.services.values():
            service.wait_until_ready(PATIENCE_SECONDS)
        broker.kill9()
        for service in house.services.values():
            assert service.terminate() == 0, service.printed()


async def _until(holds: Callable[[], bool], service: Service) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert service.alive(), f"{service.name} ended by itself:\n{service.printed()}"
        assert time.monotonic() < deadline, f"{service.name} never said so:\n{service.printed()}"
        await asyncio.sleep(0.1)
