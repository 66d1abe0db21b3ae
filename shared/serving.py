"""How a service meets the network: uvicorn with its fast parts checked, bounded heads, tuned gc, a stop that drains."""

import asyncio
import gc
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from shared.accepting import Acceptor
from shared.clock import SystemClock
from shared.heaps import share_heaps
from shared.httpd import HouseApp
from shared.straight import Straight, Whole

_log = structlog.get_logger("serving")

GC_THRESHOLDS = (10_000, 100, 100)
"""Fewer collections of what survives: suspended requests outlive young ones and would trigger full ones (4x lower tail,
measured). A young one looks at so few objects that it holds nobody up (at 50,000 a p99 of 29 ms instead of 15)."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where and how to listen.

    `port` 0 takes a free one (the log line `listening` names it) · `header_seconds`, `header_bytes_max`: of a
    request's head · `body_seconds`: of its body, from there on · `keep_alive_seconds`: of an idle connection ·
    `drain_seconds`: not ready, but still serving, after the first signal · `stop_seconds`: requests in flight may take
    this long then · `trusted_proxies`: addresses whose X-Forwarded-For is believed ("" = none).
    """

    host: str = "127.0.0.1"
    port: int = 0
    header_seconds: float = 10.0
    header_bytes_max: int = 64 * 1024
    body_seconds: float = 30.0
    keep_alive_seconds: int = 65
    drain_seconds: float = 0.0
    stop_seconds: int = 5
    trusted_proxies: str = ""


ABORT = "raftar.abort"
"""In a request's scope: drops the connection with what is not sent yet, for a client that reads no more."""


ANSWER = "raftar.answer"
"""In a request's scope: `answer(head, body) -> bool` sends a whole answer with one write to the socket, where `send`
needs two and looks at each header. `head`: see `head_of`. False: nothing was sent, and `send` must be used."""


COMPLETE_AT = "raftar.complete_at"
"""In a request's scope: when its last byte was seen; for `waited_seconds`."""
_clock = SystemClock()


def waited_seconds(scope: Scope) -> float:
    """How long ago the last byte of the request came in; 0 where no `BoundedHttp` serves it."""
    return _clock.monotonic() - scope[COMPLETE_AT] if COMPLETE_AT in scope else 0.0


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Status line and headers for `ANSWER`, without the body's length: the same for all answers of one kind."""
    return STATUS_LINE[status] + b"".join([b"%s: %s\r\n" % pair for pair in headers])


def _answer(cycle: RequestResponseCycle, head: bytes, body: bytes) -> bool:
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
        return False
    cycle.response_started = cycle.response_complete = True
    close = b"" if cycle.keep_alive else b"connection: close\r\n"
    length = b"content-length: %d\r\n\r\n" % len(body)
    dates = [b"%s: %s\r\n" % pair for pair in cycle.default_headers]
    cycle.transport.write(b"".join((head, *dates, close, length, body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's fast HTTP/1.1 protocol, which alone waits for ever for a request and lets its head grow for ever.

    A request that came whole, as most do, costs no timer. What the application takes straight is never a request of
    ASGI's: nothing is made for it that only ASGI needs.
    """

    serving = Serving()
    straight: Straight | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._in_head, self._in_body = True, False
        self._head_bytes = 0
        self._whole: Whole | None = None
        self._timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.serving.header_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self._whole is not None and self._in_body:
            self._whole.leave()
            self.tasks.discard(self._whole)

    def on_message_begin(self) -> None:
        self._in_head = True
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._head_bytes = 0
        if self._timer is not None:
            self._stop_timer()
        if self.straight is not None and self._goes_straight(self.straight):
            keep_alive: bool = self.parser.should_keep_alive()
            self._whole = Whole(self.url, self.headers, self.client, keep_alive, self.straight, self)
            self.cycle = self._whole  # type: ignore[assignment]
            self.tasks.add(self._whole)  # type: ignore[arg-type]
        else:
            self._whole = None
            self._begin_asgi()

    def _goes_straight(self, straight: Straight) -> bool:
        """A plain POST to one of its paths, of bounded length, with nothing before it that is not answered yet."""
        if self.url not in straight.straight_paths or self.parser.get_method() != b"POST":
            return False
        before = self.cycle
        if (before is not None and not before.response_complete) or self.pipeline or self.flow.write_paused:
            return False
        if self.config.proxy_headers and any(name == b"x-forwarded-for" for name, _ in self.headers):
            return False  # a middleware reads who the client is
        if self.expect_100_continue or self.parser.should_upgrade() or self.parser.get_http_version() != "1.1":
            return False
        for name, value in self.headers:
            if name == b"content-length":
                return value.isdigit() and int(value) <= straight.straight_bytes_max
        return False

    def _begin_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
        super().on_headers_complete()
        self.scope[ANSWER] = partial(_answer, self.cycle)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        if self._whole is not None:
            self._whole.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._whole is not None:
            self._whole.complete()
        else:
            self.scope[COMPLETE_AT] = _clock.monotonic()  # type: ignore[literal-required]
            super().on_message_complete()

    def answered(self, whole: Whole) -> None:
        """As the straight way wants it."""
        self.tasks.discard(whole)
        self.on_response_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._bound_head(len(data))
        elif self._in_body:
            if self._timer is None:
                self._timer = self.loop.call_later(self.serving.body_seconds, self._body_late)
        elif self._timer is not None:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", b"invalid_http", b"this is not HTTP/1.1")

    def _bound_head(self, byte_count: int) -> None:
        self._head_bytes += byte_count
        if self._head_bytes > self.serving.header_bytes_max:
            self._refuse(b"431 Request Header Fields Too Large", b"too_large", b"the headers are too large")
        elif self._timer is None:
            self._timer = self.loop.call_later(self.serving.header_seconds, self._head_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_late(self) -> None:
        if self._head_bytes:
            self._refuse(b"408 Request Timeout", b"too_slow", b"the headers were not complete in time")
        else:
            self.transport.close()

    def _body_late(self) -> None:
        if self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", b"too_slow", b"the body was not complete in time")

    def _refuse(self, status: bytes, code: bytes, message: bytes) -> None:
        """Answer and close; the application, if it waits for the body, is told that the client is gone."""
        if self.transport.is_closing():
            return
        body = b'{"code":"%s","message":"%s","detail":"%s"}' % (code, message, message)
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\naccess-control-allow-origin: *\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)
        )
        self.transport.close()


class HouseServer(uvicorn.Server):
    """Tunes the collector when all is loaded; on the first signal says "not ready", drains, then stops in order."""

    def __init__(self, config: uvicorn.Config, app: HouseApp, serving: Serving) -> None:
        super().__init__(config)
        self._house = app
        self._serving = serving
        self._stop_asked = False
        self._stop_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._acceptors: list[Acceptor] = []

    @property
    def stop_asked(self) -> bool:
        """Whether a signal, or `stop`, asked it to end."""
        return self._stop_asked

    @property
    def port(self) -> int:
        """The port listened on, once started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stop_asked:
            self._house.life.stop()
        await super().startup(sockets)
        listeners = [listener for one in self.servers for listener in one.sockets]
        self._acceptors = [Acceptor(listener.fileno(), self._loop, self._new_protocol) for listener in listeners]
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _log.info("listening", url=f"http://{self._serving.host}:{self.port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)

    def _new_protocol(self) -> asyncio.Protocol:
        protocol: type[Any] = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=self._loop
        )
        return made

    async def on_tick(self, counter: int) -> bool:
        if self._stop_asked and self._stop_at is None:
            _log.info("stopping")
            self._house.life.stop()
            self._stop_at = asyncio.get_running_loop().time() + self._serving.drain_seconds
        if self._stop_at is not None and asyncio.get_running_loop().time() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, stop in order, exit code 0. A second SIGINT does not wait for anybody."""
        if self._stop_asked and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Not ready from the next tick on; after the drain the listener closes and requests in flight are finished.

        While it is starting, and may wait for a log or database that is away for long, it gives up at once.
        """
        self._stop_asked = True
        if not self.started and self._loop is not None:
            self._loop.call_soon_threadsafe(self._house.life.stop)


def server(app: HouseApp, serving: Serving) -> HouseServer:
    """A server for `app`. Raises RuntimeError when the fast parts are not in use."""
    protocol = type("Http", (BoundedHttp,), {"serving": serving, "straight": app.straight})
    settings: dict[str, Any] = {
        "host": serving.host,
        "port": serving.port,
        "loop": "uvloop",
        "http": protocol,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(serving.trusted_proxies),
        "forwarded_allow_ips": serving.trusted_proxies or None,
        "timeout_keep_alive": serving.keep_alive_seconds,
        "timeout_graceful_shutdown": serving.stop_seconds,
    }
    return HouseServer(uvicorn.Config(app, **settings), app, serving)


def serve(app: HouseApp, serving: Serving) -> None:
    """Run `app` until a signal, on uvloop. Exits with a message and code 1 when the port is taken."""
    share_heaps()
    house_server = server(app, serving)

    async def run() -> None:
        if "uvloop" not in type(asyncio.get_running_loop()).__module__:
            raise RuntimeError("the event loop is not uvloop: install it, or a request costs half as much again")
        await house_server.serve()

    factory = house_server.config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(run())
        except SystemExit:
            if not house_server.stop_asked:  # it did not come up, and nobody asked it to end
                raise
