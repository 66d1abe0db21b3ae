"""What a worker has heard of the watermark: how far silence may be decided in each profile-changes partition (§4).

A statement (q, P, vector) counts once everything before P of q is folded here; then the greatest T heard of each
touchpoints partition holds. W of q is the smallest of them, and nothing (None) until one was heard since q was
acquired.
"""

from collections import deque

from shared.checkpoint import NEVER
from shared.events import WatermarkStated

PENDING_MAX = 4_096
"""Statements kept while a partition lags; beyond that the oldest go, which makes its alerts later, never wrong."""


class Heard:
    """Watermarks of the partitions one worker folds."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._pending: dict[int, deque[tuple[int, tuple[int, ...]]]] = {}
        self._folded: dict[int, int] = {}
        self._frontiers: dict[int, list[int]] = {}

    def acquired(self, partition: int, position: int) -> None:
        """Forget what was heard of a partition: a new owner hears anew. `position`: where it reads on."""
        self._pending[partition] = deque(maxlen=PENDING_MAX)
        self._folded[partition] = position
        self._frontiers[partition] = [NEVER] * self._partitions

    def lost(self, partition: int) -> None:
        """The partition is somebody else's."""
        for of_partition in (self._pending, self._folded, self._frontiers):
            of_partition.pop(partition, None)

    def folded(self, partition: int, position: int) -> None:
        """Everything before `position` is folded and committed."""
        if partition in self._folded:
            self._folded[partition] = position
            self._take(partition)

    def hear(self, stated: WatermarkStated) -> list[int]:
        """A statement was read; returns the owned partitions whose watermark may have moved."""
        moved: list[int] = []
        if len(stated.frontiers) != self._partitions:
            return moved
        for statement in stated.statements:
            if statement.partition in self._pending:
                self._pending[statement.partition].append((statement.position, stated.frontiers))
                if self._take(statement.partition):
                    moved.append(statement.partition)
        return moved

    def watermark(self, partition: int) -> int | None:
        """W of a partition in epoch milliseconds; None while a touchpoints partition was not heard of."""
        frontiers = self._frontiers.get(partition)
        lowest = min(frontiers) if frontiers else NEVER
        return None if lowest == NEVER else lowest

    def holding_back(self, partition: int) -> int | None:
        """The touchpoints partition whose T is the smallest heard, so that W stands there; None when not owned."""
        frontiers = self._frontiers.get(partition)
        return None if frontiers is None else frontiers.index(min(frontiers))

    def _take(self, partition: int) -> bool:
        """Fold the statements whose position is reached. A later one may be reached before an earlier one."""
        waiting, folded, frontiers = self._pending[partition], self._folded[partition], self._frontiers[partition]
        reached = [vector for position, vector in waiting if position <= folded]
        if not reached:
            return False
        self._pending[partition] = deque(((p, v) for p, v in waiting if p > folded), maxlen=PENDING_MAX)
        for vector in reached:
            frontiers[:] = map(max, frontiers, vector)
        return True
