"""The demo's purchases: a slice of the CDNOW log, moved so that it ends now and some silences cross their limit soon.

`cdnow_slice.csv.gz` holds every purchase of the customers of the published 1/10 sample whose number in it is divisible
by 4, and of the 17 customers of the whole cohort whose silence crosses the default rule on the log's last day; values
are as published (Fader & Hardie), columns `customer_id, date, cds, amount_usd`.

The log knows days only. Its last day, 1998-06-30, becomes the day that ends now: a purchase of day d happens at
`now - (1998-06-30 - d) - o`, where o is the customer's own time before the end of a day, the same for all purchases of
the customer. It comes from a hash of the customer id, except for the few customers whose crossing can be brought to a
wanted instant by choosing o: distances between purchases stay as they were, so a crossing moves exactly as far as o.
"""

import csv
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from io import TextIOWrapper
from typing import Any, NamedTuple

from services.scoring.domain.conditions import Reading, all_hold
from services.scoring.domain.crossing import NEVER_MS, first_true
from services.scoring.domain.definitions import Definition
from services.scoring.domain.snapshot import Purchase, Snapshot, buying
from shared.events import SECRET
from shared.ids import DAY_MS, derived_id, uuid_text

LAST_DAY = date(1998, 6, 30)
CURRENCY = "USD"
SECOND_MS = 1000


class Bought(NamedTuple):
    """One row of the log: `days_before` the last day, the row's number in the file, money as published."""

    row: int
    days_before: int
    cds: int
    amount_usd: str


@dataclass(frozen=True, slots=True)
class Plan:
    """When everything happens. `offsets_ms`: each customer's o · `crossings`: customer → instant (epoch ms)."""

    now_ms: int
    offsets_ms: Mapping[str, int]
    crossings: Mapping[str, int]


def purchases() -> dict[str, list[Bought]]:
    """All purchases of the slice by customer, each customer's in order of time."""
    with (
        (files("services.demo") / "cdnow_slice.csv.gz").open("rb") as file,
        gzip.open(file) as unzipped,
        TextIOWrapper(unzipped, encoding="ascii") as text,
    ):
        return _by_customer(csv.DictReader(text))


def plan(bought: Mapping[str, Sequence[Bought]], now_ms: int, wanted: Sequence[int], definition: Definition) -> Plan:
    """Bring one crossing to each instant of `wanted` (epoch ms, ascending); the rest stays where hashes put it.

    Customers with most purchases come first. Fewer crossings than wanted when the rules leave fewer within reach.
    """
    offsets_ms = {customer: _hashed_offset_ms(customer) for customer in bought}
    crossings: dict[str, int] = {}
    instants = list(wanted)
    for customer in sorted(bought, key=lambda name: (-len(bought[name]), name)):
        latest = crossing(bought[customer], now_ms, 0, definition) if instants else None
        if latest is not None and 0 <= latest - instants[0] < DAY_MS:
            crossings[customer] = instants.pop(0)
            offsets_ms[customer] = latest - crossings[customer]
    return Plan(now_ms, offsets_ms, crossings)


def crossing(rows: Sequence[Bought], now_ms: int, offset_ms: int, definition: Definition) -> int | None:
    """When the silence after the last of `rows` crosses the pack's rule: epoch ms, None for never. Days are UTC."""
    pack = definition.pack
    times = [_at(row, now_ms, offset_ms) for row in rows]
    known = tuple(sorted(Purchase(at, str(n), b"", SECRET, at // DAY_MS) for n, at in enumerate(times)))
    reading = Reading(buying(Snapshot("", known), day_ms=pack.day_ms), None, definition.model)
    return first_true(lambda t: all_hold(pack.silence.when, reading, t), times[-1], times[-1] + NEVER_MS)


def touchpoints(bought: Mapping[str, Sequence[Bought]], planned: Plan) -> Iterator[dict[str, Any]]:
    """Native touchpoints of all purchases, with ids that depend on the row alone."""
    for customer, rows in bought.items():
        for row in rows:
            yield {
                "id": uuid_text(derived_id("cdnow", str(row.row))),
                "kind": "purchased",
                "channel": "store",
                "user_id": user_id(customer),
                "occurred_at": _at(row, planned.now_ms, planned.offsets_ms[customer]),
                "properties": {
                    "order_id": order_id(row),
                    "amount": row.amount_usd,
                    "currency": CURRENCY,
                    "items": row.cds,
                },
            }


def user_id(customer: str) -> str:
    """The identifier the demo gives a CDNOW customer."""
    return f"cdnow-{customer}"


def order_id(row: Bought) -> str:
    """The order id the demo gives a row of the log."""
    return f"cdnow-{row.row}"


def _at(row: Bought, now_ms: int, offset_ms: int) -> int:
    return now_ms - row.days_before * DAY_MS - offset_ms


def _hashed_offset_ms(customer: str) -> int:
    return int.from_bytes(derived_id("demo-time-of-day", customer)[:4], "big") % (DAY_MS // SECOND_MS) * SECOND_MS


def _by_customer(rows: Iterable[dict[str, str]]) -> dict[str, list[Bought]]:
    found: dict[str, list[Bought]] = {}
    for number, row in enumerate(rows, 1):
        days_before = (LAST_DAY - date.fromisoformat(row["date"])).days
        bought = Bought(number, days_before, int(row["cds"]), row["amount_usd"])
        found.setdefault(row["customer_id"], []).append(bought)
    for listed in found.values():
        listed.sort(key=lambda bought: (-bought.days_before, bought.row))
    return found
