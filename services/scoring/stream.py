"""Server-sent events: what a listener hears, as the browser standard reads it, with heartbeats and bounded patience."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog
from fastapi import Response
from starlette.types import Receive, Scope, Send

from services.scoring.tail import Gap, Listener, Said, Told
from shared.ending import ended
from shared.errors import Retryable
from shared.httpd import Life
from shared.lane import named
from shared.serving import ABORT
from shared.topics import SEGMENT_CHANGES

HEARTBEAT_SECONDS = 4.0
"""Below 5 s, after which some clients give a connection up."""
RETRY_MS = 3000
HEARTBEAT = b":\n"
"""A comment line. No blank line after it: some clients take one for an empty event."""

_log = structlog.get_logger("stream")


class Streams:
    """How many streams are open, and what became of others."""

    def __init__(self, open_max: int) -> None:
        self.open = self.opened = self.cut_off = self.fell_behind = 0
        self._open_max = open_max

    def admit(self) -> None:
        """Raises Retryable when there are too many."""
        if self.open >= self._open_max:
            raise Retryable(f"{self.open} streams are open (RAFTAR_SCORING_STREAMS_MAX)", retry_after_seconds=5)


class EventStream(Response):
    """Tells a listener's events until the client leaves, the house stops, or nobody reads.

    `allowed` is asked between events: a revoked key hears no more. `stall_seconds`: a client that takes nothing for
    so long is cut off.
    """

    def __init__(
        self, listener: Listener, life: Life, streams: Streams, allowed: Callable[[], bool], stall_seconds: float
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(status_code=200, headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._listener, self._life, self._streams = listener, life, streams
        self._allowed, self._stall_seconds = allowed, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its head to its end."""
        self._streams.open += 1
        self._streams.opened += 1
        telling = asyncio.create_task(self._tell(send))
        ends = [telling, asyncio.create_task(_left(receive)), asyncio.create_task(self._life.stopped())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.open -= 1
            self._streams.fell_behind += self._listener.fell_behind
            self._listener.close()
            await ended(ends)
        await self._end(telling, scope, send)

    async def _tell(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        async with asyncio.timeout(self._stall_seconds):
            await send(head)
            await send(_body(ready_block(self._listener.id)))
        while self._allowed():
            told = await self._listener.some(HEARTBEAT_SECONDS)
            async with asyncio.timeout(self._stall_seconds):
                await send(_body(blocks(told) or HEARTBEAT))

    async def _end(self, telling: "asyncio.Task[None]", scope: Scope, send: Send) -> None:
        error = None if telling.cancelled() else telling.exception()
        if isinstance(error, TimeoutError):
            self._streams.cut_off += 1
            _log.info("a stream was cut off: its reader takes nothing")
            scope.get(ABORT, _nothing)()
            await asyncio.sleep(0)  # the server learns that the connection is gone
            return
        if isinstance(error, Retryable):  # the client comes again by itself
            _log.warning("a stream ends", error=named(error))
        elif error is not None:
            raise error
        async with asyncio.timeout(self._stall_seconds):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def ready_block(event_id: str) -> bytes:
    """The first event: nothing happened yet, but from its id nothing is missed. Brings the pause before reconnects."""
    return f"id: {event_id}\nevent: ready\nretry: {RETRY_MS}\ndata: {{}}\n\n".encode()


def blocks(told: Sequence[Told]) -> bytes:
    """Events as the wire has them."""
    return b"".join(block(one) for one in told)


def block(told: Told) -> bytes:
    """One event as the wire has it."""
    name, data = _gap(told.what) if isinstance(told.what, Gap) else _said(told.what)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (told.id.encode(), name, data)


def _said(said: Said) -> tuple[bytes, bytes]:
    name = b"segment_change" if said.topic == SEGMENT_CHANGES else b"churn_alert"
    return name, said.body.replace(b"\r", b" ").replace(b"\n", b" ")  # line ends are only white space between tokens


def _gap(gap: Gap) -> tuple[bytes, bytes]:
    told = {"topic": gap.topic, "partition": gap.partition, "from": gap.start, "to": gap.end, "reason": gap.reason}
    return b"gap", msgspec.json.encode(told)


def _body(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    """Where there is no connection to drop (a test without a socket)."""
