"""The one crossing finder: the first millisecond at which a predicate itself is true. There is no second formula."""

from collections.abc import Callable

NEVER_MS = 200 * 365 * 86_400_000
"""How far ahead a crossing is looked for: what does not flip within 200 years of 365 days never flips."""

_STRIDE = 16


def first_true(predicate: Callable[[int], bool], low: int, high: int, hint: int | None = None) -> int | None:
    """Smallest integer t in `low`..`high` with `predicate(t)`; None when it is false up to `high`.

    The predicate, once true, stays true up to `high`; that is the caller's promise. Whatever it does, the answer is
    either `low` or a t with `predicate(t)` true and `predicate(t - 1)` false, since only the predicate is asked.
    `hint`, a guess from any source, saves evaluations and never changes the answer.
    """
    if hint is not None and low < hint <= high and predicate(hint) and not predicate(hint - 1):
        return hint
    if predicate(low):
        return low
    false_at, true_at = _bracket(predicate, low, high, hint)
    if true_at is None:
        return None
    while true_at - false_at > 1:
        middle = (false_at + true_at) // 2
        if predicate(middle):
            true_at = middle
        else:
            false_at = middle
    return true_at


def _bracket(predicate: Callable[[int], bool], low: int, high: int, hint: int | None) -> tuple[int, int | None]:
    if hint is None or not low < hint < high:
        return low, high if predicate(high) else None
    step = 1
    if predicate(hint):
        true_at = hint
        while (probe := hint - step) > low:
            if not predicate(probe):
                return probe, true_at
            true_at, step = probe, step * _STRIDE
        return low, true_at
    false_at = hint
    while (probe := hint + step) < high:
        if predicate(probe):
            return false_at, probe
        false_at, step = probe, step * _STRIDE
    return false_at, high if predicate(high) else None
