"""Packing: what requests of one sender brought becomes few records, one a partition, in order and below the bound."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from services.ingest.domain.terms import Admitted, AdmittedLink, Arrival, Refused, Sender
from shared.codec import encode
from shared.errors import TooLarge
from shared.events import Sealed, TouchpointFailed, TouchpointsRecorded
from shared.ids import partition_of
from shared.log.port import RECORD_BYTES_MAX, Outgoing
from shared.topics import FAILED_PARTITIONS

FAILED_ITEM_BYTES_MAX = RECORD_BYTES_MAX // 2
_CUT = f"; only its first {FAILED_ITEM_BYTES_MAX} bytes are kept"

Seal = Callable[[dict[int, dict[str, Any]]], Sealed]


def pack(
    results: Sequence[Admitted | AdmittedLink],
    sender: Sender,
    arrival: Arrival,
    partitions: int,
    seal: Seal,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> list[Outgoing]:
    """Records for topic `touchpoints`: one TouchpointsRecorded a partition and import id, split in order where it
    would exceed `record_bytes_max`; each link a record of its own on the partition of its smaller leaf.

    `seal` gets personal fields by touchpoint index. Raises TooLarge only where one single touchpoint exceeds the bound.
    """
    groups: dict[tuple[int, str], list[Admitted]] = {}
    links: list[Outgoing] = []
    for result in results:
        admitted: Admitted | None
        if type(result) is Admitted:
            admitted = result
        else:
            assert isinstance(result, AdmittedLink)  # noqa: S101 (of two kinds)
            command = result.command
            links.append(Outgoing(partition_of(min(command.a, command.b), partitions), encode(command)))
            admitted = result.touchpoint
        if admitted is not None:
            place = partition_of(admitted.touchpoint.leaves[0], partitions), admitted.import_id
            if place in groups:
                groups[place].append(admitted)
            else:
                groups[place] = [admitted]
    records: list[Outgoing] = []
    for (partition, import_id), group in groups.items():
        values = _values(group, import_id, sender, arrival, seal, record_bytes_max)
        records.extend(Outgoing(partition, value) for value in values)
    return records + links


def _values(
    group: list[Admitted], import_id: str, sender: Sender, arrival: Arrival, seal: Seal, bytes_max: int
) -> list[bytes]:
    """The group as one record, or halved, in order, until each half fits."""
    value = encode(
        TouchpointsRecorded(
            workspace=sender.workspace,
            source=sender.source,
            trust=sender.trust,
            received_at=arrival.received_at,
            sent_at=arrival.sent_at,
            import_id=import_id,
            touchpoints=tuple([admitted.touchpoint for admitted in group]),
            personal=_sealed(group, seal),
        )
    )
    if len(value) <= bytes_max:
        return [value]
    if len(group) == 1:
        raise TooLarge(f"one touchpoint makes a record of {len(value)} bytes, more than {bytes_max}")
    half = len(group) // 2
    left = _values(group[:half], import_id, sender, arrival, seal, bytes_max)
    return left + _values(group[half:], import_id, sender, arrival, seal, bytes_max)


def _sealed(group: list[Admitted], seal: Seal) -> Sealed | None:
    personal = {index: admitted.personal for index, admitted in enumerate(group) if admitted.personal}
    return seal(personal) if personal else None


def failed_partition(workspace: str, source: str, partitions: int = FAILED_PARTITIONS) -> int:
    """The partition of `touchpoints-failed` on which everything about a source's refused items lies, in order."""
    return partition_of(f"{workspace}\0{source}".encode(), partitions)


def pack_failed(
    refused: Sequence[Refused],
    sender: Sender,
    arrival: Arrival,
    partitions: int,
    seal: Seal,
    new_id: Callable[[], bytes],
    around: Mapping[str, Any] = MappingProxyType({}),
) -> list[Outgoing]:
    """Records for topic `touchpoints-failed` (`partitions` of that topic): one TouchpointFailed an item, sealed whole
    as {0: {"item": bytes}} with what else a replay needs (`around`), on the partition of the source. An item over
    FAILED_ITEM_BYTES_MAX, which no record could hold, is cut to it and its reason says so."""
    partition = failed_partition(sender.workspace, sender.source, partitions)
    return [
        Outgoing(
            partition,
            encode(
                TouchpointFailed(
                    workspace=sender.workspace,
                    source=sender.source,
                    id=new_id(),
                    received_at=arrival.received_at,
                    code=item.code,
                    path=item.path,
                    reason=item.reason if len(item.item) <= FAILED_ITEM_BYTES_MAX else item.reason + _CUT,
                    item=seal({0: {"item": item.item[:FAILED_ITEM_BYTES_MAX], **around}}),
                )
            ),
        )
        for item in refused
    ]
