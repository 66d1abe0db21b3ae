"""The log port: what Raftar asks of a log, and the words for it.

A *position* is where one record is; `next_position` is where to read on. Positions in a partition grow,
gaps are allowed. `recorded_at` is the log's own stamp in epoch milliseconds. A record once acknowledged is
readable for ever (until the topic's retention), after any crash of any client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

RECORD_BYTES_MAX = 512 * 1024
"""The largest value `append` takes; a larger request is split by its caller, in order."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic to `ensure`. `retention_ms` None means for ever."""

    name: str
    partitions: int
    retention_ms: int | None = None
    flushed: bool = True  # False: losing the last instant in a power cut is harmless (watermarks)


class Outgoing(NamedTuple):
    """One record to append: the partition is always explicit."""

    partition: int
    value: bytes
    key: bytes = b""


class Record(NamedTuple):
    """One record read."""

    position: int
    recorded_at: int
    value: bytes
    key: bytes = b""


class Batch(NamedTuple):
    """What one `read` brought: records in order, and where to read on (gaps allowed)."""

    records: tuple[Record, ...]
    next_position: int


class Bounds(NamedTuple):
    """`earliest` readable position and `end`, the position the next append will not be before."""

    earliest: int
    end: int


class Log(Protocol):
    """Append, read from a position, bounds. Implemented by `sqlite` and `kafka`; one contract suite."""

    @property
    def appends_whole(self) -> bool:
        """Whether an append is in the log whole and in its order, or not at all; else any part of it may be."""

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create the topics that are missing. Idempotent; an existing topic with another number of
        partitions raises LogMismatch."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> list[int]:
        """Append; returns each record's position when all are durable. Per partition, list order is log order.

        Raises NotAccepting (nothing of it was written), OutcomeUnknown (any part may be in the log),
        TooLarge (a value over RECORD_BYTES_MAX; nothing was written), Rejected (unknown topic, within 5 s).
        """

    async def read(
        self,
        topic: str,
        partition: int,
        position: int,
        *,
        records_max: int = 500,
        bytes_max: int = 1 << 20,
        wait_seconds: float = 0.0,
    ) -> Batch:
        """Records from `position` on; waits up to `wait_seconds` for the first one, then returns what is there.

        At least one record is returned when one exists, whatever `bytes_max`. Raises OutOfRange, never resets, and
        Rejected for an unknown topic or partition. While the log cannot be reached, and once it is closed, it returns
        empty. Reads of one partition from different positions at once do not disturb each other.
        """

    async def release(self, topic: str, partition: int, position: int | None = None) -> None:
        """The caller stops reading this partition: forget buffers and fetches for it.

        With a `position` only what a reading that stopped there has left: who looks at some records beside a worker
        disturbs it no further.
        """

    async def bounds(self, topic: str) -> dict[int, Bounds]:
        """Bounds of every partition, asked from the log itself: `end` covers every append that was stamped
        before this call was made, as far as the log can know it (see the adapter's clock allowance). Raises
        NotAccepting when the log does not answer."""

    async def identity(self, topic: str) -> str:
        """The log's own id of this topic: another one means another log."""

    async def close(self) -> None:
        """Finish what is in flight, then free everything. Appends after this raise NotAccepting."""


class Ownership(Protocol):
    """Which partitions this worker may fold now. Kafka: a consumer group; embedded: all of them."""

    async def start(self) -> None: ...

    def assigned(self) -> frozenset[int]:
        """The partitions assigned at this moment (the same numbers for every topic of the group)."""

    def generation(self) -> int:
        """Grows with every change of the assignment: an acquire begun under an older one is void."""

    def progress(self, topic: str, positions: dict[int, int]) -> None:
        """Tell ordinary tools how far we are (best effort, never waits)."""

    async def close(self) -> None:
        """Leave the group at once, so that others take over without waiting."""
