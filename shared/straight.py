"""The straight way of a request: whole, from the socket to whoever answers it, without a scope, a coroutine or a task.

ASGI costs a small request about as much as reading, judging and writing it. A service may name paths whose `POST`s it
takes straight (`Straight`); a request that is in any way unusual, and every other path, goes the way of ASGI.
"""

import asyncio
from collections.abc import Container
from typing import Any, Protocol

from shared.errors import OutcomeUnknown, RaftarError

Headers = list[tuple[bytes, bytes]]


class Straight(Protocol):
    """Who takes whole requests."""

    straight_paths: Container[bytes]
    """Without a query, as they stand in the request line."""
    straight_bytes_max: int
    """Of a body; larger ones go the way of ASGI."""

    def hold(self, byte_count: int) -> None:
        """So many bytes of a body have come. Raises RaftarError where no more are taken now."""

    def let_go(self, byte_count: int) -> None:
        """So many held bytes are gone."""

    def take(self, whole: "Whole") -> None:
        """Answer, now or later. Raises nothing."""

    def gone(self, whole: "Whole") -> None:
        """The client left before its request was whole."""

    def refuse(self, whole: "Whole", error: RaftarError) -> None:
        """Answer what could not be held, or is cut short."""


class Connection(Protocol):
    """What a whole request needs of the connection it came on."""

    transport: asyncio.Transport
    server_state: Any

    def answered(self, whole: "Whole") -> None:
        """Its answer is written; the next request may come."""


class _Nobody:
    """Nobody waits for a part of a request that goes straight; uvicorn wakes them all the same."""

    def set(self) -> None:
        """Nothing to do."""


class Whole:
    """One request that goes straight, and its answer; to uvicorn it looks like a cycle and a task of its own.

    `keep_alive`: the connection stays.
    """

    __slots__ = (
        "_connection", "_held", "_straight", "body", "client", "disconnected", "error", "headers",
        "keep_alive", "message_event", "path", "response_complete",
    )  # fmt: skip

    def __init__(
        self,
        path: bytes,
        headers: Headers,
        client: tuple[str, int] | None,
        keep_alive: bool,
        straight: Straight,
        connection: Connection,
    ) -> None:
        self.path, self.headers, self.client, self.keep_alive = path, headers, client, keep_alive
        self._straight, self._connection = straight, connection
        self.body = b""
        self.error: RaftarError | None = None
        self.response_complete = self.disconnected = False
        self.message_event = _NOBODY
        self._held = 0

    @property
    def response_started(self) -> bool:
        """An answer is written at once."""
        return self.response_complete

    def receive(self, part: bytes) -> None:
        """A part of the body, mostly all of it. What cannot be held is thrown away, and refused when all has come."""
        if not self.response_complete and self.hold(len(part)):
            self.body = self.body + part if self.body else part

    def hold(self, byte_count: int) -> bool:
        """Whether so many bytes more are held until the answer."""
        if self.error is not None:
            return False
        try:
            self._straight.hold(byte_count)
        except RaftarError as error:
            self.error = error
            return False
        self._held += byte_count
        return True

    def let_go(self) -> None:
        """Nothing of the body is needed any more."""
        self._straight.let_go(self._held)
        self._held = 0

    def leave(self) -> None:
        """The client is gone before it was whole."""
        if not self.response_complete:
            self.response_complete = True
            self.let_go()
            self._straight.gone(self)

    def complete(self) -> None:
        """The last byte has come."""
        if self.error is not None:
            self._straight.refuse(self, self.error)
        elif not self.response_complete:
            self._straight.take(self)

    def answer(self, head: bytes, body: bytes, close: bool = False) -> None:
        """Write the answer, unless there is one already. `head`: see `serving.head_of`."""
        if self.response_complete:
            return
        self.response_complete = True
        self.keep_alive = self.keep_alive and not close
        self.let_go()
        transport = self._connection.transport
        if not transport.is_closing():
            dates = [b"%s: %s\r\n" % pair for pair in self._connection.server_state.default_headers]
            end = b"" if self.keep_alive else b"connection: close\r\n"
            length = b"content-length: %d\r\n\r\n" % len(body)
            transport.write(b"".join((head, *dates, end, length, body)))
            if not self.keep_alive:
                transport.close()
        self._connection.answered(self)

    def cancel(self, msg: object = None) -> None:
        """The server ends and waits no longer. Answered a moment later: it is still going through all it waits for."""
        cut = OutcomeUnknown("cut short")
        asyncio.get_running_loop().call_soon(self._straight.refuse, self, cut)


_NOBODY = _Nobody()
