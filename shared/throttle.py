"""How fast background work may go beside live work: a share of the time, ruled by how far live is behind. Pure."""

from collections import deque
from collections.abc import Mapping

LAG_GOAL_SECONDS = 0.35
"""Up to here background work takes more and more of the time."""
LAG_STOP_SECONDS = 0.7
"""From here on it does nothing until live has caught up: live lag stays under one second."""
SHARE_MIN, SHARE_MAX, SHARE_STEP = 0.05, 0.9, 0.04
STEP_SECONDS = 0.03
"""What one piece of background work should take: live waits for it at most so long."""
PAUSE_SECONDS_MAX = 1.0
WAIT_SECONDS = 0.1
LOOKS_MAX = 1_000


def adapted(share: float, lag_seconds: float) -> float:
    """The share of the time (0..SHARE_MAX) to take next, after one of `share` and a look at live's lag.

    Additive growth while live keeps up, halved above the goal, nothing at all (0.0) from LAG_STOP_SECONDS on.
    """
    if lag_seconds >= LAG_STOP_SECONDS:
        return 0.0
    if lag_seconds > LAG_GOAL_SECONDS:
        return max(SHARE_MIN, share / 2)
    return min(SHARE_MAX, max(SHARE_MIN, share) + SHARE_STEP)


def pause_seconds(share: float, worked_seconds: float) -> float:
    """How long to rest after `worked_seconds` of work, so that work takes `share` of the time; bounded."""
    if share <= 0.0:
        return WAIT_SECONDS
    return min(PAUSE_SECONDS_MAX, worked_seconds * (1 - share) / share)


def size_next(size: int, worked_seconds: float, size_max: int) -> int:
    """How much to do in the next piece of work so that it takes about STEP_SECONDS; from 1 to `size_max`."""
    if worked_seconds > 2 * STEP_SECONDS:
        return max(1, size // 2 if worked_seconds < 6 * STEP_SECONDS else size // 6)
    if worked_seconds < STEP_SECONDS:
        return min(size_max, size * 2)
    return min(size_max, size)


class LagMeter:
    """How old the oldest record is that live has not folded, from looks at the log's ends and at live's positions.

    Ends and positions are seen at instants of one monotonic clock, so no stamp is compared with any clock. The answer
    is an upper bound, too large by one interval between looks at most; before the first look has been passed it is a
    lower bound.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[int, int]]] = deque()

    def look(self, at: float, ends: Mapping[int, int], positions: Mapping[int, int]) -> float:
        """The lag in seconds. `at`: when the ends were asked for · `ends`, `positions`: by partition."""
        self._looks.append((at, dict(ends)))
        while len(self._looks) > 1 and _passed(self._looks[1][1], positions):
            self._looks.popleft()
        if _passed(self._looks[-1][1], positions):
            return 0.0
        if len(self._looks) > LOOKS_MAX:
            del self._looks[1]  # one look less makes the answer larger at most
        return max(0.0, at - self._looks[0][0])


def _passed(ends: Mapping[int, int], positions: Mapping[int, int]) -> bool:
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())
