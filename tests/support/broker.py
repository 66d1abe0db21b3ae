"""A real Kafka broker for the tests: one shared by the session, and private ones to kill."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.kafka_broker import Broker, BrokerMissingError, fetch_jars
from tests.support.required import unavailable

NewBroker = Callable[[], Broker]
"""What the `new_broker` fixture is."""


@dataclass(frozen=True, slots=True)
class ExternalBroker:
    """A broker somebody else runs (KAFKA_BOOTSTRAP_SERVERS)."""

    bootstrap: str


def started_broker(tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """A running broker on a fresh folder; the caller ends it. Skips, or fails, where it cannot be had."""
    try:
        fetch_jars()
    except BrokerMissingError as error:
        unavailable("Kafka", str(error))
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    return broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | ExternalBroker]:
    """A broker shared by the whole session: use topics and groups of your own, and leave it healthy."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield ExternalBroker(given)
        return
    shared = started_broker(tmp_path_factory)
    try:
        yield shared
    finally:
        shared.kill9()  # its data dies with it: nothing to flush


@pytest.fixture
def new_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewBroker]:
    """Makes started brokers of the test's own, to kill and freeze; each is ended with the test."""
    made: list[Broker] = []

    def make() -> Broker:
        made.append(started_broker(tmp_path_factory))
        return made[-1]

    yield make
    for private in made:
        private.kill9()
