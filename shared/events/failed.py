"""Facts of the topic `touchpoints-failed`: what the door refused inside a good batch, and what became of it."""

from typing import ClassVar

from shared.events.fact import Fact
from shared.events.touchpoints import Sealed


class TouchpointFailed(Fact, frozen=True, array_like=True):
    """An item the door refused inside a good batch, with reason and path: whole and sealed, at index 0.

    Fields of the sealed map: `item`, its bytes, and what a replay needs: `native` (the shape), `trust`, `sent_at`, and
    a batch's own `context`; only `item` is always there.
    """

    NAME: ClassVar[str] = "touchpoint.failed"
    workspace: str
    source: str
    id: bytes
    received_at: int
    code: str
    path: str
    reason: str
    item: Sealed


class TouchpointFailureClosed(Fact, frozen=True, array_like=True):
    """A failed item needs nobody any more: `how` is `replayed` (the log has it) or `discarded`.

    Lies behind the item on its partition.
    """

    NAME: ClassVar[str] = "touchpoint.failure.closed"
    workspace: str
    id: bytes
    how: str
    closed_at: int
