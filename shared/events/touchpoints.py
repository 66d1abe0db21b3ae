"""Facts of the topic `touchpoints`: what requests brought, and commands. Ids and leaves are 16 bytes."""

from typing import Any, ClassVar

import msgspec

from shared.events.fact import Fact


class Sealed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Personal data, sealed at the door (`sealing.py`).

    `key`: name of the workspace's public key · `data_key`: the door's data key sealed to it · `box`: nonce and
    ciphertext. Opened, it is a map from touchpoint index to a map of personal fields.
    """

    key: str
    data_key: bytes
    box: bytes


class Touchpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One touchpoint inside a record.

    `id`/`day`: dedup key with the scope of (workspace, source, leaves[0]) · `leaves`: the leaf it belongs to, then
    those it ties to it · `occurred_at`: corrected for skew and clamped · `client_at`: the client's time exactly as
    sent (None: none) · `properties`: normalised per kind, personal ones removed · `name`: the event's name as sent
    when `kind` is `custom`.
    """

    id: bytes
    day: int
    kind: str
    channel: str
    leaves: tuple[bytes, ...]
    occurred_at: int
    client_at: str | None
    properties: dict[str, Any]
    context: dict[str, Any]
    name: str = ""


class TouchpointsRecorded(Fact, frozen=True, array_like=True):
    """What one sender's requests of one moment brought to one partition: a shared envelope, touchpoints in order.

    `received_at`: when the last of these requests came · `sent_at`: when all of them say they were sent; epoch ms.
    """

    NAME: ClassVar[str] = "touchpoints.recorded"
    workspace: str
    source: str
    trust: int
    received_at: int
    sent_at: int | None
    import_id: str  # "" = live; else the history import it belongs to
    touchpoints: tuple[Touchpoint, ...]
    personal: Sealed | None = None


class IdentityLinked(Fact, frozen=True, array_like=True):
    """Two leaves are tied on purpose. `alias` ties may join leaves of one rank; `operator` beats automatic."""

    NAME: ClassVar[str] = "identity.linked"
    workspace: str
    id: bytes
    a: bytes
    b: bytes
    alias: bool
    operator: bool
    occurred_at: int
    reason: str = ""


class IdentityUnlinked(Fact, frozen=True, array_like=True):
    """A tie holds no longer (an operator's decision stays until an operator links again)."""

    NAME: ClassVar[str] = "identity.unlinked"
    workspace: str
    id: bytes
    a: bytes
    b: bytes
    operator: bool
    occurred_at: int
    reason: str = ""


class ErasureRequested(Fact, frozen=True, array_like=True):
    """Erase the customer this leaf belongs to when the command is folded. Lies on the leaf's partition."""

    NAME: ClassVar[str] = "erasure.requested"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class LeafErased(Fact, frozen=True, array_like=True):
    """This leaf is erased: state gone, bodies blank, edges void, later touchpoints dropped until reinstated."""

    NAME: ClassVar[str] = "leaf.erased"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class LeafReinstated(Fact, frozen=True, array_like=True):
    """An erased leaf may be tracked again, from here on."""

    NAME: ClassVar[str] = "leaf.reinstated"
    workspace: str
    id: bytes
    leaf: bytes
    occurred_at: int


class ImportFinished(Fact, frozen=True, array_like=True):
    """No more history of this import follows on this partition. Appended to every touchpoints partition."""

    NAME: ClassVar[str] = "import.finished"
    workspace: str
    import_id: str
    occurred_at: int
