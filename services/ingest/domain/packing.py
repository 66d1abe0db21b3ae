"""Packing: what one request brought becomes few records, one a partition, in order and below the log's bound."""

from collections.abc import Callable, Sequence
from typing import Any

from services.ingest.domain.terms import Admitted, AdmittedLink, Arrival, Refused, Sender
from shared.events import Sealed
from shared.log.port import Outgoing

Seal = Callable[[dict[int, dict[str, Any]]], Sealed]


def pack(
    results: Sequence[Admitted | AdmittedLink], sender: Sender, arrival: Arrival, partitions: int, seal: Seal
) -> list[Outgoing]:
    """Records for topic `touchpoints`: one TouchpointsRecorded a partition and import id, split in order where it
    would exceed RECORD_BYTES_MAX; each link a record of its own on the partition of its smaller leaf.

    `seal` gets personal fields by touchpoint index. Raises TooLarge only where one single touchpoint exceeds the bound.
    """
    raise NotImplementedError


def pack_failed(
    refused: Sequence[Refused],
    sender: Sender,
    arrival: Arrival,
    partitions: int,
    seal: Seal,
    new_id: Callable[[], bytes],
) -> list[Outgoing]:
    """Records for topic `touchpoints-failed` (`partitions` of that topic): one TouchpointFailed an item, sealed whole
    as {0: {"item": bytes}}, on the partition of the source."""
    raise NotImplementedError
