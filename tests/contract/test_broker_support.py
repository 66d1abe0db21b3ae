"""The test broker itself: it starts, survives kill -9 with its data, and never outlives its owner."""

import socket

import pytest

from tests.support.broker import NewBroker


@pytest.mark.kafka
def test_a_killed_broker_comes_back_on_the_same_port_with_its_data(new_broker: NewBroker) -> None:
    broker = new_broker()
    first = broker.pid
    broker.kill9()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", broker.port), timeout=1)
    broker.start()
    assert broker.pid != first
    assert broker.alive()
