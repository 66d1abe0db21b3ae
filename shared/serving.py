"""How a service meets the network: uvicorn with its fast parts checked, bounded heads, tuned gc, a stop that drains."""

import asyncio
import gc
import signal
import socket
from dataclasses import dataclass
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.httpd import HouseApp

_log = structlog.get_logger("serving")

GC_THRESHOLDS = (50_000, 20, 100)
"""Fewer collections: suspended requests survive young ones and would trigger full ones (4x lower tail, measured)."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where and how to listen.

    `port` 0 takes a free one (it is in the log line `listening`) · `header_seconds`: a request's head must be complete
    by then · `header_bytes_max` of it · `keep_alive_seconds`: an idle connection is kept this long · `drain_seconds`:
    not ready, but still serving, after the first signal · `stop_seconds`: requests in flight may take this long then ·
    `trusted_proxies`: addresses whose X-Forwarded-For is believed ("" = none).
    """

    host: str = "127.0.0.1"
    port: int = 0
    header_seconds: float = 10.0
    header_bytes_max: int = 64 * 1024
    keep_alive_seconds: int = 65
    drain_seconds: float = 0.0
    stop_seconds: int = 5
    trusted_proxies: str = ""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's fast HTTP/1.1 protocol, which alone waits for ever for a request's head and lets it grow for ever."""

    serving = Serving()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._bound_head(0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unbound_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._bound_head(len(data))
        elif self._head_timer is not None:
            self._unbound_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", b"this is not HTTP/1.1")

    def _bound_head(self, byte_count: int) -> None:
        self._head_bytes += byte_count
        if self._head_bytes > self.serving.header_bytes_max:
            self._refuse(b"431 Request Header Fields Too Large", b"the request's headers are too large")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.serving.header_seconds, self._head_late)

    def _unbound_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(b"408 Request Timeout", b"the request's headers took too long")
        else:
            self.transport.close()

    def _refuse(self, status: bytes, message: bytes) -> None:
        if self.transport.is_closing():
            return
        body = b'{"code":"head_refused","message":"%s","detail":"%s"}' % (message, message)
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


class HouseServer(uvicorn.Server):
    """Tunes the collector when all is loaded; on the first signal says "not ready", drains, then stops in order."""

    def __init__(self, config: uvicorn.Config, app: HouseApp, serving: Serving) -> None:
        super().__init__(config)
        self._house = app
        self._serving = serving
        self._stop_asked = False
        self._stop_at: float | None = None

    @property
    def port(self) -> int:
        """The port listened on, once started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _log.info("listening", url=f"http://{self._serving.host}:{self.port}")

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
        """Not ready from the next tick on; after the drain the listener closes and requests in flight are finished."""
        self._stop_asked = True


def server(app: HouseApp, serving: Serving) -> HouseServer:
    """A server for `app`. Raises RuntimeError when the fast parts are not in use."""
    protocol = type("Http", (BoundedHttp,), {"serving": serving})
    settings: dict[str, Any] = {
        "host": serving.host,
        "port": serving.port,
        "loop": "uvloop",
        "http": protocol,
        "ws": "none",
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
    house_server = server(app, serving)

    async def run() -> None:
        if "uvloop" not in type(asyncio.get_running_loop()).__module__:
            raise RuntimeError("the event loop is not uvloop: install it, or a request costs half as much again")
        await house_server.serve()

    factory = house_server.config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
