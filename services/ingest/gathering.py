"""Requests of one turn of the event loop, taken in together.

Each alone would find the processor's caches cold, be sealed and encoded alone, and make records of its own that the log
must store and every reader must open. Together they cost about what one batch of them costs; each hears its own result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from services.ingest.domain.packing import pack
from services.ingest.domain.terms import Admitted, Arrival, Result, Sender
from services.ingest.senders import Senders
from services.ingest.wire import Envelope
from shared.errors import RaftarError, TooLarge, anew
from shared.log.port import Outgoing

ITEMS_A_TURN = 1024
"""So many items are admitted before other work of the event loop gets a turn."""
APPENDS_AT_ONCE = 2
"""While so many are on their way, what is admitted gathers for the next: the slower the log, the larger the appends."""


class Request(msgspec.Struct, frozen=True):
    """What one request asks. `kind`: the Segment call of its path, None: the item's own · `native`: our shape."""

    envelope: Envelope
    sender: Sender
    arrival: Arrival
    kind: str | None
    native: bool


Taken = tuple[list[Result], bool]
"""The results of a request, and whether they are in the log: False where they are not as simple as most."""


Settle = Callable[[Taken | Exception], None]
"""Hears what became of a request; raises nothing."""


class _Waiting(msgspec.Struct):
    """A request to be admitted, or to be appended with its `results`. `since`: by the loop's clock."""

    request: Request
    settle: Settle
    since: float
    results: list[Result] = []


class _Share(msgspec.Struct):
    """What may share records: of one sender, sent at one time as the sender says."""

    sender: Sender
    sent_at: int | None
    received_at: int
    accepted: list[Admitted]


class Gathering:
    """One for a door. `admit` judges the items of a request; `append` returns when the log has the records."""

    def __init__(
        self,
        admit: Callable[[Request], list[Result]],
        append: Callable[[list[Outgoing]], Awaitable[None]],
        senders: Senders,
        partitions: int,
    ) -> None:
        self._admit, self._append, self._senders, self._partitions = admit, append, senders, partitions
        self._arrived: list[_Waiting] = []
        self._admitted: list[_Waiting] = []
        self._asked = False
        self._appending: set[asyncio.Task[None]] = set()

    def waited_seconds(self) -> float:
        """How long the first waits of those that are not on their way to the log; who comes now would wait longer."""
        first = self._admitted or self._arrived
        return asyncio.get_running_loop().time() - first[0].since if first else 0.0

    def enter(self, request: Request, settle: Settle) -> None:
        """Admit the request with all others of this turn, and append what is simple (`is_simple`).

        `settle` hears Retryable when the log took nothing or nobody knows.
        """
        loop = asyncio.get_running_loop()
        self._arrived.append(_Waiting(request, settle, loop.time()))
        if not self._asked:
            self._asked = True
            loop.call_soon(self._turn)

    async def take(self, request: Request) -> Taken:
        """As `enter`, for whoever waits for it."""
        future: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self.enter(request, partial(_tell, future))
        return await future

    async def append(self, request: Request, results: list[Result]) -> None:
        """Append what was admitted already, and is simple, with the others. Raises as `enter`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Taken] = loop.create_future()
        self._admitted.append(_Waiting(request, partial(_tell, future), loop.time(), results))
        self._append_admitted()
        await future

    def _turn(self) -> None:
        """Admit what has arrived, a bounded part of it, and send it on its way."""
        count = items = 0
        for waiting in self._arrived:
            count += 1
            items += len(waiting.request.envelope.items)
            self._admit_one(waiting)
            if items >= ITEMS_A_TURN:
                break
        del self._arrived[:count]
        self._asked = bool(self._arrived)
        if self._asked:
            asyncio.get_running_loop().call_soon(self._turn)
        self._append_admitted()

    def _admit_one(self, waiting: _Waiting) -> None:
        try:
            waiting.results = self._admit(waiting.request)
        except Exception as error:  # one request's fault must not reach the others
            _fail(waiting, error)
            return
        if is_simple(waiting.results):
            self._admitted.append(waiting)
        else:
            waiting.settle((waiting.results, False))

    def _append_admitted(self) -> None:
        if self._admitted and len(self._appending) < APPENDS_AT_ONCE:
            group, self._admitted = self._admitted, []
            task = asyncio.get_running_loop().create_task(self._append_group(group))
            self._appending.add(task)
            task.add_done_callback(self._appended)

    def _appended(self, task: "asyncio.Task[None]") -> None:
        self._appending.discard(task)
        self._append_admitted()

    async def _append_group(self, group: Sequence[_Waiting]) -> None:
        try:
            await self._append(self._records(group))
        except Exception as error:
            if isinstance(error, TooLarge) and len(group) > 1:  # one of them makes a record that no log takes
                for waiting in group:
                    await self._append_group([waiting])
                return
            for waiting in group:
                _fail(waiting, error)
        else:
            for waiting in group:
                waiting.settle((waiting.results, True))

    def _records(self, group: Sequence[_Waiting]) -> list[Outgoing]:
        """Raises TooLarge."""
        records: list[Outgoing] = []
        for share in _shares(group):
            arrival = Arrival(share.received_at, share.sent_at)
            seal = self._senders.sealing(share.sender.workspace, share.received_at)
            records += pack(share.accepted, share.sender, arrival, self._partitions, seal)
        return records


def is_simple(results: Sequence[Result]) -> bool:
    """Whether all is accepted, can be deduplicated and belongs to no import: nothing but appending is left to do."""
    for result in results:  # noqa: SIM110 - a generator would double the cost of this hot line
        if type(result) is not Admitted or not result.deduplicable or result.import_id:
            return False
    return True


def _shares(group: Sequence[_Waiting]) -> list[_Share]:
    """In the order of their first touchpoints. The time of a share is that of the last request in it."""
    shares: dict[tuple[int, int | None], _Share] = {}
    for waiting in group:
        sender, arrival = waiting.request.sender, waiting.request.arrival
        share = shares.get((id(sender), arrival.sent_at))
        if share is None:
            share = shares[id(sender), arrival.sent_at] = _Share(sender, arrival.sent_at, arrival.received_at, [])
        share.received_at = max(share.received_at, arrival.received_at)
        share.accepted += waiting.results  # type: ignore[arg-type] # they are simple
    return list(shares.values())


def _fail(waiting: _Waiting, error: Exception) -> None:
    waiting.settle(anew(error) if isinstance(error, RaftarError) else error)


def _tell(future: "asyncio.Future[Taken]", outcome: Taken | Exception) -> None:
    if future.done():  # its caller was cancelled; the records may be in the log all the same
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
