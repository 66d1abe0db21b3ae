"""Takes every connection that waits at a listener. uvloop alone takes one a turn of its loop: the busier a service, the
longer the turns, and newcomers waited for seconds while those already connected were served."""

import asyncio
import os
import socket
from collections.abc import Callable

import structlog

ACCEPTED_AT_ONCE = 256
PAUSE_SECONDS = 0.1
"""After the system refused (out of file descriptors, say): asking again at once would only turn the loop."""

_log = structlog.get_logger("serving")


class Acceptor:
    """Accepts beside the loop's own server until closed. `close` it before that server, or the port stays open."""

    def __init__(
        self, listener_fd: int, loop: asyncio.AbstractEventLoop, new_protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._listener = socket.socket(fileno=os.dup(listener_fd))
        self._listener.setblocking(False)
        self._loop, self._new_protocol = loop, new_protocol
        self._serving: set[asyncio.Task[None]] = set()
        loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more. Connections taken go on."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                _log.warning("no connection can be taken now", error=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._new_protocol, connection)
        except OSError as error:  # it left before it was served
            connection.close()
            _log.debug("a connection was gone at once", error=str(error))
