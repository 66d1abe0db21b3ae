"""Failed items taken in again, as they were sent or mended: judged like the first time, as of the time they arrived.

What a replay appends has the id it would have had, so that the client's own retry and a second replay are repeats. An
item without an id of its own gets the failure's, unless it is sent unchanged and its time tells it apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.domain.admission import admit_native, admit_segment
from services.ingest.domain.packing import failed_partition
from services.ingest.domain.terms import ROOT_PATH, Arrival, Limits, Refused, Result, Sender
from services.ingest.gathering import Request
from services.ingest.intake import Intake
from services.ingest.senders import Senders
from services.ingest.wire import Envelope
from shared.access import Key
from shared.clock import Clock
from shared.codec import encode
from shared.errors import InvalidField
from shared.events import SECRET, TouchpointFailureClosed
from shared.ids import derived_id, uuid_text
from shared.log.port import Log, Outgoing
from shared.topics import TOUCHPOINTS_FAILED

REPLAYED = "replayed"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Again:
    """One item to take in again. `native`: its shape · `edited`: it is not what was sent · times in epoch ms."""

    failed_id: bytes
    source: str
    trust: int
    native: bool
    received_at: int
    sent_at: int | None
    context: dict[str, Any]
    item: Any
    edited: bool


@dataclass(slots=True)
class Replaying:
    """Takes failed items in again and closes what was taken. Only with a key that may administer the workspace."""

    intake: Intake
    senders: Senders
    log: Log
    clock: Clock
    limits: Limits

    async def replay(self, key: Key, items: Sequence[Again]) -> list[Result]:
        """One result an item, in order. What is refused again stays open; nothing of it is appended.

        Raises Retryable: whatever of it is in the log already is recognised when it is asked for again.
        """
        return [await self._one(key, item) for item in items]

    async def _one(self, key: Key, again: Again) -> Result:
        sender = self._sender(key, again)
        arrival = Arrival(again.received_at, again.sent_at)
        request, result = self._admitted(sender, arrival, again)
        results = await self.intake.take_again(request, [result])
        if not isinstance(results[0], Refused):
            fact = TouchpointFailureClosed(key.workspace, again.failed_id, REPLAYED, self.clock.now_ms())
            partition = failed_partition(key.workspace, again.source)
            await self.log.append(TOUCHPOINTS_FAILED, [Outgoing(partition, encode(fact))])
        return results[0]

    def _sender(self, key: Key, again: Again) -> Sender:
        """Whoever sent it: the workspace's own secret and region, the item's source and trust."""
        own = self.senders.of(key)
        return Sender(
            workspace=own.workspace,
            source=again.source,
            trust=again.trust,
            leaf_secret=own.leaf_secret,
            region=own.region,
            default_currency=own.default_currency,
            history_allowed=again.trust == SECRET,
        )

    def _admitted(self, sender: Sender, arrival: Arrival, again: Again) -> tuple[Request, Result]:
        item = _with_id(again) if isinstance(again.item, dict) else again.item
        raw = _encode(item)
        request = Request(Envelope([raw], False, sent_at=again.sent_at), sender, arrival, None, again.native)

        def new_id() -> bytes:
            return derived_id("replay", sender.workspace, again.failed_id)

        try:
            if again.native:
                return request, admit_native(item, raw, sender, arrival, new_id, self.limits)
            context = again.context
            return request, admit_segment(None, item, raw, sender, arrival, context, new_id, self.limits)
        except InvalidField as error:  # bad input never raises; should it, it is refused like any other
            return request, Refused(error.code, error.field or ROOT_PATH, error.reason, raw)


def _with_id(again: Again) -> dict[str, Any]:
    name = "id" if again.native else "messageId"
    if not again.edited or again.item.get(name) not in (None, ""):
        return dict(again.item)
    return {**again.item, name: f"replay-{uuid_text(again.failed_id)}"}
