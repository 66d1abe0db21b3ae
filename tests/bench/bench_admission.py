"""`python -m tests.bench.bench_admission`: what a touchpoint costs at the door before the log, by stage.

Prints µs a touchpoint for reading the bytes, admitting, packing (with sealing) and answering, at 1, 20 and 100 items a
request; of many rounds the fastest of each body counts, so that other work on the machine shows little. `new words`:
properties that never came before, so that nothing of them is remembered; `long way`: nothing is.
"""

import gc
import json
from collections.abc import Callable
from itertools import count, pairwise
from time import perf_counter
from typing import Any

from nacl.public import PrivateKey

from services.ingest import wire
from services.ingest.domain.admission import Result, admit_native, admit_segment
from services.ingest.domain.familiar import recognise_call, recognise_native
from services.ingest.domain.packing import pack
from services.ingest.domain.terms import Arrival, Limits, Sender
from shared.events import PUBLIC, SECRET
from shared.sealing import Sealer
from tests.bench.bench_door import call

SIZES, ROUNDS, ITEMS, PARTITIONS = (1, 20, 100), 25, 800, 16
AT_MS = 1_795_341_601_000
SITE = Sender("main", "site", PUBLIC, bytes(range(32)))
SYSTEM = Sender("main", "shop", SECRET, bytes(range(32)))
ARRIVAL = Arrival(AT_MS, AT_MS, "198.51.100.4")
LIMITS = Limits()
UNIQUE = count()
SEALER = Sealer("k1", bytes(PrivateKey(bytes(range(32))).public_key))
WIDE = {
    "category": "shoes", "brand": "Acme", "name": "Running shoe number five", "variant": "blue-44", "price": 39.8,
    "quantity": 2, "currency": "EUR", "position": 3, "coupon": "SPRING", "list_id": "related", "in_stock": True,
    "list_name": "Related products", "shipping": "express", "colour": "dark blue", "size": "44", "material": "light",
}  # fmt: skip


def page(number: int) -> dict[str, Any]:
    """A page call as a browser sends it: addresses with a campaign, a user agent, a context."""
    address = "https://shop.example/products/red-shoes"
    return {
        "type": "page", "anonymousId": f"0b6f2d0c-1a2b-4c3d-8e4f-{number % 5000:012d}", "messageId": f"ajs-{number}-a8",
        "timestamp": "2026-11-22T10:00:00.000Z", "sentAt": "2026-11-22T10:00:01.000Z", "integrations": {},
        "properties": {"path": "/products/red-shoes", "referrer": "https://search.example/", "title": "Red shoes",
                       "search": "?utm_source=mail&utm_campaign=spring", "url": f"{address}?utm_source=mail"},
        "context": {"userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0 Safari/537.36",
                    "locale": "fa-IR", "library": {"name": "analytics.js", "version": "next-1.70.0"},
                    "page": {"path": "/products/red-shoes", "title": "Red shoes", "url": address}},
    }  # fmt: skip


def native(number: int) -> dict[str, Any]:
    """A touchpoint of a back-office system with sixteen properties, about 300 bytes."""
    properties = {**WIDE, "product_id": f"sku-{number % 977}"}
    return {"id": f"tp-{number}", "kind": "product_viewed", "user_id": f"user-{number % 5000}",
            "occurred_at": "2026-11-22T10:00:00.000Z", "properties": properties}  # fmt: skip


def bodies(make: Callable[[int], dict[str, Any]], size: int) -> list[bytes]:
    """Requests of `size` items each."""
    grouped = [[make(first + i) for i in range(size)] for first in range(0, ITEMS, size)]
    values: list[Any] = grouped if make is native else [{"batch": items} for items in grouped]
    return [json.dumps(value, separators=(",", ":")).encode() for value in values]


def new_words(number: int) -> dict[str, Any]:
    """As `call`, with a property that no other has."""
    made = call(number)
    made["properties"] |= {"position": next(UNIQUE)}  # type: ignore[operator]
    return made


def admitted(envelope: wire.Envelope, is_native: bool) -> list[Result]:
    if is_native:
        known = [recognise_native(item, SYSTEM, ARRIVAL, LIMITS) for item in envelope.items]
    else:
        known = [recognise_call(None, item, SITE, ARRIVAL, LIMITS) for item in envelope.items]
    assert None not in known
    return known  # type: ignore[return-value]


def judged(envelope: wire.Envelope, is_native: bool) -> list[Result]:
    made: list[Result] = []
    for item in envelope.items:
        raw = bytes(item)
        value = wire.read_item(raw).value
        if is_native:
            made.append(admit_native(value, raw, SYSTEM, ARRIVAL, bytes, LIMITS))
        else:
            made.append(admit_segment(None, value, raw, SITE, ARRIVAL, {}, bytes, LIMITS))
    return made


def stages(body: bytes, is_native: bool, admit: Callable[[wire.Envelope, bool], list[Result]]) -> list[float]:
    """Seconds of each stage for one request."""
    times = [perf_counter()]
    envelope = wire.read_native(body) if is_native else wire.read_segment(body, is_batch=True)
    times.append(perf_counter())
    results = admit(envelope, is_native)
    times.append(perf_counter())
    pack(results, SITE, ARRIVAL, PARTITIONS, lambda fields: SEALER.seal(fields, 1))  # type: ignore[arg-type]
    times.append(perf_counter())
    _ = wire.native_answer(results, single=False) if is_native else wire.segment_answer(results)
    times.append(perf_counter())
    return [after - before for before, after in pairwise(times)]


def main() -> None:
    gc.set_threshold(50_000, 20, 100)  # as the service runs
    shapes = [
        (call, admitted),
        (new_words, admitted),
        (page, admitted),
        (native, admitted),
        (call, judged),
        (native, judged),
    ]
    for make, admit in shapes:
        for size in SIZES:
            rounds = [[stages(body, make is native, admit) for body in bodies(make, size)] for _ in range(ROUNDS)]
            best = [[min(times) for times in zip(*same_body, strict=True)] for same_body in zip(*rounds, strict=True)]
            cost = [sum(times) / ITEMS * 1e6 for times in zip(*best, strict=True)]
            names = ("read", "admit", "pack", "answer")
            shown = "  ".join(f"{name} {us:5.2f}" for name, us in zip(names, cost, strict=True))
            who = f"{admit.__name__:8} {make.__name__:9} {size:4} a request"
            print(f"{who}  {shown}  all {sum(cost):6.2f} µs a touchpoint")


if __name__ == "__main__":
    main()
