"""The writer thread of one topic's file: everything that waits joins the next transaction (group commit).

One flush serves the whole group; whatever else is asked for meanwhile gathers in the event loop for the next one. Where
the disk flushes quickly a small group is committed in the event loop itself: beside a busy loop each statement of a
thread waits for the interpreter lock several times, and every wait costs the loop a wake-up for each thing it does
meanwhile (measured: 20 µs an append). A slow disk never holds the loop up twice in a row.
"""

import asyncio
import queue
import shutil
import threading
from collections.abc import Callable, Sequence

from shared.clock import Clock
from shared.errors import NotAccepting, Retryable, anew
from shared.log.port import Bounds, Outgoing
from shared.log.sqlite_file import Committed, Heads, TopicFile, bounds_of

GROUP_BYTES_MAX = 8 << 20
"""A group is closed at this size, so that its first caller does not wait for all the others' bytes."""
IN_LOOP_BYTES_MAX = 256 << 10
"""A larger group would hold the event loop up."""
QUICK_COMMIT_SECONDS = 0.010
PACE_SECONDS = 0.003
"""From one commit in the loop to the next: one costs as much with a record of each partition as with twenty, so what
comes within such a time goes together. A record that comes after a pause never waits."""
GROUPS_AFTER_SLOW = 16
"""After a commit in the loop that was not quick so many groups go to the thread before the disk is tried again."""


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
Written = tuple[Sequence[object], Heads | None]
Settled = Callable[[Sequence[Request], Sequence[object], Heads | None], None]
"""Called in the event loop: a group, its result or error for each request in order, and the heads after it."""


class Writer:
    """Owns the writing connection and the thread. `put` is called in the event loop and never waits."""

    def __init__(
        self,
        file: TopicFile,
        loop: asyncio.AbstractEventLoop,
        settled: Settled,
        *,
        disk_reserve_bytes: int,
        wrote: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._file, self.loop, self._settled, self._clock = file, loop, settled, clock
        self._disk_reserve_bytes, self._wrote = disk_reserve_bytes, wrote
        self._gathered: list[Request] = []
        self._committed_at = 0.0  # when the last group was committed in the loop, by the loop's clock
        self._asked = False  # a hand-over is on its way, or the thread is at a group and will ask for the next one
        self._groups: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self._in_thread = 0  # groups; with none, the connection is the loop's
        self._groups_to_thread = 0  # that go there because the disk was slow
        self._thread = threading.Thread(target=self._run, name=f"log-writer-{file.path.stem}", daemon=True)
        self._thread.start()

    def put(self, request: Request) -> None:
        """Queue a request for the next transaction: all requests of this turn of the event loop go together."""
        self._gathered.append(request)
        if not self._asked:
            self._asked = True
            self.loop.call_at(self._committed_at + PACE_SECONDS, self._hand_over)

    def hand_over_rest(self) -> None:
        """Settle all that is gathered or give it to the thread: nothing is put any more. Called before `finish`."""
        while self._gathered:
            self._hand_over()

    def finish(self) -> None:
        """Commit all that was handed over, then end the thread and close its connection. Blocks."""
        self._groups.put(None)
        self._thread.join()
        self._file.close()

    def _hand_over(self) -> None:
        """One group, of what was gathered up to its size, committed here or given to the thread."""
        gathered = self._gathered
        self._asked = bool(gathered)
        if not gathered:
            return
        size = count = 0
        for request in gathered:
            size += request.size
            count += 1
            if size >= GROUP_BYTES_MAX:
                break
        group, self._gathered = gathered[:count], gathered[count:]
        committed = self._committed_here(group) if size <= IN_LOOP_BYTES_MAX else None
        if committed is None:
            self._in_thread += 1
            self._groups.put(group)
        else:
            self._committed_at = self.loop.time()
            self._asked = bool(self._gathered)
            if self._asked:
                self.loop.call_soon(self._hand_over)
            self._settled(group, *committed)

    def _committed_here(self, group: Sequence[Request]) -> Written | None:
        """The group committed in the event loop. None: nothing was tried, and it is for the thread."""
        if self._in_thread or not any(type(request) is Append for request in group):
            return None
        if self._groups_to_thread:
            self._groups_to_thread -= 1
            return None
        if not (self._has_room() and self._file.try_begin()):  # the thread waits for the lock, or says why not
            return None
        began = self._clock.monotonic()
        written = self._write(group, begun=True)
        if self._clock.monotonic() - began > QUICK_COMMIT_SECONDS:
            self._groups_to_thread = GROUPS_AFTER_SLOW
        return written

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            results, heads = self._write(group)
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._done, group, results, heads)

    def _done(self, group: Sequence[Request], results: Sequence[object], heads: Heads | None) -> None:
        self._in_thread -= 1
        self._hand_over()  # first: its flush goes on while the callers of this group are answered
        self._settled(group, results, heads)

    def _write(self, group: Sequence[Request], begun: bool = False) -> Written:
        appends = [request for request in group if isinstance(request, Append)]
        positions: Sequence[object] = ()
        heads = None
        if appends:
            try:
                positions, heads = self._append(appends, begun)
            except Exception as error:  # nothing may end this thread: each caller is told instead
                positions = [failure_of(error) for _ in appends]
        if len(appends) == len(group):
            return positions, heads
        bounds, following = self._bounds(heads), iter(positions)
        return [next(following) if isinstance(request, Append) else bounds for request in group], heads

    def _append(self, appends: Sequence[Append], begun: bool) -> Committed:
        if not (begun or self._has_room()):
            raise NotAccepting(f"less than {self._disk_reserve_bytes >> 20} MiB are free on the log's disk", 10)
        committed = self._file.append([append.records for append in appends], begun)
        self._wrote(sum(append.size for append in appends))
        return committed

    def _bounds(self, heads: Heads | None) -> dict[int, Bounds] | Exception:
        if heads is not None:
            return bounds_of(heads)
        try:
            return self._file.bounds()
        except Exception as error:  # as above
            return failure_of(error)

    def _has_room(self) -> bool:
        """Refuse before the disk is full: the database beside the log must still be able to commit."""
        return shutil.disk_usage(self._file.path.parent).free >= self._disk_reserve_bytes


def failure_of(error: Exception) -> Exception:
    """What one caller is told."""
    return anew(error) if isinstance(error, Retryable) else NotAccepting(f"the log could not write: {error!r}")
