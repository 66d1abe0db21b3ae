"""A connection to one broker in our own event loop: opened, encrypted, authenticated; requests answered in order."""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.net.sasl import get_sasl_mechanism

from shared.log import kafka_wire as wire
from shared.log.kafka_security import ssl_context

CONNECT_SECONDS = 4.0
PROOF_USED = 0.8
"""A proof of who we are that holds for a while is renewed, by another connection, after this share of it."""
_LENGTH = struct.Struct(">i")
_CORRELATION_BYTES = 4


class Unreachable(Exception):
    """No connection, or not a usable one: nothing was sent over it."""


class ConnectionGone(Exception):
    """The connection ended while an answer was awaited: the broker may have done what it was asked."""


class Connection(asyncio.Protocol):
    """Made by `connect`. Answers come in the order of the requests, as Kafka promises."""

    def __init__(self) -> None:
        self.open = True
        self.retire_at = float("inf")
        """By the event loop's clock: from then on another connection should be made."""
        self._awaited: deque[tuple[int, asyncio.Future[bytes]]] = deque()
        self._received = bytearray()
        self._number, self._used_at = 0, 0.0
        self._transport: Any = None

    def ask(self, request: wire.Request, body: bytes) -> "asyncio.Future[bytes]":
        """Send a request; the answer without its header. Raises ConnectionGone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if not self.open:
            future.set_exception(ConnectionGone("closed"))
            return future
        self._number = (self._number + 1) & 0x7FFF_FFFF
        self._awaited.append((self._number, future))
        self._used_at = loop.time()
        self._transport.write(wire.frame(request, self._number, body))
        return future

    def usable(self, now: float, idle_seconds: float) -> bool:
        """Whether to send over it: open, its proof still good, and not so long idle that the broker may close it."""
        return self.open and now < self.retire_at and now - self._used_at < idle_seconds

    def close(self, why: str = "closed") -> None:
        """Whoever awaits an answer is told that the connection is gone. Idempotent."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()
        while self._awaited:
            _number, future = self._awaited.popleft()
            if not future.done():
                future.set_exception(ConnectionGone(why))

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.Protocol says."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol says."""
        received = self._received
        received += data
        at = 0
        while len(received) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(received, at)
            start, end = at + _LENGTH.size, at + _LENGTH.size + size
            if len(received) < end:
                break
            at = end
            if not self._answered(bytes(received[start:end])):
                return
        del received[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio.Protocol says."""
        self.close(f"connection lost: {exc!r}" if exc else "the broker closed the connection")

    def _answered(self, answer: bytes) -> bool:
        number = _LENGTH.unpack_from(answer)[0] if len(answer) >= _CORRELATION_BYTES else None
        if not self._awaited or self._awaited[0][0] != number:
            self.close("the broker answered what was not asked")
            return False
        _number, future = self._awaited.popleft()
        if not future.done():
            future.set_result(answer[_CORRELATION_BYTES:])
        return True


async def connect(host: str, port: int, settings: Mapping[str, Any]) -> Connection:
    """A connection that is ready for requests. `settings`: security in kafka-python's words. Raises Unreachable."""
    connection, spoken = await _opened(host, port, settings)
    lacking = wire.lacking(spoken)
    try:
        if lacking:
            raise Unreachable(
                f"{host}:{port} does not understand {', '.join(lacking)}: Raftar needs Kafka 3.7 or newer"
            )
        if str(settings.get("security_protocol", "")).startswith("SASL_"):
            async with _reaching(host, port):
                await _prove(connection, host, settings)
    except BaseException:
        connection.close()
        raise
    return connection


async def understood(host: str, port: int, settings: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Key of a request → the lowest and highest version that this broker understands. Raises Unreachable."""
    connection, spoken = await _opened(host, port, settings)
    connection.close()
    await asyncio.sleep(0)  # a closed connection is gone in the next turn of the event loop
    return spoken


async def _opened(host: str, port: int, settings: Mapping[str, Any]) -> tuple[Connection, dict[int, tuple[int, int]]]:
    connection = Connection()
    try:
        async with _reaching(host, port):
            await asyncio.get_running_loop().create_connection(
                lambda: connection, host, port, ssl=ssl_context(settings)
            )
            return connection, wire.versions(await connection.ask(wire.API_VERSIONS, b""))
    except BaseException:
        connection.close()
        raise


@asynccontextmanager
async def _reaching(host: str, port: int) -> AsyncIterator[None]:
    """Bounded in time; whatever a broker or a network can do wrong comes out as Unreachable."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            yield
    except (OSError, TimeoutError, ValueError, KafkaError, ConnectionGone, Unreachable, struct.error) as error:
        raise Unreachable(f"{host}:{port}: {str(error) or type(error).__name__}") from error


async def _prove(connection: Connection, host: str, settings: Mapping[str, Any]) -> None:
    """Say who we are, by one of the client library's SASL mechanisms."""
    name = str(settings["sasl_mechanism"])
    code, known = wire.sasl_mechanisms(await connection.ask(wire.SASL_HANDSHAKE, wire.sasl_handshake(name)))
    if code:
        raise Unreachable(f"the broker does not take SASL {name}, only {', '.join(known) or 'none'}")
    mechanism: Any = get_sasl_mechanism(name)(host=host, **settings)
    lifetime_ms = 0
    while not mechanism.is_done():
        body = wire.sasl_authenticate(mechanism.auth_bytes())
        code, message, token, lifetime_ms = wire.sasl_authenticated(await connection.ask(wire.SASL_AUTHENTICATE, body))
        if code:
            raise Unreachable(f"{for_code(code).__name__}: {message}")
        mechanism.receive(token)
    if not mechanism.is_authenticated():
        raise Unreachable(f"SASL {name} ended without a proof")
    if lifetime_ms > 0:
        connection.retire_at = asyncio.get_running_loop().time() + lifetime_ms / 1000 * PROOF_USED
