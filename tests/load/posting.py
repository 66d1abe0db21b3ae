"""Posting at a given rate whatever comes back, as the world does: prepared bytes over raw keep-alive connections."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

UNIQUE = b"@@@@@@@@"
"""Eight hexadecimal digits of a request's number stand here in its bytes."""
TICK_SECONDS = 0.005
CONNECTIONS_MAX = 2000
DOUBLED_SECONDS = 5.0
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Answer:
    """What the door said to one request. `status` 0: the connection broke · `sent_at`: seconds on `time.monotonic`."""

    number: int
    status: int
    retry_after: str
    sent_at: float
    seconds: float


@dataclass(slots=True)
class Offered:
    """What became of a load. `unsent`: every connection was busy when the request was due."""

    answers: list[Answer] = field(default_factory=list)
    unsent: int = 0

    def of(self, status: int) -> list[Answer]:
        """The answers with this status."""
        return [answer for answer in self.answers if answer.status == status]


def template(key: str, items: int, make: Callable[[int], dict[str, object]], path: str = "/v1/batch") -> bytes:
    """A request of `items` calls, with `UNIQUE` where its number goes."""
    authorization = base64.b64encode(f"{key}:".encode()).decode()
    body = json.dumps({"batch": [make(index) for index in range(items)]}, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Basic {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._bytes = b""
        self._waiting: asyncio.Future[tuple[int, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._settle(0, "")

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        head, separator, body = self._bytes.partition(b"\r\n\r\n")
        if separator and len(body) >= int(_field(head, b"content-length") or 0):
            self._bytes = b""
            if _field(head, b"connection") == "close" and self.transport is not None:
                self.transport.close()
            self._settle(int(head[9:12]), _field(head, b"retry-after"))

    async def connect(self, port: int) -> None:
        """Connect where there is no connection; whether it worked is seen by asking."""
        if self.transport is None:
            with suppress(OSError):
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)

    async def ask(self, request: bytes) -> tuple[int, str]:
        """Status and Retry-After of the answer. (0, "") where the connection broke, or never was."""
        if self.transport is None:
            return 0, ""
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.close()

    def _settle(self, status: int, retry_after: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result((status, retry_after))


def _field(head: bytes, name: bytes) -> str:
    _, found, rest = head.lower().partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0].decode() if found else ""


class Crowd:
    """Many connections to one door, and numbers that no request shares with another."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self.request = port, request
        self._idle: list[Connection] = []
        self._open = 0
        self._number = 0

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    async def offer(self, per_second: float, seconds: float, until_refused: bool = False) -> Offered:
        """Send so many requests a second, evenly, whether or not earlier ones are answered; then wait for the rest.

        `until_refused`: more and more of them, doubling every `DOUBLED_SECONDS`, until the first 503.
        """
        offered, posting = Offered(), set[asyncio.Task[None]]()
        began = last = time.monotonic()
        due = 0.0
        while (now := time.monotonic()) - began < seconds:
            if until_refused and not any(answer.status == 503 for answer in offered.answers[-200:]):
                per_second *= 2 ** ((now - last) / DOUBLED_SECONDS)
            else:
                until_refused = False
            due += (now - last) * per_second
            last = now
            whole = int(due)
            due -= whole
            for _ in range(whole):
                connection = self._take()
                if connection is None:
                    offered.unsent += 1
                    continue
                task = asyncio.create_task(self._post(connection, offered))
                posting.add(task)
                task.add_done_callback(posting.discard)
            await asyncio.sleep(TICK_SECONDS)
        if posting:
            await asyncio.wait(posting, timeout=PATIENCE_SECONDS)
        return offered

    async def press(self, connections: int, seconds: float) -> Offered:
        """As much as comes back: each connection sends its next request when the last was answered."""
        offered, end = Offered(), time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < end and (connection := self._take()) is not None:
                await self._post(connection, offered)

        await asyncio.gather(*(one() for _ in range(connections)))
        return offered

    def _take(self) -> Connection | None:
        if self._idle:
            return self._idle.pop()
        if self._open >= CONNECTIONS_MAX:
            return None
        self._open += 1
        return Connection()

    async def _post(self, connection: Connection, offered: Offered) -> None:
        self._number += 1
        number = self._number
        await connection.connect(self._port)
        sent_at = time.monotonic()
        status, retry_after = await connection.ask(self.request.replace(UNIQUE, b"%08x" % number))
        offered.answers.append(Answer(number, status, retry_after, sent_at, time.monotonic() - sent_at))
        self._idle.append(connection)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie; 0 for none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else 0.0
