"""Whoever waits at the listener is taken at once, however long a turn of the loop lasts."""

import asyncio
import socket

import pytest
import uvloop

from shared.accepting import Acceptor

WAITING = 50


class Counting(asyncio.Protocol):
    """Counts connections."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1


async def _turns_until_all_are_taken() -> int:
    class Counted(Counting):
        made = 0

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(Counted, "127.0.0.1", 0, backlog=2 * WAITING)
    address = listening.sockets[0].getsockname()
    acceptor = Acceptor(listening.sockets[0].fileno(), loop, Counted)
    clients = [socket.create_connection(address) for _ in range(WAITING)]  # all before the loop's next turn
    turns = 0
    while Counted.made < WAITING and turns < 10 * WAITING:
        turns += 1
        await asyncio.sleep(0)
    assert Counted.made == WAITING
    acceptor.close()
    acceptor.close()
    listening.close()
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    return turns


def test_many_newcomers_are_taken_in_a_few_turns() -> None:
    assert uvloop.run(_turns_until_all_are_taken()) < WAITING / 2  # uvloop alone needs one turn for each of them
