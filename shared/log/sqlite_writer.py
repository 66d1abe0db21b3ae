"""The writer thread of one topic's file: everything that waits joins the next transaction (group commit).

One flush serves the whole group, and one call into the event loop wakes all its callers.
"""

import asyncio
import queue
import shutil
import threading
from collections.abc import Callable, Sequence

from shared.errors import NotAccepting, Retryable
from shared.log.port import Bounds, Outgoing
from shared.log.sqlite_file import Committed, Heads, TopicFile, bounds_of

GROUP_BYTES_MAX = 8 << 20
"""A group is closed at this size, so that its first caller does not wait for all the others' bytes."""


class Append:
    """One caller's records, and the future that wakes it."""

    __slots__ = ("future", "records", "size")

    def __init__(self, future: "asyncio.Future[list[int]]", records: Sequence[Outgoing], size: int) -> None:
        self.future, self.records, self.size = future, records, size


class AskBounds:
    """A caller of `bounds`: it is answered under the lock of the next transaction."""

    __slots__ = ("future", "size")

    def __init__(self, future: "asyncio.Future[dict[int, Bounds]]") -> None:
        self.future, self.size = future, 0


Request = Append | AskBounds
Settled = Callable[[Sequence[Request], Sequence[object], Heads | None], None]
"""Called in the event loop: a group, its result or error for each request in order, and the heads after it."""


class Writer:
    """Owns the writing connection and the thread. `put` queues a request for the next transaction and never waits."""

    def __init__(
        self,
        file: TopicFile,
        loop: asyncio.AbstractEventLoop,
        settled: Settled,
        *,
        disk_reserve_bytes: int,
        wrote: Callable[[int], None],
    ) -> None:
        self._file, self.loop, self._settled = file, loop, settled
        self._disk_reserve_bytes, self._wrote = disk_reserve_bytes, wrote
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.put = self._queue.put
        self._thread = threading.Thread(target=self._run, name=f"log-writer-{file.path.stem}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Commit all that is queued, then end the thread and close its connection. Blocks."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            if not group:
                continue
            results, heads = self._write(group)
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._settled, group, results, heads)

    def _next_group(self) -> tuple[list[Request], bool]:
        """All that waits now, up to the group's size; and whether the end was met."""
        group: list[Request] = []
        size = 0
        request = self._queue.get()
        while request is not None:
            group.append(request)
            size += request.size
            if size >= GROUP_BYTES_MAX:
                return group, False
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write(self, group: Sequence[Request]) -> tuple[Sequence[object], Heads | None]:
        appends = [request for request in group if isinstance(request, Append)]
        positions: Sequence[object] = ()
        heads = None
        if appends:
            try:
                positions, heads = self._append(appends)
            except Exception as error:  # nothing may end this thread: each caller is told instead
                positions = [failure_of(error) for _ in appends]
        if len(appends) == len(group):
            return positions, heads
        bounds, following = self._bounds(heads), iter(positions)
        return [next(following) if isinstance(request, Append) else bounds for request in group], heads

    def _append(self, appends: Sequence[Append]) -> Committed:
        self._check_disk()
        committed = self._file.append([append.records for append in appends])
        self._wrote(sum(append.size for append in appends))
        return committed

    def _bounds(self, heads: Heads | None) -> dict[int, Bounds] | Exception:
        if heads is not None:
            return bounds_of(heads)
        try:
            return self._file.bounds()
        except Exception as error:  # as above
            return failure_of(error)

    def _check_disk(self) -> None:
        """Refuse before the disk is full: the database beside the log must still be able to commit."""
        if shutil.disk_usage(self._file.path.parent).free < self._disk_reserve_bytes:
            raise NotAccepting(f"less than {self._disk_reserve_bytes >> 20} MiB are free on the log's disk", 10)


def failure_of(error: Exception) -> Exception:
    """A fresh error for each caller: one shared instance would collect everybody's traceback."""
    if isinstance(error, Retryable):
        return type(error)(str(error), error.retry_after_seconds)
    return NotAccepting(f"the log could not write: {error!r}")
