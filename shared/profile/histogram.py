"""Activity per day, dyadic: single days for the last 64, blocks of 8 days up to 512, blocks of 64 before that.

Blocks are aligned to multiples of their width and depend on the newest day only, so adding is exact in any order
(design research: profile as a commutative monoid). `starts` (ascending) and `counts` are parallel lists.
"""

from bisect import bisect_left
from collections.abc import Sequence

FINE_DAYS, MIDDLE_DAYS = 64, 512


def fine_from(newest: int) -> int:
    """First day that has a bin of its own when `newest` is the newest day: a multiple of 8."""
    return (newest - (FINE_DAYS - 1)) // 8 * 8


def middle_from(newest: int) -> int:
    """First day that lies in a block of 8 days when `newest` is the newest day: a multiple of 64."""
    return (newest - (MIDDLE_DAYS - 1)) // 64 * 64


def block_of(day: int, newest: int) -> int:
    """First day of the bin `day` falls into; `day` <= `newest`."""
    if day >= fine_from(newest):
        return day
    return day // 8 * 8 if day >= middle_from(newest) else day // 64 * 64


def width_of(start: int, newest: int) -> int:
    """Days covered by the bin that starts at `start`: 1, 8 or 64."""
    if start >= fine_from(newest):
        return 1
    return 8 if start >= middle_from(newest) else 64


def add(starts: list[int], counts: list[int], day: int) -> None:
    """Count one more on `day` (UTC day number), in place."""
    if starts:
        newest = starts[-1]
        if day == newest:
            counts[-1] += 1
            return
        if day < newest:
            _insert(starts, counts, day if newest - day < FINE_DAYS else block_of(day, newest))
            return
        if fine_from(day) != fine_from(newest):
            starts[:], counts[:] = merged(starts, counts, [day], [0])
            counts[-1] = 1
            return
    starts.append(day)
    counts.append(1)


def _insert(starts: list[int], counts: list[int], start: int) -> None:
    place = bisect_left(starts, start)
    if starts[place] == start:
        counts[place] += 1
    else:
        starts.insert(place, start)
        counts.insert(place, 1)


def merged(
    starts: Sequence[int], counts: Sequence[int], more_starts: Sequence[int], more_counts: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The sum of two histograms, as new lists."""
    if not starts or not more_starts:
        return [*starts, *more_starts], [*counts, *more_counts]
    newest = max(starts[-1], more_starts[-1])
    fine = fine_from(newest)
    bins: dict[int, int] = {}
    for days, numbers in ((starts, counts), (more_starts, more_counts)):
        for day, number in zip(days, numbers, strict=True):
            start = day if day >= fine else block_of(day, newest)
            bins[start] = bins.get(start, 0) + number
    ordered = sorted(bins)
    return ordered, [bins[start] for start in ordered]
