"""Cost of the pure fold: µs of CPU per decoded touchpoint, as a ratio to a plain dict count of the same run.

Run: python -m tests.bench.bench_fold
"""

import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from shared.events import Touchpoint
from shared.ids import day_of
from shared.profile import Profile, decode, encode, fold, merge, new
from shared.vocabulary import normalise, split_personal
from tests.builders import DAY_MS, NOON_MS, a_leaf, a_touchpoint

CUSTOMERS, EVENTS, ROUNDS = 100, 20_000, 7
MIX: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("page_viewed", 55, {"url": "https://shop.example/"}),
    ("product_viewed", 20, {"product_id": "p-1"}),
    ("searched", 8, {"results": 3}),
    ("cart_updated", 5, {"amount": 10, "currency": "EUR"}),
    ("email_opened", 6, {"message_id": "m-{}"}),
    ("purchased", 4, {"order_id": "o-{}", "amount": "19.99", "currency": "EUR"}),
    ("survey_answered", 1, {"metric": "csat", "score": 4, "response_id": "r-{}"}),
    ("ticket_opened", 1, {"ticket_id": "t-{}"}),
)


def history() -> list[tuple[int, Touchpoint]]:
    dice = random.Random(7)
    kinds = dice.choices([kind for kind, _, _ in MIX], [weight for _, weight, _ in MIX], k=EVENTS)
    samples = {kind: properties for kind, _, properties in MIX}
    found = []
    for number, kind in enumerate(kinds):
        customer = dice.randrange(CUSTOMERS)
        sent: dict[str, Any] = {k: v.format(number) if isinstance(v, str) else v for k, v in samples[kind].items()}
        at = NOON_MS + dice.randrange(60 * DAY_MS)
        found.append((customer, a_touchpoint(kind, at=at, leaf=a_leaf(str(customer)), **sent)))
    return found


def count_plainly(events: list[tuple[int, Touchpoint]]) -> None:
    counts: list[dict[tuple[str, str], int]] = [{} for _ in range(CUSTOMERS)]
    for customer, touchpoint in events:
        mine = counts[customer]
        key = (touchpoint.kind, touchpoint.channel)
        mine[key] = mine.get(key, 0) + 1


def count_with_times(events: list[tuple[int, Touchpoint]]) -> None:
    counts: list[dict[tuple[str, str], list[int]]] = [{} for _ in range(CUSTOMERS)]
    for customer, touchpoint in events:
        mine, at = counts[customer], touchpoint.occurred_at
        tally = mine.setdefault((touchpoint.kind, touchpoint.channel), [0, at, at])
        tally[0] += 1
        tally[1], tally[2] = min(tally[1], at), max(tally[2], at)
        day = mine.setdefault(("day", str(day_of(at))), [0])
        day[0] += 1


def fold_all(events: list[tuple[int, Touchpoint]]) -> list[Profile]:
    profiles = [new() for _ in range(CUSTOMERS)]
    for customer, touchpoint in events:
        fold(profiles[customer], touchpoint, "shop", 2)
    return profiles


def micros(work: Callable[[], object], times: int) -> float:
    """CPU µs of one of the `times` things `work` does."""
    begun = time.process_time()
    work()
    return (time.process_time() - begun) / times * 1e6


def main() -> None:
    events = history()
    views = [(customer, touchpoint) for customer, touchpoint in events if touchpoint.kind == "page_viewed"]
    profiles = fold_all(events)
    states = [encode(profile) for profile in profiles]
    sent = [(t.kind, {**t.properties}) for _, t in events]
    cases: dict[str, tuple[Callable[[], object], int]] = {
        "plain dict count": (lambda: count_plainly(events), EVENTS),
        "dict count with first, last and day": (lambda: count_with_times(events), EVENTS),
        "fold, mixed kinds": (lambda: fold_all(events), EVENTS),
        "fold, page views only": (lambda: fold_all(views), len(views)),
        "encode a state": (lambda: [encode(profile) for profile in profiles], CUSTOMERS),
        "decode a state": (lambda: [decode(state) for state in states], CUSTOMERS),
        "merge two states": (
            lambda: [merge(a, b) for a, b in pairwise(profiles)],
            CUSTOMERS - 1,
        ),
        "normalise": (lambda: [normalise(kind, properties) for kind, properties in sent], EVENTS),
        "part personal data": (lambda: [split_personal(kind, properties) for kind, properties in sent], EVENTS),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name in random.sample(list(cases), len(cases)):
            rounds[name].append(micros(*cases[name]))
    plain = statistics.median(rounds["plain dict count"])
    for name, times in rounds.items():
        middle = statistics.median(times)
        print(f"{name:38} {middle:8.2f} µs  [{min(times):.2f}..{max(times):.2f}]  {middle / plain:6.1f} × plain count")
    print(f"state: {statistics.median(map(len, states)):.0f} bytes after {EVENTS // CUSTOMERS} touchpoints")
    print(f"state after one page view: {len(encode(fold_all(views[:1])[views[0][0]]))} bytes")


if __name__ == "__main__":
    main()
