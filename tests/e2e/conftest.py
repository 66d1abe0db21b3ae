"""The two houses that the end-to-end tests share: embedded, and on a broker and a PostgreSQL of their own."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.rules import rules
from tests.support.broker import started_broker
from tests.support.house import Ground, House, closing
from tests.support.kafka_broker import Broker
from tests.support.postgres import empty_database

SILENCE_MS = 3_000


@pytest.fixture(scope="package")
def embedded_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running house on SQLite; silence is SILENCE_MS."""
    yield from _running(Ground(tmp_path_factory.mktemp("embedded")))


@pytest.fixture(scope="package")
def house_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that `kafka_house` stands on."""
    broker = started_broker(tmp_path_factory)
    try:
        yield broker
    finally:
        broker.kill9()


@pytest.fixture(scope="package")
def kafka_house(
    tmp_path_factory: pytest.TempPathFactory, house_broker: Broker, postgres_server: str
) -> Iterator[House]:
    """A running house on Kafka and PostgreSQL; silence is SILENCE_MS."""
    with empty_database(postgres_server) as url:
        yield from _running(Ground(tmp_path_factory.mktemp("on-kafka"), house_broker.bootstrap, url))


@pytest.fixture(params=["embedded", "kafka"])
def house(request: pytest.FixtureRequest) -> House:
    """The same test in both modes."""
    found: House = request.getfixturevalue(f"{request.param}_house")
    return found


def _running(ground: Ground) -> Iterator[House]:
    house = House(ground, rules(f"{SILENCE_MS}ms"))
    for profiles in house.of("profiles"):
        profiles.settings |= {"RAFTAR_PROFILES_KEY_GRACE_SECONDS": "2", "RAFTAR_PROFILES_SCRUB_SECONDS": "0"}
    asyncio.run(house.prepare())
    with closing(house):
        house.start()
        yield house
