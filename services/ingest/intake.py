"""From one request's items to durable records: admit, seal, pack, append. Returns only when the log has all of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Raw
from msgspec.structs import replace

from services.ingest.domain.admission import admit_native, admit_segment
from services.ingest.domain.familiar import recognise_call, recognise_native
from services.ingest.domain.packing import pack, pack_failed
from services.ingest.domain.terms import ROOT_PATH, Admitted, AdmittedLink, Limits, Refused, Result
from services.ingest.gathering import Gathering, Request, Settle, is_simple
from services.ingest.imports import Imports
from services.ingest.metrics import Counts
from services.ingest.pressure import LogHealth, Patience
from services.ingest.senders import Senders
from services.ingest.wire import read_item
from shared.clock import Clock
from shared.errors import InvalidField, NotAccepting, RaftarError, Rejected
from shared.ids import derived_id
from shared.log.port import Log, Outgoing
from shared.topics import FAILED_PARTITIONS, TOUCHPOINTS, TOUCHPOINTS_FAILED

_log = structlog.get_logger("intake")

ITEMS_AT_ONCE = 128
"""After so many items of one request other requests get a turn."""
CONTEXT_BYTES_MAX = 64 * 1024
"""A batch's context up to so many bytes is kept beside each of its refused items."""
FAILED_ITEM_BYTES_MAX = 384 * 1024
"""A refused item larger than this is kept without its tail, so that it fits a record."""


@dataclass(slots=True)
class _Sorted:
    """The results of one request by what becomes of them, and the imports they belong to."""

    accepted: list[Admitted | AdmittedLink]
    refused: list[Refused]
    import_ids: set[str]


class Intake:
    """Takes requests in. One for all event routes, so that they cannot drift apart."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        senders: Senders,
        imports: Imports,
        limits: Limits,
        partitions: int,
        counts: Counts,
        health: LogHealth,
        patience: Patience,
    ) -> None:
        self._log, self._clock, self._senders, self._imports = log, clock, senders, imports
        self._limits, self._partitions = limits, partitions
        self._gathering = Gathering(self._admit, partial(self._append, TOUCHPOINTS), senders, partitions)
        self._counts, self._health, self._patience = counts, health, patience

    def waited_seconds(self) -> float:
        """How long others wait already (`Gathering.waited_seconds`)."""
        return self._gathering.waited_seconds()

    async def take(self, request: Request) -> Sequence[Result]:
        """One result an item; everything accepted is durable, everything refused inside a batch is kept, sealed.

        Raises InvalidField for a refused single call, with nothing appended; Retryable when the log took nothing or
        nobody knows.
        """
        if len(request.envelope.items) <= ITEMS_AT_ONCE:
            results, appended = await self._gathering.take(request)
        else:
            results = await self._admit_in_turns(request)
            appended = is_simple(results)
            if appended:
                await self._gathering.append(request, results)
        if appended:
            self._counts.accepted += len(results)
        else:
            await self.keep(request, results)
        return results

    def enter(self, request: Request, settle: Settle) -> None:
        """As `take`, for a request of at most ITEMS_AT_ONCE items and without a task: what is simple is appended when
        `settle` hears of it; what is not, `keep` must take further."""
        self._gathering.enter(request, settle)

    def _admit(self, request: Request) -> list[Result]:
        return self._admit_some(request, request.envelope.items)

    async def _admit_in_turns(self, request: Request) -> list[Result]:
        items, results = request.envelope.items, list[Result]()
        for start in range(0, len(items), ITEMS_AT_ONCE):
            results += self._admit_some(request, items[start : start + ITEMS_AT_ONCE])
            await asyncio.sleep(0)
        return results

    def _admit_some(self, request: Request, items: Sequence[bytes | Raw]) -> list[Result]:
        """By the short way where it knows an item; else judged."""
        sender, arrival, limits, kind = request.sender, request.arrival, self._limits, request.kind
        if request.envelope.context or not request.envelope.plain:
            return [self._judged(request, item) for item in items]
        if request.native:
            return [recognise_native(i, sender, arrival, limits) or self._judged(request, i) for i in items]
        return [recognise_call(kind, i, sender, arrival, limits) or self._judged(request, i) for i in items]

    def _judged(self, request: Request, item: bytes | Raw) -> Result:
        raw = bytes(item)
        read = read_item(raw)
        if read.unreadable:
            return Refused("invalid_json", ROOT_PATH, read.unreadable, raw)
        sender, arrival, new_id, limits = request.sender, request.arrival, self._clock.new_id, self._limits
        if request.native:
            return admit_native(read.value, raw, sender, arrival, new_id, limits)
        context = request.envelope.context
        return admit_segment(request.kind, read.value, raw, sender, arrival, context, new_id, limits)

    async def keep(self, request: Request, results: list[Result]) -> None:
        """Append the accepted and the refused. No await may come between `_sort` and `enter`: an import could close.

        A refused item's id is a hash of it, so that the retry of a whole batch keeps it once.
        """
        sender, arrival = request.sender, request.arrival
        seal = self._senders.sealing(sender.workspace, arrival.received_at)
        found = self._sort(request, results)
        if found.refused and request.envelope.single:
            raise _refusal(found.refused[0])
        self._imports.enter(sender.workspace, found.import_ids)
        try:
            if found.accepted:
                await self._append(TOUCHPOINTS, pack(found.accepted, sender, arrival, self._partitions, seal))
            if found.refused:
                refused = [_shortened(one) for one in found.refused]
                ids = (derived_id("failed", sender.workspace, sender.source, one.item) for one in refused)
                records = pack_failed(refused, sender, arrival, FAILED_PARTITIONS, seal, ids.__next__, _around(request))
                await self._append(TOUCHPOINTS_FAILED, records)
        finally:
            self._imports.leave(sender.workspace, found.import_ids)
        self._counts.accepted += len(found.accepted)

    async def take_again(self, request: Request, results: list[Result]) -> list[Result]:
        """Append what is accepted of items that were kept as failed before; what is refused is kept already.

        Raises Retryable.
        """
        found = self._sort(request, results)
        seal = self._senders.sealing(request.sender.workspace, self._clock.now_ms())
        self._imports.enter(request.sender.workspace, found.import_ids)
        try:
            if found.accepted:
                await self._append(
                    TOUCHPOINTS, pack(found.accepted, request.sender, request.arrival, self._partitions, seal)
                )
        finally:
            self._imports.leave(request.sender.workspace, found.import_ids)
        self._counts.accepted += len(found.accepted)
        return results

    def _sort(self, request: Request, results: list[Result]) -> "_Sorted":
        """What to append where, after a last look at the imports; refusals it adds are put into `results` too."""
        found = _Sorted([], [], set())
        for index, result in enumerate(results):
            touchpoint = result.touchpoint if type(result) is AdmittedLink else result
            if type(touchpoint) is Admitted and touchpoint.import_id:
                reason = self._imports.why_not(request.sender.workspace, touchpoint.import_id)
                if reason:
                    raw = bytes(request.envelope.items[index])
                    result = results[index] = Refused("import_not_open", "import_id", reason, raw)
                else:
                    found.import_ids.add(touchpoint.import_id)
            if type(touchpoint) is Admitted and not touchpoint.deduplicable:
                self._counts.not_deduplicable += 1
            if isinstance(result, Refused):
                self._counts.refused(result.code)
                found.refused.append(result)
            else:
                found.accepted.append(result)
        return found

    async def _append(self, topic: str, records: list[Outgoing]) -> None:
        number, seconds = self._patience.begin(), 0.0
        try:
            await self._log.append(topic, records)
        except RaftarError as error:
            code = str(getattr(error, "code", "stopped"))
            self._health.failed(code)
            self._counts.append_failed(code)
            _log.warning("append failed", topic=topic, code=code, reason=str(error))
            if isinstance(error, Rejected):  # our records, our fault: a 4xx would make the client drop its data
                raise NotAccepting(str(error)) from error
            raise
        finally:
            seconds = self._patience.end(number)
        self._health.worked()
        self._counts.appended(seconds)


def _around(request: Request) -> dict[str, Any]:
    """What a replay must know of the request beside an item; a context that no record could hold is left out."""
    around: dict[str, Any] = {
        "native": request.native, "trust": request.sender.trust, "sent_at": request.arrival.sent_at,
    }  # fmt: skip
    context = request.envelope.context
    if context and len(msgspec.json.encode(context)) <= CONTEXT_BYTES_MAX:
        around["context"] = context
    return around


def _refusal(refused: Refused) -> InvalidField:
    path = "" if refused.path == ROOT_PATH else refused.path
    return InvalidField(path, refused.reason, refused.code)


def _shortened(refused: Refused) -> Refused:
    if len(refused.item) <= FAILED_ITEM_BYTES_MAX:
        return refused
    reason = f"{refused.reason} (its {len(refused.item)} bytes are kept without the tail)"
    return replace(refused, item=refused.item[:FAILED_ITEM_BYTES_MAX], reason=reason)
